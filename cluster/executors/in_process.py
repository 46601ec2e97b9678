"""The slow, obvious executor: one task after another, here."""

from __future__ import annotations

from collections import deque

from cluster.executors.contract import Runs, Work
from cluster.plan import Task
from cluster.tasks import Outcome


class InProcess:
    """Runs each task when its outcome is asked for."""

    workers = 1

    def __init__(self, worker: Runs) -> None:
        self._worker = worker
        self._waiting: deque[Task] = deque()

    @classmethod
    def of(cls, work: Work) -> InProcess:
        """Load its model in this process."""
        return cls(work.worker())

    def capacity(self, ready: int) -> int:
        del ready
        return 1

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self) -> Outcome:
        task = self._waiting.popleft()
        try:
            return self._worker.run(task)
        except Exception as error:  # handed to the driver, which decides
            return Outcome(task, error=error, worker=self._worker.name)

    def close(self) -> None:
        self._waiting.clear()
