"""What a running job tells the world. Knows names and numbers only; knows nobody who listens.

JobStarted  (TaskDone | TaskRetried | Waiting | WorkersUp)*  (JobFinished | JobFailed | JobInterrupted)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class StageTotal:
    """One stage: its name, how many tasks it has, and how many of them earlier runs did."""

    name: str
    total: int
    done: int


@dataclass(frozen=True)
class JobStarted:
    """The first event of every run, a resumed one included; and again where a run makes something again."""

    stages: tuple[StageTotal, ...]
    workers: int


@dataclass(frozen=True)
class TaskDone:
    """A task's output is durable.

    seconds: of one worker. evaluations: conditional ones, of one patch each. seats: places in the network's batches
    that they and guidance's other end took, with those that padding filled.
    """

    stage: int
    stage_name: str
    block: int
    seconds: float
    evaluations: int
    worker: str
    seats: int = 0


@dataclass(frozen=True)
class TaskRetried:
    """A worker went away under a task, or an error passes by itself; it will be run again."""

    stage: int
    stage_name: str
    block: int
    error: str


@dataclass(frozen=True)
class Waiting:
    """There was no news for long. what: is waited for, in words. Said once, until there is news."""

    what: str


@dataclass(frozen=True)
class WorkersUp:
    """Workers came or went: so many are there now. Until it is first told, all that the start announced are."""

    workers: int


@dataclass(frozen=True)
class RowsDone:
    """How far a batch is, after each of its tasks: requests drawn, filtered, failed, and whole shards, of all runs
    together.
    """

    drawn: int
    filtered: int
    failed: int
    shards: int


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


Event = (
    JobStarted
    | TaskDone
    | TaskRetried
    | Waiting
    | WorkersUp
    | RowsDone
    | JobFinished
    | JobFailed
    | JobInterrupted
)
OnEvent = Callable[[Event], None]


def as_map(on_event: OnEvent) -> OnEvent:
    """A listener for the job that invents a picture's map: all its stages are called "map", and its end is no news."""

    def heard(event: Event) -> None:
        match event:
            case JobStarted():
                stages = tuple(replace(stage, name=f"map {stage.name}") for stage in event.stages)
                on_event(replace(event, stages=stages))
            case TaskDone() | TaskRetried():
                on_event(replace(event, stage_name=f"map {event.stage_name}"))
            case Waiting() | WorkersUp() | JobFailed() | JobInterrupted():
                on_event(event)

    return heard


def waits_alone(on_event: OnEvent) -> OnEvent:
    """A listener for a job that is a task of something larger: only what it waits for, and for whom, is news."""

    def heard(event: Event) -> None:
        if isinstance(event, Waiting | WorkersUp):
            on_event(event)

    return heard


def group_of(stage_name: str) -> str:
    """ "denoise 7" -> "denoise": stages of one kind."""
    return stage_name.partition(" ")[0]


def unheard(event: Event) -> None:
    """The listener of those who do not care."""
    del event
