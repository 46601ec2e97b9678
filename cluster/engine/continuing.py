"""From a spec, or from a folder, to the job that is begun there or gone on with. Runs nothing, writes nothing."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.engine.running import is_job
from cluster.jobs.inputs import lost_copies
from cluster.spec import job_file
from cluster.spec.fields import INPUTS, ExecutorName, JobSpec, SpecError
from storage.fingerprint import FormatError

if TYPE_CHECKING:
    from cluster.jobs.job import Job, Note
    from cluster.jobs.report import Pace

LOG = logging.getLogger(__name__)


def noted(line: str) -> None:
    """What is no error, and worth a line to whoever asked for the picture."""
    LOG.warning("%s", line)


def prepared(spec: JobSpec, check_fit: bool, note: Note = noted) -> Job:
    """The job of a spec: resolved, planned, identified. Of a folder that holds it already, blocks and commits are kept.

    So it is the same job, and loads the same model, whatever has been pushed to the hub meanwhile.
    """
    from cluster.jobs.job import prepare

    if is_job(spec.out) and (saved := job_file.load(spec.out).spec).model == spec.model:
        spec = spec.model_copy(update={"block": saved.block, "commits": {**saved.commits, **spec.commits}})
    return prepare(spec, check_fit, note)


def continued(
    folder: Path, executor: ExecutorName | None, workers: int | None, allow_pickle: bool = False
) -> Job:
    """The job of a folder, perhaps with other workers."""
    saved = job_file.load(folder)
    if saved.pickled and not allow_pickle:
        raise SpecError(
            f"{folder} was begun with --allow-pickle, and unpickling can run code: add it again to go on"
        )
    changes: dict[str, Any] = {"allow_pickle": saved.pickled}
    changes |= {
        name: value for name, value in (("executor", executor), ("workers", workers)) if value is not None
    }
    changes |= _originals_of_lost(saved)
    from cluster.jobs.job import idle_workers, unnoted

    job = prepared(JobSpec(**{**saved.spec.model_dump(), **changes}), check_fit=False, note=unnoted)
    for line in idle_workers(workers, job.spec.executor):
        noted(line)
    _say_versions_changed(saved)
    check_same(saved, job)
    return job


def _originals_of_lost(saved: job_file.SavedJob) -> dict[str, Path]:
    """Where to read the user's files of which the job's copies are lost. Raises SpecError where that is nowhere."""
    found = {}
    for lost in lost_copies(saved.spec, saved.files, saved.originals):
        if lost.original is None:
            raise SpecError(lost.advice())
        LOG.warning("%s is missing or damaged; %s is what it was", lost.copy, lost.original)
        found[lost.name] = lost.original
    return found


def check_same(saved: job_file.SavedJob, job: Job) -> None:
    """Raises FormatError where the job of a folder is no longer the one that was begun there."""
    if job.fingerprint != saved.fingerprint:
        raise FormatError(
            f"{_changed(saved, job)} changed since {saved.spec.out} was begun, so going on would mix two pictures; "
            "put back what it was, or start again in another folder with --out"
        )


def _changed(saved: job_file.SavedJob, job: Job) -> str:
    """What of the files that a job reads is not as it was."""
    was, now = saved.files, job.files
    places = dict(zip(now, job.info.files, strict=False))  # the user's files come after the model's
    places |= {name: f"{INPUTS[name].name} {getattr(job.spec, name)}" for name in job.inputs}
    names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    return ", ".join(places.get(name, name) for name in names if was) or "the model's files or this program"


def measured(job: Job) -> Pace:
    """The pace of a worker, by a little work here."""
    from cluster.engine.calibrate import pace_here

    return pace_here(job)


def _say_versions_changed(saved: job_file.SavedJob) -> None:
    now = job_file.versions()
    changed = [
        f"{name} {was} -> {now[name]}" for name, was in saved.versions.items() if now.get(name, was) != was
    ]
    if changed:
        LOG.warning("versions changed since the job began, pixels may differ: %s", ", ".join(changed))
