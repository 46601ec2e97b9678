"""The executor of this process: one task after another, and while one's output goes to the disk the next is computed.

No thread of its own, so the order of tasks is the same every time.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from cluster.executors.contract import Runs, Work
from cluster.machine import settled
from cluster.plan import Task
from cluster.tasks import Begun, Outcome

Done = TypeVar("Done")


class InProcess:
    """Runs tasks when an outcome is asked for. at_once: tasks that may be under way, one of them computing."""

    workers = 1

    def __init__(self, worker: Runs, at_once: int = 2) -> None:
        self._worker = worker
        self._at_once = at_once
        self._waiting: deque[Task] = deque()
        self._begun: deque[tuple[Task, Begun]] = deque()

    @classmethod
    def of(cls, work: Work) -> InProcess:
        """Load its model in this process."""
        return cls(settled(work.worker), work.at_once)

    def capacity(self, ready: int) -> int:
        del ready
        return self._at_once

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> Outcome:
        while self._waiting and len(self._begun) < self._at_once and self._may_go_on():
            task = self._waiting.popleft()
            self._begun.append((task, self._tried(task, partial(self._worker.begin, task))))
        task, begun = self._begun.popleft()
        return begun if isinstance(begun, Outcome) else self._tried(task, begun)

    def _may_go_on(self) -> bool:
        """Whether to compute the next task while the first of those begun waits for the disk; not of another stage.

        The tasks of some stages take long, and what was computed before them is made durable first.
        """
        if not self._begun:
            return True
        task, begun = self._begun[0]
        return not isinstance(begun, Outcome) and task[0] == self._waiting[0][0]

    def _tried(self, task: Task, do: Callable[[], Done]) -> Done | Outcome:
        """What it gives; an error as an outcome, handed to the driver, which decides."""
        try:
            return do()
        except Exception as error:
            return Outcome(task, error=error, worker=self._worker.name)

    def close(self) -> None:
        self._waiting.clear()
        self._begun.clear()
        gc.unfreeze()
