"""The slow, obvious executor: one task after another, here."""

from __future__ import annotations

from collections import deque

from cluster.job import Job
from cluster.plan import Task
from cluster.tasks import Outcome, Worker
from cluster.worker import build_worker


class InProcess:
    """Runs each task when its outcome is asked for."""

    workers = 1

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._waiting: deque[Task] = deque()

    @classmethod
    def of(cls, job: Job) -> InProcess:
        """Load the job's model in this process."""
        return cls(build_worker(job))

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
