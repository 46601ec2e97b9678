"""One worker in a process of its own, on Ray. Knows what it is sent; imports nothing large, so that its process may be
made ready before the work arrives and brings torch and diffusers with it.
"""

from __future__ import annotations

import os
import pickle
import socket
import threading
from typing import TYPE_CHECKING

from cluster.machine import collect_rarely, settled

if TYPE_CHECKING:
    from cluster.engine.executors.contract import TaskRunner, Workload
    from cluster.engine.outcomes import Outcome
    from cluster.jobs.stages import Task


class Actor:
    """Does tasks. It unpacks its work and loads the model with the first of them, whose outcome tells of errors."""

    def __init__(self, packed: bytes) -> None:
        collect_rarely()
        self._packed = packed
        self._worker: TaskRunner | None = None
        self._loading = threading.Lock()

    def name(self) -> str:
        """Of its machine and process, as outcomes have it. Who gets it knows that the actor is up."""
        return f"{socket.gethostname()}:{os.getpid()}"

    def run(self, task: Task) -> Outcome:
        from cluster.engine.outcomes import Outcome, finished

        try:
            return finished(self._loaded().begin(task))
        except Exception as error:  # as a value: Ray would wrap it in one of its own
            return Outcome(task, error=error)

    def _loaded(self) -> TaskRunner:
        with self._loading:
            if self._worker is None:
                work: Workload = pickle.loads(self._packed)
                self._worker = settled(work.worker)
            return self._worker
