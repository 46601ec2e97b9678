"""A worker whose tasks fail once a file that it reads where it lies has been written to. Knows inputs; no network.

Copies in the job's folder are nobody's to write to, and a Zarr folder of a million chunks takes too long to look at:
both are compared when they are opened only. A single file is asked for its stamp at the end of each task, so that none
that read something else is taken for done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster.engine.outcomes import Outcome, StartedTask, finished
from cluster.spec.identity import check_inputs

if TYPE_CHECKING:
    from cluster.engine.executors.contract import TaskRunner
    from cluster.jobs.job import Job
    from cluster.jobs.stages import Task


def watching(worker: TaskRunner, job: Job) -> TaskRunner:
    """The worker itself where there is no such file."""
    paths = {name: getattr(job.spec, name) for name in job.inputs}
    watched = {
        name for name, path in paths.items() if path.is_file() and not path.is_relative_to(job.spec.out)
    }
    return Watching(worker, job, frozenset(watched)) if watched else worker


@dataclass(frozen=True)
class Watching:
    """Does what its worker does, and looks. watched: fields of the job's spec. Satisfies TaskRunner."""

    worker: TaskRunner
    job: Job
    watched: frozenset[str]

    @property
    def name(self) -> str:
        return self.worker.name

    def begin(self, task: Task) -> StartedTask:
        """Raises what the worker raises; what comes back raises SpecError where a file has changed, too."""
        begun = self.worker.begin(task)

        def rest() -> Outcome:
            outcome = finished(begun)
            check_inputs(self.job.spec, self.job.inputs, self.watched)
            return outcome

        return rest
