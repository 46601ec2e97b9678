"""A cluster of raylets whose nodes come and go under a run: nothing stalls, every task ends once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import scripted
from scripted import Run, ScriptedWork, Strip, drive

from cluster.engine.executors.ray_actors import RayActors
from cluster.following.events import TaskRetried, Waiting
from cluster.jobs.stages import Task
from cluster.machine import OF_RAY
from cluster.patience import Limits
from cluster.spec.fields import JobSpec

pytestmark = [
    pytest.mark.ray,
    pytest.mark.soak,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]
STORE = 80 * 2**20
STRIP = Strip(blocks=10, steps=40)
LEAVES, COMES = 40, 100
"""Tasks done when a node goes, and when another comes."""


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head that runs nothing, alone."""
    import ray
    from ray.cluster_utils import Cluster

    for name, value in OF_RAY.items():
        monkeypatch.setenv(name, value)
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    ray.cloudpickle.register_pickle_by_value(scripted)
    yield cluster
    ray.cloudpickle.unregister_pickle_by_value(scripted)
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("workers", [None, 2])
def test_nodes_come_and_go(workers: int | None, cluster: Any, tmp_path: Path) -> None:
    """None at first, then two; one goes, and one comes."""
    (tmp_path / "tries").mkdir()
    spec = JobSpec(
        prompt="-",
        width=64,
        height=64,
        device="cpu",
        workers=workers,
        executor="ray",
        threads=1,
        out=tmp_path,
    )
    work = ScriptedWork(spec, tmp_path / "tries", task_seconds=0.1)
    nodes: list[Any] = []
    run = Run()

    class Nodes(list[Task]):
        """The tasks that ended; changes the cluster when so many have."""

        def append(self, task: Task) -> None:
            super().append(task)
            if len(self) == LEAVES:
                cluster.remove_node(nodes.pop(), allow_graceful=False)
            if len(self) == COMES:
                assert len(executor._up) == 1
                nodes.append(cluster.add_node(num_cpus=1, object_store_memory=STORE))

    class Events(list[Any]):
        def append(self, event: Any) -> None:
            super().append(event)
            if isinstance(event, Waiting) and not nodes:
                nodes.extend(cluster.add_node(num_cpus=1, object_store_memory=STORE) for _ in range(2))

    run = Run(Nodes(), Events())
    with closing(RayActors(work)) as executor:
        drive(executor, STRIP, Limits(say_seconds=2.0, look_seconds=0.5), run=run)
        assert len(executor._up) == 2
        if workers is not None:
            assert executor.workers == workers  # else Ray may still count the node that went
    assert sorted(run.ended) == STRIP.tasks()
    asked = "1 CPU" if workers is None else "2 x 1 CPU"
    assert run.events[0] == Waiting(f"no worker is up: Ray is asked for {asked}, the cluster has 0")
    lost = run.told(TaskRetried)
    assert 1 <= len(lost) <= 2 * 2, "what the workers of one node had"
    done_again = {task for task, times in work.tries().items() if times > 1}
    assert done_again <= {(event.stage, event.block) for event in lost}
