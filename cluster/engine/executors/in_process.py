"""The executor of this process: one task after another, and while one's output goes to the disk the next is computed.

No thread of its own, so the order of tasks is the same every time. Whoever asks for an outcome computes it: there is no
waiting in vain, and nobody who could end a task that hangs, for it is the driver itself that hangs.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from functools import partial
from math import inf

from cluster.engine.executors.contract import Look, TaskRunner, Workload
from cluster.engine.executors.hosts import Guest, Host
from cluster.engine.outcomes import Outcome, StartedTask, finished
from cluster.jobs.stages import Task


class InProcess:
    """Runs tasks when an outcome is asked for. tasks_in_flight: tasks that may be under way, one of them computing.

    host: told when no more are asked for.
    """

    workers = 1

    def __init__(self, worker: TaskRunner, tasks_in_flight: int = 2, host: Host | None = None) -> None:
        self._worker = worker
        self._tasks_in_flight = tasks_in_flight
        self._host = host or Guest()
        self._waiting: deque[Task] = deque()
        self._begun: deque[StartedTask] = deque()

    @classmethod
    def of(cls, work: Workload, host: Host | None = None) -> InProcess:
        """Load its model in this process, which is somebody's unless `host` says otherwise."""
        host = host or Guest()
        return cls(host.settle(work.worker), work.tasks_in_flight, host)

    def capacity(self, ready: int) -> int:
        del ready
        return self._tasks_in_flight

    def submit(self, task: Task) -> None:
        self._waiting.append(task)

    def next(self, patience: float = inf) -> Outcome | None:
        """The next outcome, however long it takes; where nothing is under way, None after so many seconds."""
        if not self._waiting and not self._begun:
            time.sleep(patience)
            return None
        while self._waiting and len(self._begun) < self._tasks_in_flight and not self._is_done():
            self._begun.append(self._begin(self._waiting.popleft()))
        return finished(self._begun.popleft())

    def _is_done(self) -> bool:
        """Whether the first of those begun has nothing to wait for."""
        return bool(self._begun) and isinstance(self._begun[0], Outcome)

    def _begin(self, task: Task) -> StartedTask:
        try:
            begun = self._worker.begin(task)
        except Exception as error:  # handed to the driver, which decides
            return self._failed(task, error)
        return begun if isinstance(begun, Outcome) else partial(self._end, task, begun)

    def _end(self, task: Task, wait: Callable[[], Outcome]) -> Outcome:
        try:
            return wait()
        except Exception as error:
            return self._failed(task, error)

    def _failed(self, task: Task, error: Exception) -> Outcome:
        return Outcome(task, error=error, worker=self._worker.name)

    def look(self) -> Look:
        """Nothing goes on while the driver looks."""
        return Look()

    def give_up(self, task: Task, why: Exception) -> None:
        """Nothing: no worker but this process has a task."""
        del task, why

    def close(self) -> None:
        self._waiting.clear()
        self._begun.clear()
        self._host.leave()
