"""A batch from its arguments to its files: read the table, check it, claim the folder, run. Knows no flag."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.datasets import run as running
from cluster.datasets.checking import planned
from cluster.datasets.disk import DiskNeed, disk_need, warn_if_tight
from cluster.datasets.extras import Extras
from cluster.datasets.filters import Judge, check_sendable, load_filter, name_of
from cluster.datasets.names import DATA, MANIFESTS, MASKS, PARTS, SUCCESS, WORK, is_batch
from cluster.datasets.plan import UNCLAIMED, Batch, Sizes, check_folder, commits_in, enter
from cluster.datasets.requests import Row, Table, numbered, rows_at_hand, table_at
from cluster.datasets.retrying import forget_failed
from cluster.datasets.run import Summary, read_success
from cluster.datasets.written import damaged_in, forget_damaged
from cluster.engine import executors
from cluster.engine.closing import listed
from cluster.following.events import OnEvent, unheard
from cluster.following.history import set_damaged_events_aside
from cluster.following.progress import EVENTS, JsonLines, fan_out
from cluster.jobs.inputs import FOLDER as INPUTS
from cluster.jobs.job import unused
from cluster.jobs.models import described
from cluster.spec.choices import resolve
from cluster.spec.fields import JobSpec, SpecError
from storage.claim import NAME as LOCK
from storage.claim import Claim
from storage.files import remove_leftovers

LOG = logging.getLogger(__name__)

UNSAID = {"prompt": "-", "width": 1, "height": 1}
"""What settings say where only the rows do."""


@dataclass(frozen=True)
class BatchResult:
    """A finished batch: its folder, and what became of the requests."""

    folder: Path
    summary: Summary


def make_batch(
    table: Table,
    fields: dict[str, Any],
    *,
    filter: str | Judge | None = None,
    extras: Extras | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    sizes: Sizes | None = None,
    on_event: OnEvent = unheard,
    on_planned: Callable[[DiskNeed], None] = warn_if_tight,
    on_claimed: Callable[[JobSpec], None] = lambda spec: None,
    make: running.MakeExecutor = executors.make,
) -> BatchResult:
    """Draw every request of a table into fields["out"]. Raises SpecError, ModelError, FormatError before it draws.

    resume: go on where the folder holds this batch; retry_failed: so, and draw requests that failed once more.
    on_planned: told what it takes on disk; on_claimed: told the settings when all is checked and the folder is the
    batch's. make: its executor.
    """
    wanted = extras or Extras()
    with _planned(table, fields, filter, sizes) as batch:
        need = disk_need(batch, wanted)
        if not (batch.out / SUCCESS).is_file():
            need.check()
            on_planned(need)
        enter(batch, resume or retry_failed)
        on_claimed(batch.spec)
        return BatchResult(batch.out, _entered(batch, wanted, retry_failed, on_event, make))


def _entered(
    batch: Batch, extras: Extras, retry_failed: bool, on_event: OnEvent, make: running.MakeExecutor
) -> Summary:
    """Go on with a batch that this process has entered; what nobody needs of a finished one goes."""
    try:
        _tidy(batch.out)
        wanted = _without_damaged(batch, extras)
        if retry_failed:
            wanted = forget_failed(batch, wanted)
        return _run(batch, wanted, on_event, make)
    finally:
        if (batch.out / SUCCESS).is_file():
            shutil.rmtree(batch.work, ignore_errors=True)


def plan_batch(
    table: Table,
    fields: dict[str, Any],
    *,
    filter: str | Judge | None = None,
    extras: Extras | None = None,
    sizes: Sizes | None = None,
) -> tuple[Batch, DiskNeed]:
    """Check every request of a table, and draw nothing; what it would take on disk. Raises as make_batch does."""
    with _planned(table, fields, filter, sizes) as batch:
        return batch, disk_need(batch, extras or Extras())


@contextmanager
def _planned(
    table: Table, fields: dict[str, Any], filter: str | Judge | None, sizes: Sizes | None
) -> Iterator[Batch]:
    """The checked batch, in a folder that nobody else writes to meanwhile."""
    settings = JobSpec(**{**UNSAID, **fields})
    given = {name for name in ("prompt", "width", "height") if name in fields} | {"seed"}
    name, judge = _filter_of(filter, settings)
    check_folder(settings.out)
    settings = settings.model_copy(update={"commits": {**commits_in(settings.out), **settings.commits}})
    info = described(settings)
    for line in unused(settings, resolve(settings, info), info):
        LOG.warning("%s", line)
    with _claimed(settings.out):
        yield replace(planned(settings, info, table, given, name, sizes or Sizes()), judge=judge)


def _filter_of(filter: str | Judge | None, settings: JobSpec) -> tuple[str | None, Judge | None]:
    """A filter's name, and the function itself where that was given.

    Raises SpecError for what workers could not call.
    """
    if filter is None:
        return None, None
    if isinstance(filter, str):
        load_filter(filter, str(Path.cwd()))
        return filter, None
    if not callable(filter):
        raise SpecError(f"filter {repr(filter)[:40]} is neither a function nor module:function")
    if settings.executor == "ray":
        check_sendable(filter)
    return name_of(filter), filter


@contextmanager
def _claimed(out: Path) -> Iterator[None]:
    """The folder is this process' own. Whoever does not enter it has changed nothing but the lock.

    Raises BlockingIOError.
    """
    claim = Claim(out)
    before = _copies(out)
    try:
        check_folder(out)  # nobody was here in between
        yield
    finally:
        if (out / WORK / UNCLAIMED).exists():
            _undo(out, before)
        if not is_batch(out):
            shutil.rmtree(out / WORK, ignore_errors=True)
        if [path.name for path in out.iterdir()] == [LOCK]:
            claim.withdraw()
        else:
            claim.close()


def _copies(out: Path) -> set[Path]:
    """Copies of the user's files, and class maps that came as bytes."""
    return {path for name in (INPUTS, MASKS) for path in (out / WORK / name).glob("*")}


