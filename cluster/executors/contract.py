"""What an executor must do. Knows tasks and outcomes; knows no plan, no ledger."""

from __future__ import annotations

from typing import Protocol

from cluster.plan import Task
from cluster.tasks import Outcome


class Executor(Protocol):
    """Runs tasks, in any order, on something."""

    def capacity(self, ready: int) -> int:
        """Tasks that it takes before one must be awaited, when `ready` tasks could be given."""

    @property
    def workers(self) -> int:
        """How many it runs at once."""

    def submit(self, task: Task) -> None:
        """Take one task; at most `capacity` are under way."""

    def next(self) -> Outcome:
        """Wait for one of the tasks under way to end, well or badly."""

    def close(self) -> None:
        """Let go of every worker, whatever it is doing."""
