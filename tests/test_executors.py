"""What holds of every executor of the table, by a worker that fails as a script says; of Ray's, if it is lost, too."""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from contextlib import closing
from math import inf
from pathlib import Path
from typing import Any

import pytest
from scripted import Run, ScriptedWork, Strip, drive

from cluster.engine.executors import EXECUTORS, make
from cluster.engine.outcomes import Outcome
from cluster.following.events import TaskRetried
from cluster.jobs.stages import Task
from cluster.patience import Limits
from cluster.spec.fields import JobSpec

STRIP = Strip(blocks=3, steps=3)
SOON = Limits(first_pause_seconds=0.01, growth=2.0, look_seconds=0.1)
AWAY = OSError(errno.EIO, "Input/output error", "state")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
OF_RAY = {"ray": pytest.mark.ray}
every_executor = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=OF_RAY.get(name, ())) for name in EXECUTORS]
)


@pytest.fixture(scope="module")
def session() -> Any:
    """One Ray for all that need it. Its workers are sent what is scripted: they do not see this folder."""
    import ray
    import scripted

    from cluster.engine.executors.ray_actors import connect

    connect(2)
    ray.cloudpickle.register_pickle_by_value(scripted)
    yield
    ray.cloudpickle.unregister_pickle_by_value(scripted)
    ray.shutdown()


@pytest.fixture
def work(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if name == "ray":
        request.getfixturevalue("session")

    def made(
        script: Mapping[Task, Sequence[Exception | str]], workers: int = 1, **fields: Any
    ) -> ScriptedWork:
        spec = JobSpec(
            prompt="-",
            width=64,
            height=64,
            device="cpu",
            workers=workers,
            executor=name,
            threads=1,
            out=tmp_path / "out",
        )
        (tmp_path / "tries").mkdir()
        return ScriptedWork(spec, tmp_path / "tries", script, **fields)

    return made


def driven(work: ScriptedWork, limits: Limits = SOON, run: Run | None = None) -> Run:
    with closing(make(work)) as executor:
        return drive(executor, STRIP, limits, run=run)


def done_again(work: ScriptedWork) -> dict[Task, int]:
    return {task: times for task, times in work.tries().items() if times != 1}


@every_executor
def test_each_task_is_done_once_and_an_error_that_passes_costs_one_try(name: str, work: Any) -> None:
    """By a worker that is slow to start."""
    scripted = work({(1, 1): [AWAY], (2, 0): [AWAY, AWAY]}, loading=0.3)
    run = driven(scripted)
    assert sorted(run.ended) == STRIP.tasks()
    assert done_again(scripted) == {(1, 1): 2, (2, 0): 3}
    told = "[Errno 5] Input/output error: 'state'; in 0.01 s"
    assert [(event.stage, event.block) for event in run.told(TaskRetried)] == [(1, 1), (2, 0), (2, 0)]
    assert run.events[0].error == told


@every_executor
def test_what_fails_always_is_raised_as_itself(name: str, work: Any) -> None:
    scripted, run = work({(1, 1): [ArithmeticError("NaN in block 1")] * 9}), Run()
    with pytest.raises(ArithmeticError, match="NaN in block 1"):
        driven(scripted, run=run)
    assert scripted.tries()[1, 1] == 1
    assert (1, 1) not in run.ended and (2, 1) not in run.ended


@pytest.mark.parametrize("name", ["in-process"])
def test_in_process_nothing_can_be_ended(name: str, work: Any) -> None:
    with closing(make(work({}))) as executor:
        executor.submit((0, 0))
        assert executor.look().running == {} and executor.look().lack == ""
        executor.give_up((0, 0), RuntimeError("late"))
        outcome = executor.next()
        assert outcome is not None and outcome.task == (0, 0)
        assert executor.next(0.001) is None, "with nothing under way it waits"


@pytest.mark.ray
@pytest.mark.parametrize("name", ["ray"])
def test_workers_that_die_as_they_start_end_the_run_with_rays_reason(name: str, work: Any) -> None:
    import ray

    from cluster.engine.executors.ray_actors import STARTS, RayActors

    killed: list[Any] = []

    class Doomed(RayActors):
        def next(self, patience: float = inf) -> Outcome | None:
            for member in self._waking.values():
                if member not in killed:
                    killed.append(member)
                    ray.kill(member.handle)
            return super().next(patience)

    with (
        closing(Doomed(work({}), look_seconds=0.05)) as executor,
        pytest.raises(ray.exceptions.RayActorError),
    ):
        drive(executor, STRIP, SOON)
    assert len(killed) == STARTS


@pytest.mark.ray
@pytest.mark.parametrize("name", ["ray"])
def test_lost_and_hung_workers_are_replaced(name: str, work: Any) -> None:
    """Two tasks are with the worker: the other is lost with it, and done again."""
    scripted = work({(1, 0): ["dies"], (2, 1): ["hangs"]})
    hasty = Limits(least_seconds=3.0, loading_seconds=60.0, look_seconds=0.1)
    run = driven(scripted, hasty)
    assert sorted(run.ended) == STRIP.tasks()
    tries = scripted.tries()
    assert tries[1, 0] == tries[2, 1] == 2
    assert max(tries.values()) == 2
    errors = [event.error for event in run.told(TaskRetried)]
    assert any("died" in error for error in errors)
    assert any("gave no answer for" in error for error in errors)
    assert len(errors) <= 4, "no more than two tasks of each worker"


@pytest.mark.ray
@pytest.mark.parametrize("name", ["ray"])
def test_workers_that_died_idle_cost_one_try(name: str, work: Any) -> None:
    """All go at once, as with a node: whoever has nothing to do is asked again before it is given a task."""
    import ray

    from cluster.engine.executors.ray_actors import RayActors

    class Ended(list[Task]):
        def append(self, task: Task) -> None:
            super().append(task)
            if len(self) == 3:
                for member in executor._members:
                    ray.kill(member.handle)

    scripted, run, strip = work({}, workers=2), Run(Ended()), Strip(blocks=1, steps=6)
    with closing(RayActors(scripted, look_seconds=0.1)) as executor:
        while len(executor._up) < 2:
            assert executor.next(1.0) is None
        drive(executor, strip, Limits(attempts=2), run=run)
    assert run.ended == strip.tasks()
    assert len(run.told(TaskRetried)) == 1
