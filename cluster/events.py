"""What a running job tells the world. Knows names and numbers only; knows nobody who listens.

JobStarted  (TaskDone | TaskRetried)*  (JobFinished | JobFailed | JobInterrupted)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class StageTotal:
    """One stage: its name, how many tasks it has, and how many of them earlier runs did."""

    name: str
    total: int
    done: int


@dataclass(frozen=True)
class JobStarted:
    """The first event of every run, a resumed one included."""

    stages: tuple[StageTotal, ...]
    workers: int


@dataclass(frozen=True)
class TaskDone:
    """A task's output is durable. seconds: of one worker; evaluations: of one patch each."""

    stage: int
    stage_name: str
    block: int
    seconds: float
    evaluations: int
    worker: str


@dataclass(frozen=True)
class TaskRetried:
    """A worker went away under a task, which will be run again."""

    stage: int
    stage_name: str
    block: int
    error: str


@dataclass(frozen=True)
class JobFinished:
    """Every task is done and every output complete. seconds: of this run."""

    seconds: float


@dataclass(frozen=True)
class JobFailed:
    """The run ended with an error; what is done stays done."""

    error: str


@dataclass(frozen=True)
class JobInterrupted:
    """The user stopped the run; what is done stays done."""


Event = JobStarted | TaskDone | TaskRetried | JobFinished | JobFailed | JobInterrupted
OnEvent = Callable[[Event], None]


def unheard(event: Event) -> None:
    """The listener of those who do not care."""
    del event
