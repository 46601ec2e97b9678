"""The loop of a batch over an executor whose failures are scripted; and what a large request leaves under way."""

from __future__ import annotations

import errno
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from scripted import DONE, HANGS, LOST, TWICE, Act, Clock, Fake

from cluster.datasets.counting import RequestCounts
from cluster.datasets.giants import GiantTasks
from cluster.datasets.names import DRAW, WRITE
from cluster.datasets.run import BatchTasks, LeftOfBatch, _loop
from cluster.datasets.tasks import ASSEMBLE, GiantTask
from cluster.engine.outcomes import Outcome
from cluster.engine.supervision import Supervisor, TaskFailed
from cluster.following.events import Event, TaskRetried
from cluster.jobs.stages import Task
from cluster.patience import Limits

GROUPS = [(0, 0), (0, 1), (1, 0)]
SHARDS = [(0, ASSEMBLE), (1, ASSEMBLE)]
AWAY = Act(error=OSError(errno.ESTALE, "Stale file handle"))


@dataclass
class Batch:
    """Two shards of two groups and of one. done: tasks in order, and their kinds."""

    script: Mapping[Task, Sequence[Act]]
    up: Sequence[float] = (0, 0)
    done: list[tuple[Task, str]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.fake = Fake(self.clock, self.script, self.up)
        self.left = LeftOfBatch([], deque(GROUPS), Counter({0: 2, 1: 1}), {}, RequestCounts())

    def drawn(self) -> list[Task]:
        """The groups that their workers died of each time."""

        def done(outcome: Outcome, name: str) -> None:
            self.done.append((outcome.task, name))

        supervisor = Supervisor(self.fake, BatchTasks(0.0), self.events.append, clock=self.clock)
        return _loop(self.left, self.left.draws, supervisor, done)


@pytest.mark.parametrize(
    ("script", "again"),
    [
        ({}, {}),
        ({task: [TWICE] for task in GROUPS + SHARDS}, {}),
        ({(0, 1): [LOST, LOST], (1, ASSEMBLE): [LOST]}, {(0, 1): 3, (1, ASSEMBLE): 2}),
        ({(0, 1): [AWAY], (0, ASSEMBLE): [AWAY, AWAY]}, {(0, 1): 2, (0, ASSEMBLE): 3}),
        ({(1, 0): [HANGS], (0, ASSEMBLE): [HANGS]}, {(1, 0): 2, (0, ASSEMBLE): 2}),
        ({(0, 0): [Act(error=LOST.error, lost=True, then_done=2.5)]}, {(0, 0): 2}),
    ],
    ids=["no failures", "duplicates", "lost", "errors that pass", "hung", "late"],
)
def test_each_group_is_drawn_and_each_shard_put_together_once(
    script: Mapping[Task, Sequence[Act]], again: dict[Task, int]
) -> None:
    batch = Batch(script)
    assert batch.drawn() == []
    tasks = [task for task, _ in batch.done]
    assert sorted(tasks) == sorted(GROUPS + SHARDS)
    assert tasks.index((0, ASSEMBLE)) > max(tasks.index((0, 0)), tasks.index((0, 1)))
    assert tasks.index((1, ASSEMBLE)) > tasks.index((1, 0))
    assert {name for task, name in batch.done if task in SHARDS} == {WRITE}
    assert {name for task, name in batch.done if task in GROUPS} == {DRAW}
    assert {task: times for task, times in batch.fake.taken.items() if times > 1} == again
    retried = [event for event in batch.events if isinstance(event, TaskRetried)]
    assert len(retried) == sum(again.values()) - len(again)
    assert not batch.left.waiting


def test_a_group_that_is_lost_each_time_is_set_aside_and_others_go_on() -> None:
    batch = Batch({(0, 0): [LOST] * 9}, up=(0,))
    assert batch.drawn() == [(0, 0)]
    assert [task for task, _ in batch.done] == [(0, 1), (1, 0), (1, ASSEMBLE)], "a lost one goes last"
    assert batch.fake.taken[0, 0] == 4 and batch.left.waiting == {0: 1}


def test_a_shard_that_is_lost_each_time_ends_the_batch() -> None:
    batch = Batch({(1, ASSEMBLE): [LOST] * 9})
    with pytest.raises(TaskFailed, match="shards, shard 1: the worker died 4 times"):
        batch.drawn()
    assert [event for event in batch.events if isinstance(event, TaskRetried)] == batch.events
    assert {(event.stage_name, event.block) for event in batch.events} == {(WRITE, 1)}


def test_other_errors_end_the_batch_at_once() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    batch = Batch({(0, 1): [Act(error=full)]})
    with pytest.raises(OSError, match="No space left") as raised:
        batch.drawn()
    assert raised.value is full and batch.fake.taken[0, 1] == 1


# --- large requests --------------------------------------------------------------------------------------------------


def giant_of(script: Mapping[Task, Sequence[Act]]) -> tuple[GiantTasks, Fake]:
    fake = Fake(Clock(), script)
    return GiantTasks(fake, (7, 3), Limits(least_seconds=100.0)), fake


def test_tasks_of_a_large_request_come_back_as_the_tasks_of_its_job() -> None:
    tasks, _ = giant_of({})
    tasks.submit((2, 5))
    assert tasks.next(0.5) is None
    outcome: Any = tasks.next()
    assert outcome.task == (2, 5) and type(outcome.task) is tuple
    assert isinstance(GiantTask.of((2, 5), (7, 3), False), tuple)
    assert tasks.worker == "fake:0"


def test_what_a_failed_large_request_left_under_way_is_waited_for() -> None:
    tasks, fake = giant_of({(0, 0): [Act((50.0,))], (0, 1): [LOST]})
    for task in [(0, 0), (0, 1)]:
        tasks.submit(task)
    tasks.drain(fake.clock)
    assert tasks.under_way == set() and fake.ended == []
    assert fake.clock.now == 1050.0


def test_but_not_for_ever() -> None:
    tasks, fake = giant_of({(0, 0): [HANGS], (0, 1): [DONE]})
    for task in [(0, 0), (0, 1)]:
        tasks.submit(task)
    tasks.drain(fake.clock)
    assert tasks.under_way == set() and [task for task, _ in fake.ended] == [(0, 0)]
    assert 1100.0 < fake.clock.now < 1110.0