def _undo(out: Path, before: set[Path]) -> None:
    """Remove what checking the requests has written."""
    for path in _copies(out) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (out / WORK / UNCLAIMED).unlink()
    for folder in (out / WORK / INPUTS, out / WORK / MASKS, out / WORK):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _tidy(out: Path) -> None:
    """What earlier runs left when they were killed: unfinished files, and events that nobody can read."""
    remove_leftovers(out, *(out / name for name in (DATA, MANIFESTS)), *(out / WORK / PARTS).glob("*"))
    set_damaged_events_aside(out / EVENTS)


def _without_damaged(batch: Batch, extras: Extras) -> Extras:
    """What to write beside the shards: what is asked for, and what was there and is damaged. Says so in a line."""
    damaged = damaged_in(batch.out)
    if damaged:
        LOG.warning("%s: missing or not as written, to be made again", listed(damaged))
    return forget_damaged(batch.out, damaged, extras)


def _run(batch: Batch, extras: Extras, on_event: OnEvent, make: running.MakeExecutor) -> Summary:
    """A finished batch is only asked for what it lacks beside its shards."""
    finished = read_success(batch.out)
    if finished is not None and running.is_whole(batch):
        running.complete(batch, extras)
        return finished
    with JsonLines(batch.out / EVENTS) as log:
        return running.run(batch, extras, fan_out(log, on_event), make)


def table_of(requests: Path | str | Iterable[Row] | None, n_images: int | None) -> Table:
    """The requests of a file, rows at hand, or so many of the same settings. Raises SpecError."""
    if (requests is None) == (n_images is None):
        both = "both a table of requests and n-images" if n_images is not None else "no requests"
        raise SpecError(f"{both} given; name a table, as in requests.csv, or a number, as in --n-images 100")
    if n_images is not None:
        return numbered(n_images)
    if isinstance(requests, str | Path):
        return table_at(Path(requests))
    assert requests is not None
    return rows_at_hand(requests)
