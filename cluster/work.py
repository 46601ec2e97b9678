"""A job as something that has tasks: executors are given it, and send it to their workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.job import Job
from cluster.spec import JobSpec

if TYPE_CHECKING:
    from cluster.executors.contract import Runs


@dataclass(frozen=True)
class JobWork:
    """The tasks of a job. Satisfies Work."""

    job: Job
    at_once: int = 2

    @property
    def spec(self) -> JobSpec:
        return self.job.spec

    def worker(self) -> Runs:
        """Load what its tasks need, here."""
        from cluster.watching import watching
        from cluster.worker import build_worker

        return watching(build_worker(self.job), self.job)
