"""A job as something that has tasks: executors are given it, and send it to their workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.jobs.job import Job
from cluster.spec.fields import JobSpec

if TYPE_CHECKING:
    from cluster.engine.executors.contract import TaskRunner


@dataclass(frozen=True)
class JobWork:
    """The tasks of a job. Satisfies Workload."""

    job: Job
    tasks_in_flight: int = 2

    @property
    def spec(self) -> JobSpec:
        return self.job.spec

    def worker(self) -> TaskRunner:
        """Load what its tasks need, here."""
        from cluster.engine.watching import watching
        from cluster.engine.worker import build_worker

        return watching(build_worker(self.job), self.job)
