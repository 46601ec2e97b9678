"""What an executor must do, and what it runs. Knows tasks and outcomes; knows no plan, no ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

from cluster.engine.outcomes import Outcome, StartedTask
from cluster.jobs.stages import Task
from cluster.spec.fields import JobSpec


class TaskRunner(Protocol):
    """Does tasks in one process, as many at once as its work allows."""

    @property
    def name(self) -> str:
        """The machine and process, as outcomes tell them."""

    def begin(self, task: Task) -> StartedTask:
        """Do one, or what of it should not wait for others. Its output is durable when there is an outcome.

        Raises what the task raises, as does what comes back.
        """


class Workload(Protocol):
    """What has tasks: a job, or a batch of requests. Small, and sent to each worker once."""

    @property
    def spec(self) -> JobSpec:
        """Where it runs: device, threads, number of workers."""

    @property
    def tasks_in_flight(self) -> int:
        """Tasks that one worker may have under way at once; more than one hides the wait for the disk."""

    def worker(self) -> TaskRunner:
        """Load, here, what its tasks need."""


@dataclass(frozen=True)
class Look:
    """What an executor is doing. running: tasks that workers have, and the workers' names, as outcomes have them.

    lack: why no worker is there to do anything, in words; "" where one is. up: workers that are there; None where all
    always are.
    """

    running: Mapping[Task, str] = field(default_factory=dict)
    lack: str = ""
    up: int | None = None


class Executor(Protocol):
    """Runs tasks, in any order, on something. Workers may come and go; tasks go only to those that are there."""

    def capacity(self, ready: int) -> int:
        """Tasks that it takes before one must be awaited, when `ready` tasks could be given."""

    @property
    def workers(self) -> int:
        """How many it runs at once, when all are there."""

    def submit(self, task: Task) -> None:
        """Take one task; at most `capacity` are under way."""

    def next(self, patience: float = inf) -> Outcome | None:
        """Wait for one of the tasks under way to end, well or badly, for about `patience` seconds at most.

        None where none has, which may be sooner: when there is more room than before. With nothing under way it
        waits all the same. A lost worker's tasks come back as lost, all of them, as soon as that is known.
        """

    def look(self) -> Look:
        """What it is doing; cheap."""

    def give_up(self, task: Task, why: Exception) -> None:
        """End the worker that has a task, and start another; next() tells of its tasks as lost, for this reason.

        Nothing happens where no worker has it, or has it any more.
        """

    def close(self) -> None:
        """Let go of every worker, whatever it is doing."""
