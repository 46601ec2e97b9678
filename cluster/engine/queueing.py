"""Which tasks are ready, and in which order they are given out. Knows what depends on what; runs nothing."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Container, Iterable, Iterator
from typing import Protocol

from cluster.jobs.stages import StageGraph, Task
from storage.task_set import TaskSet


class Planned(Protocol):
    """Tasks, which wait for which, and how long they are, as a plan has them."""

    @property
    def graph(self) -> StageGraph: ...

    def batches(self, task: Task) -> int:
        """How long it is, beside others of its stage."""


class Queue:
    """Tasks that are ready and neither done nor under way: the earliest stage first, in it the longest task first.

    Long tasks first leaves the least waiting where blocks need each other's steps (Graham 1969).
    """

    def __init__(self, plan: Planned, done: TaskSet) -> None:
        self.plan = plan
        self.done = done
        self.renew(under_way=())

    def renew(self, under_way: Container[Task]) -> None:
        """Begin again from the tasks that are done, of which some were forgotten.

        under_way: those that are given out, which are not here.
        """
        self._missing: dict[Task, int] = {}
        self._heap: list[tuple[int, int, int]] = []
        self._ready: set[Task] = set()
        for task in _frontier(self.plan.graph, self.done):
            if task not in under_way:
                self.push(task)

    def __len__(self) -> int:
        return len(self._heap)

    def pop(self) -> Task | None:
        """The next to give out; None where that was done meanwhile, by a worker that had it already."""
        stage, _, block = heapq.heappop(self._heap)
        task = stage, block
        self._ready.remove(task)
        return None if task in self.done else task

    def push(self, task: Task) -> None:
        """A task that is ready, perhaps once more; nothing happens where it is here already."""
        if task in self._ready:
            return
        self._ready.add(task)
        stage, block = task
        heapq.heappush(self._heap, (stage, -self.plan.batches(task), block))

    def release_after(self, task: Task) -> None:
        """Count a done task off those that wait for it; what waits for nothing more is ready."""
        for waiting in self.plan.graph.dependents(task):
            if waiting in self.done:
                continue
            if waiting not in self._missing:
                self._missing[waiting] = sum(
                    before not in self.done for before in self.plan.graph.dependencies(waiting)
                )
            else:
                self._missing[waiting] -= 1
            if self._missing[waiting] == 0:
                del self._missing[waiting]
                self.push(waiting)


def _frontier(graph: StageGraph, done: TaskSet) -> Iterator[Task]:
    """Tasks that are not done and whose dependencies are. Stages whose inputs no task has begun are not looked at."""
    for index, stage in enumerate(graph.stages):
        if done.count(index) == stage.tasks or not all(done.count(before) for before in graph.before(index)):
            continue
        for block in range(stage.tasks):
            task = (index, block)
            if task not in done and all(before in done for before in graph.dependencies(task)):
                yield task


class Line:
    """Tasks that wait for nothing: the first goes first, and one that is given out again goes last."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._tasks = deque(tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def pop(self) -> Task:
        return self._tasks.popleft()

    def push(self, task: Task) -> None:
        self._tasks.append(task)

    def push_first(self, task: Task) -> None:
        """Before all that wait."""
        self._tasks.appendleft(task)
