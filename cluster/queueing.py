"""Which tasks are ready, and in which order they are given out. Knows what depends on what; runs nothing."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator

from cluster.events import TaskRetried
from cluster.plan import Plan, Task
from cluster.tasks import Outcome

ATTEMPTS = 4


class TaskFailed(RuntimeError):
    """A task kept losing its worker."""


class Queue:
    """Tasks that are ready and neither done nor under way: the earliest stage first, in it the longest task first.

    Long tasks first leaves the least waiting where blocks need each other's steps (Graham 1969).
    """

    def __init__(self, plan: Plan, done: set[Task]) -> None:
        self.plan = plan
        self.done = done
        self._missing: dict[Task, int] = {}
        self._attempts: Counter[Task] = Counter()
        self._heap: list[tuple[int, int, int]] = []
        for task in _frontier(plan, done):
            self._push(task)

    def __len__(self) -> int:
        return len(self._heap)

    def pop(self) -> Task:
        stage, _, block = heapq.heappop(self._heap)
        return stage, block

    def _push(self, task: Task) -> None:
        stage, block = task
        heapq.heappush(self._heap, (stage, -self.plan.batches(task), block))

    def release_after(self, task: Task) -> None:
        """Count a done task off those that wait for it; what waits for nothing more is ready."""
        for waiting in self.plan.dependents(task):
            if waiting in self.done:
                continue
            if waiting not in self._missing:
                self._missing[waiting] = sum(
                    before not in self.done for before in self.plan.dependencies(waiting)
                )
            else:
                self._missing[waiting] -= 1
            if self._missing[waiting] == 0:
                del self._missing[waiting]
                self._push(waiting)

    def retry(self, outcome: Outcome) -> TaskRetried:
        """Queue a task again whose worker was lost; raise any other error, and a loss that repeats itself."""
        assert outcome.error is not None
        if not outcome.lost:
            raise outcome.error
        self._attempts[outcome.task] += 1
        stage, block = outcome.task
        name = self.plan.stages[stage].name
        if self._attempts[outcome.task] >= ATTEMPTS:
            raise TaskFailed(
                f"{name}, block {block}: the worker died {ATTEMPTS} times; is there enough memory?"
            )
        self._push(outcome.task)
        return TaskRetried(stage, name, block, str(outcome.error).splitlines()[0])


def _frontier(plan: Plan, done: set[Task]) -> Iterator[Task]:
    """Tasks that are not done and whose dependencies are; none lie beyond the stage after the last one begun."""
    begun = max((stage for stage, _ in done), default=-1)
    for stage in range(min(begun + 2, len(plan.stages))):
        for block in range(plan.stages[stage].tasks):
            task = (stage, block)
            if task not in done and all(before in done for before in plan.dependencies(task)):
                yield task
