"""The loop that every run shares, and an executor whose failures are scripted: counts are asserted, time is made up."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import pytest
from scripted import HANGS, LOST, TWICE, Act, Clock, Fake, Run, Strip, drive

from cluster.engine.outcomes import Outcome
from cluster.engine.queueing import Queue
from cluster.engine.supervision import Supervisor, TaskFailed
from cluster.following.events import TaskRetried, Waiting, WorkersUp
from cluster.jobs.stages import Task
from cluster.patience import LIMITS, Deadlines, Limits, passes
from storage.task_set import TaskSet

STRIP = Strip()
AWAY = OSError(errno.ESTALE, "Stale file handle")


def driven(
    script: Mapping[Task, Sequence[Act]],
    limits: Limits = LIMITS,
    up: Sequence[float] = (0, 0),
    strip: Strip = STRIP,
) -> tuple[Fake, Run]:
    clock = Clock()
    fake = Fake(clock, script, up)
    run = drive(fake, strip, limits, clock)
    assert sorted(run.ended) == strip.tasks(), "each once"
    return fake, run


def times_taken(fake: Fake) -> dict[Task, int]:
    """Of tasks that were given out more than once."""
    return {task: times for task, times in fake.taken.items() if times != 1}


def test_without_failures_each_task_is_given_out_once() -> None:
    fake, run = driven({})
    assert times_taken(fake) == {} and run.events == []
    assert fake.most == 2


def test_workers_that_come_and_go_are_told_of() -> None:
    """Two were announced; one is late, and none says nothing that the wait for them does not say."""
    late = Strip(blocks=30, steps=1)
    assert driven({}, up=(0, 12), strip=late)[1].events == [WorkersUp(1), WorkersUp(2)]
    assert driven({}, up=(12, 12), strip=late)[1].events == []


def test_a_lost_task_is_given_out_again() -> None:
    fake, run = driven({(1, 2): [LOST, LOST]})
    assert times_taken(fake) == {(1, 2): 3}
    assert [(event.stage_name, event.block, event.error) for event in run.events] == [
        ("draw 1", 2, "the worker died")
    ] * 2


def test_a_task_whose_worker_dies_each_time_ends_the_run() -> None:
    clock = Clock()
    fake = Fake(clock, {(1, 2): [LOST] * 9})
    with pytest.raises(TaskFailed, match="draw 1, block 2: the worker died 4 times; is there enough memory"):
        drive(fake, STRIP, clock=clock)
    assert fake.taken[1, 2] == 4


def test_a_duplicate_releases_nothing_twice() -> None:
    """Every task is told of twice, each in turn while it, its dependents or none of them are given out."""
    fake, run = driven({task: [TWICE] for task in STRIP.tasks()})
    assert times_taken(fake) == {} and run.events == []


@pytest.mark.parametrize("late", [1.5, 2.5, 3.5, 20.0])
def test_a_late_return_is_harmless(late: float) -> None:
    """Before its task is given out again, while another worker has it, and after that one is done."""
    fake, run = driven({(1, 2): [Act(error=LOST.error, lost=True, then_done=late)], (1, 1): [Act((3.0,))]})
    assert times_taken(fake) == {(1, 2): 2}
    assert len(run.told(TaskRetried)) == 1


def test_a_loss_that_is_told_twice_is_one() -> None:
    fake, run = driven({(1, 2): [Act((1.0, 1.0), LOST.error, lost=True)]})
    assert fake.taken[1, 2] <= 3 and len(run.told(TaskRetried)) <= 2


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.ECONNRESET, errno.EHOSTDOWN, errno.EBUSY],
)
def test_an_error_that_passes_is_tried_again_after_a_pause(code: int) -> None:
    fails = Act(error=OSError(code, "away"))
    fake, run = driven({(1, 2): [fails, fails]})
    assert times_taken(fake) == {(1, 2): 3}
    assert [event.error for event in run.events] == [f"[Errno {code}] away; in {pause} s" for pause in (1, 4)]


def test_others_go_on_while_one_pauses() -> None:
    fails, strip = Act(error=AWAY), Strip(blocks=20, steps=1)
    clock = Clock()
    fake = Fake(clock, {(0, 0): [fails, fails, fails]})
    run = drive(fake, strip, LIMITS, clock)
    assert run.ended[-1] == (0, 0) and len(run.ended) == 20
    assert clock.now - 1000.0 < 1 + 1 + 4 + 16 + 4, "the pauses, and nothing after them"


def test_an_error_that_does_not_pass_is_raised_after_a_few_tries() -> None:
    clock = Clock()
    fake = Fake(clock, {(0, 1): [Act(error=AWAY)] * 9})
    with pytest.raises(OSError, match="Stale file handle") as raised:
        drive(fake, STRIP, clock=clock)
    assert raised.value is AWAY
    assert fake.taken[0, 1] == LIMITS.tries == 5


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left"),
        PermissionError(errno.EACCES, "denied"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        ArithmeticError("NaN"),
        OSError("a bad checksum"),
        ValueError("wrong"),
    ],
)
def test_other_errors_are_raised_at_once(error: Exception) -> None:
    clock = Clock()
    fake = Fake(clock, {(0, 1): [Act(error=error)]})
    with pytest.raises(type(error)) as raised:
        drive(fake, STRIP, clock=clock)
    assert raised.value is error and fake.taken[0, 1] == 1
    assert not passes(error)


def test_whoever_runs_the_loop_may_mend_what_failed() -> None:
    """A task whose inputs were damaged: its makers are done again, then itself; nothing else is."""
    clock, damaged = Clock(), ValueError("inputs are damaged")
    fake = Fake(clock, {(1, 2): [Act(error=damaged)]})
    done, ended = TaskSet(), Counter[Task]()
    queue = Queue(STRIP, done)
    supervisor = Supervisor(fake, STRIP, lambda event: None, clock=clock)
    for outcome in supervisor.outcomes(queue):
        if outcome.error is not None:
            for maker in STRIP.graph.dependencies(outcome.task):
                done.discard(maker)
            queue.renew(supervisor.under_way)
            continue
        done.add(outcome.task)
        ended[outcome.task] += 1
        queue.release_after(outcome.task)
    assert done == set(STRIP.tasks())
    assert {task for task, times in ended.items() if times == 2} == {(0, 1), (0, 2), (0, 3)}
    assert fake.taken[1, 2] == 2 and max(ended.values()) == 2


# --- workers that come, go and hang ----------------------------------------------------------------------------------


def test_tasks_wait_for_workers_that_are_slow_to_start() -> None:
    fake, run = driven({}, up=(12.0, 3600.0))
    assert times_taken(fake) == {} and fake.most == 1
    assert run.told(Waiting) == []


def test_a_hung_worker_is_ended_and_its_task_given_out_again() -> None:
    fake, run = driven({(2, 1): [HANGS]})
    assert times_taken(fake) == {(2, 1): 2}
    assert fake.ended == [((2, 1), "fake:1 gave no answer for 3600 s")]  # it had not answered anything yet
    assert [event.error for event in run.told(TaskRetried)] == ["fake:1 gave no answer for 3600 s"]


def test_what_hangs_each_time_ends_the_run_and_gets_twice_as_long_each_time() -> None:
    clock = Clock()
    fake = Fake(clock, {(2, 1): [HANGS] * 9})
    with pytest.raises(
        TaskFailed, match="draw 2, block 1: workers were lost 4 times, at last: fake:4 gave no"
    ):
        drive(fake, STRIP, Limits(loading_seconds=1000.0), clock)
    assert [why.split()[-2] for _, why in fake.ended] == ["1000", "2000", "4000", "8000"]


def test_a_late_return_of_a_hung_worker_is_harmless() -> None:
    fake, _ = driven({(2, 1): [Act((), then_done=3605.5)]})
    assert times_taken(fake) == {(2, 1): 2}


def test_a_slow_task_is_no_hung_one() -> None:
    fake, _ = driven({(1, 1): [Act((590.0,))], (2, 1): [Act((11_000.0,))]})
    assert times_taken(fake) == {} and fake.ended == []


def test_deadlines_learn() -> None:
    deadlines = Deadlines(LIMITS)
    assert deadlines.seconds("draw", 0.0, "a", 0.0, 0) == 3600.0, "nothing is known"
    assert deadlines.seconds("draw", 500.0, "a", 0.0, 0) == 10_000.0, "by the plan"
    deadlines.learn("draw", "a", given=0.0, now=90.0, computing=10.0)  # loaded its model for 80 s
    assert deadlines.longest("draw") == 10.0
    assert deadlines.seconds("draw", 0.0, "a", 90.0, 0) == 600.0
    assert deadlines.seconds("draw", 0.0, "a", 50.0, 0) == 3600.0, "given before it had answered"
    assert deadlines.seconds("draw", 0.0, "b", 95.0, 0) == 3600.0, "loads its model"
    deadlines.learn("draw", "a", given=100.0, now=150.0, computing=20.0)  # waited for a disk, too
    assert deadlines.seconds("draw", 0.0, "a", 160.0, 0) == 1000.0
    assert deadlines.seconds("draw", 0.0, "a", 160.0, 2) == 4000.0
    assert deadlines.seconds("write", 0.0, "a", 160.0, 0) == 3600.0, "another kind"


# --- what is waited for ----------------------------------------------------------------------------------------------


def test_it_is_said_once_that_no_worker_is_up() -> None:
    _, run = driven({}, up=(500.0, 500.0))
    assert run.told(Waiting) == [Waiting("2 workers are not there")]


@pytest.mark.parametrize(("seconds", "said"), [(30.0, 0), (32.0, 1), (500.0, 1)])
def test_a_long_task_is_spoken_of_once(seconds: float, said: int) -> None:
    _, run = driven({(0, 1): [Act((seconds,))]}, strip=Strip(blocks=2, steps=2))
    assert len(run.told(Waiting)) == said
    assert all(event.what == "waiting for a task that runs for 31 s on fake:0" for event in run.events)


def test_tasks_that_take_as_long_as_ever_are_not_spoken_of() -> None:
    slow = {task: [Act((100.0,))] for task in STRIP.tasks()}
    _, run = driven(slow)
    assert run.told(Waiting) == [Waiting("waiting for 2 tasks that run for 30 s on fake:0")]


def test_a_pause_is_spoken_of() -> None:
    fails, strip = Act(error=AWAY), Strip(blocks=1, steps=1)
    _, run = driven({(0, 0): [fails] * 4}, strip=strip)
    assert run.told(Waiting) == [Waiting("waiting 34 s before draw 0, block 0 is tried again")]


def test_waiting_takes_few_looks() -> None:
    """The loop sleeps: it wakes to look at workers, and when there is something to say or to do."""

    class Counting(Fake):
        waits = 0

        def next(self, patience: float = inf) -> Outcome | None:
            self.waits += 1
            assert patience > 0
            return super().next(patience)

    clock = Clock()
    fake = Counting(clock, {(0, 0): [Act((1000.0,))]}, up=(0,))
    drive(fake, Strip(blocks=1, steps=1), clock=clock)
    assert fake.waits <= 1000 / LIMITS.look_seconds + 3


def test_what_is_queued_is_queued_once() -> None:
    queue = Queue(STRIP, TaskSet())
    for task in [(0, 0), (0, 1), (0, 0)]:
        queue.push(task)
    assert len(queue) == STRIP.blocks
    taken: list[Any] = [queue.pop() for _ in range(len(queue))]
    assert sorted(taken) == [(0, block) for block in range(STRIP.blocks)]
    queue.push((0, 0))
    assert queue.pop() == (0, 0)
