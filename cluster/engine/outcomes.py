"""What is heard of a task: that it is done, or what went wrong. Small values; knows no task's work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from cluster.jobs.stages import Task
from storage.ledger import Written

NOTHING_WRITTEN = Written(0)


@dataclass(frozen=True)
class Outcome:
    """What the driver hears of a task: small values only. `error` is None where it succeeded.

    written: of its output, as the ledger keeps it. evaluations: of conditional predictions; seats: places in batches
    that they and guidance's other end took. seconds: of computing; reading and waiting for the disk go on
    while other tasks compute.
    """

    task: Task
    seconds: float = 0.0
    evaluations: int = 0
    seats: int = 0
    worker: str = ""
    error: Exception | None = None
    written: Written = NOTHING_WRITTEN
    lost: bool = False
    """The worker went away under the task, which can be given to another."""


StartedTask: TypeAlias = Outcome | Callable[[], Outcome]
"""A task that has been done; or one that has been begun, and what does the rest until its output is durable."""


def finished(begun: StartedTask) -> Outcome:
    """The outcome, waited for where it must be. Raises what the task raises."""
    return begun if isinstance(begun, Outcome) else begun()
