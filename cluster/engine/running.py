"""A prepared job from the claim of its folder to its end. Knows who may work where; moves no pixel."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.following.events import JobFinished, OnEvent, as_map
from cluster.following.history import Events, set_damaged_events_aside
from cluster.following.progress import EVENTS, JsonLines, fan_out
from cluster.jobs.inputs import FOLDER, kept, originals_of
from cluster.spec import facts, job_file
from cluster.spec.fields import INPUTS, SETTINGS, SpecError
from storage import claim
from storage.claim import Claim
from storage.files import is_leftover, remove_leftovers
from storage.fingerprint import FormatError

if TYPE_CHECKING:
    from cluster.engine.executors.contract import Executor, Workload
    from cluster.jobs.job import Job
    from storage.ledger import Ledger

log = logging.getLogger(__name__)

IN_THE_MESSAGE = ("prompt", "width", "height")
"""Settings of a folder's job that are told wherever it is another's."""


@dataclass(frozen=True)
class Result:
    """A finished picture: the job's folder, and in it the page that shows the picture.

    before: whether the folder was found finished and whole, so that nothing was left to do.
    """

    folder: Path
    page: Path
    before: bool = False


def _executor(work: Workload) -> Executor:
    from cluster.engine import executors

    return executors.make(work)


def run(
    job: Job,
    *,
    resume: bool,
    on_event: OnEvent,
    make: Callable[[Workload], Executor] = _executor,
    thorough: bool = False,
    on_begun: Callable[[], None] = lambda: None,
) -> Result:
    """Do what is left of a prepared job; what is found missing or damaged is made again.

    make: its executor, and its map's, which are closed when they are done. thorough: of a finished job, read all that
    it keeps, not only the sizes. on_begun: called once the folder holds the job. Raises BlockingIOError where another
    process runs the job; then nothing is changed.
    """
    from cluster.engine.closing import left_to_do, listed, open_ledger

    folder = job.spec.out
    enter(job, resume)
    with Claim(folder):
        enter(job, resume)  # nobody was here in between
        _tidy(folder)
        originals = _originals(job)
        job = job.reading(kept(job.spec, job.inputs, folder))
        job_file.save(job.spec, job.fingerprint, job.files, originals)
        on_begun()
        with open_ledger(job) as ledger:
            page = folder / "index.html"
            if job.map is not None and thorough:
                run(job.map, resume=True, on_event=as_map(on_event), make=make, thorough=True)
            left = left_to_do(job, ledger, thorough=thorough)
            if not left.work:
                _tell_that_it_is_finished(folder)
                return Result(folder, page, before=True)
            if job.map is not None and not thorough:
                run(job.map, resume=True, on_event=as_map(on_event), make=make, thorough=True)
            _execute(job, ledger, on_event, make)
            if left.damaged:
                log.warning("%s: made again", listed(left.damaged))
            return Result(folder, page)


def _originals(job: Job) -> dict[str, str]:
    """Where the user's files were when they were given, and last given again."""
    folder = job.spec.out
    known = dict(job_file.load(folder).originals) if is_job(folder) else {}
    return known | originals_of(job.spec, folder)


def _tidy(folder: Path) -> None:
    """What earlier runs left when they were killed: unfinished files, and events that nobody can read."""
    remove_leftovers(folder, folder / "viewer", folder / FOLDER, folder / "work")
    remove_leftovers(*(folder / "image_files").glob("*"))
    set_damaged_events_aside(folder / EVENTS)


def _tell_that_it_is_finished(folder: Path) -> None:
    """An earlier run may have ended after the last thing that it did, and before it said so."""
    events = Events(folder / EVENTS)
    events.look()
    if events.run is None or events.run.last_event != "JobFinished":
        with JsonLines(folder / EVENTS) as log:
            log(JobFinished(0.0))


def _execute(job: Job, ledger: Ledger, on_event: OnEvent, make: Callable[[Workload], Executor]) -> None:
    from cluster.engine import driver
    from cluster.engine.work import JobWork

    with JsonLines(job.spec.out / EVENTS) as log:
        try:
            with closing(make(JobWork(job))) as executor:
                driver.run(job, executor, ledger, fan_out(log, on_event))
        except KeyboardInterrupt:  # while the workers were starting or stopping
            raise driver.Interrupted from None


def enter(job: Job, resume: bool) -> None:
    """Refuse a folder that is not this job's to write to."""
    folder = job.spec.out
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; name a folder with --out")
    if not is_job(folder):
        others = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        if any(name not in (claim.NAME, FOLDER) and not is_leftover(name) for name in others):
            raise SpecError(f"{folder} holds other files; name a new or empty folder with --out")
        return
    saved = job_file.load(folder)
    if saved.fingerprint != job.fingerprint:
        raise FormatError(
            f"{folder} holds another job ({saved.spec.prompt!r}, {saved.spec.width}x{saved.spec.height}"
            f"{_differences(saved, job)}); choose another folder with --out{_way_on(saved, job)}"
        )
    if not resume:
        raise SpecError(
            f"{folder} already holds this job; add --resume to go on with it, or choose another --out"
        )


def _differences(saved: job_file.SavedJob, job: Job) -> str:
    """Which settings differ, for people who believe that it is the same job; files count by content."""
    names = [name for name in _other_settings(saved, job) if name not in IN_THE_MESSAGE]
    return f"; other {', '.join(names)}" if names else ""


def _way_on(saved: job_file.SavedJob, job: Job) -> str:
    """How to go on with what a folder holds, where that can be: not if the model's files are what differs."""
    if not _other_settings(saved, job):
        return ""
    return f", or go on with that one: hypermosaic resume {shlex.quote(str(job.spec.out))}"


def _other_settings(saved: job_file.SavedJob, job: Job) -> list[str]:
    told = [
        name for name, setting in SETTINGS.items() if setting.fact is not facts.never and name not in INPUTS
    ]
    names = [name for name in told if getattr(saved.spec, name) != getattr(job.spec, name)]
    return [*names, *(name for name in INPUTS if saved.files.get(name) != job.inputs.get(name))]


def is_job(folder: Path) -> bool:
    """Whether a folder holds a job, begun or finished."""
    return (folder / job_file.NAME).is_file()
