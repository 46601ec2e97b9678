"""Whether all that a job has written, or a batch's shards, is there and as it was written. Reads; repairs nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.datasets.names import DATA, MANIFESTS, NAME, SUCCESS, is_batch
from cluster.jobs.inputs import Lost, lost_copies
from cluster.rereading import REREADING
from cluster.spec import job_file
from cluster.spec.fields import INPUTS
from storage.claim import Claim
from storage.fingerprint import FormatError
from storage.ledger import is_readable

if TYPE_CHECKING:
    from cluster.jobs.job import Job
    from cluster.spec.job_file import SavedJob


@dataclass(frozen=True)
class Verdict:
    """What was found.

    read: outputs of tasks, files of a job's end and copies of the user's files; or shards and what is beside them.
    damaged: those that are missing or not as they were written, as people read their names. finished: whether the job
    or batch is done. advice: a sentence for each of them that nobody can make again without its user.
    """

    folder: str
    finished: bool
    read: int
    damaged: tuple[str, ...]
    advice: tuple[str, ...] = ()

    @property
    def is_whole(self) -> bool:
        return not self.damaged

    def as_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return asdict(self) | {"whole": self.is_whole}


def verdict_on(folder: Path) -> Verdict:
    """Raises SpecError where there is neither a job nor a batch, BlockingIOError where a process is at work there."""
    if is_batch(folder):
        with _claimed(folder):
            return _on_batch(folder)
    saved = job_file.load(folder)
    lost = lost_copies(saved.spec, saved.files, saved.originals)
    job = _job_of(saved, lost)
    with _claimed(folder):
        verdict = _on_job(job)
    copies = len(INPUTS.keys() & saved.files.keys())
    names = (*verdict.damaged, *(one.copy.relative_to(saved.spec.out).as_posix() for one in lost))
    advice = tuple(one.advice() for one in lost if one.original is None)
    return replace(verdict, read=verdict.read + copies, damaged=names, advice=advice)


def _job_of(saved: SavedJob, lost: Sequence[Lost]) -> Job:
    """The job of a folder, as far as there is something left of its user's files. Raises FormatError for another."""
    from cluster.engine.continuing import check_same, continued
    from cluster.jobs.job import unreadable

    if all(one.original for one in lost):
        return continued(saved.spec.out, None, None, allow_pickle=True)  # no weights are read
    spec = saved.spec.model_copy(update={"allow_pickle": saved.pickled})
    job = unreadable(spec, {name: saved.files[name] for name in INPUTS if name in saved.files})
    check_same(saved, job)
    return job


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Nobody else works in the folder meanwhile; nor can anybody where it may not be written to."""
    with ExitStack() as stack:
        try:
            stack.enter_context(Claim(folder))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise
        yield


def _on_job(job: Job) -> Verdict:
    from cluster.engine.closing import Closing, read_ledger
    from cluster.following.status import LEDGER

    path = job.spec.out / LEDGER
    if not REREADING.is_whole(lambda: is_readable(path)):
        return Verdict(str(job.spec.out), False, 0, (LEDGER,))
    ledger = read_ledger(job)
    closing = Closing(job, ledger)
    tasks, files = closing.changed(thorough=True)
    names = (*closing.named(tasks, files), *([] if ledger.is_there else [LEDGER]))
    read = closing.standing_tasks() + (len(ledger.closed.files) if ledger.closed else 0)
    verdict = Verdict(str(job.spec.out), closing.is_finished(), read, names)
    if job.map is None:
        return verdict
    if not (job.map.spec.out / job_file.NAME).is_file():
        begun = verdict.finished or verdict.read > 0
        return replace(verdict, damaged=(*names, "map")) if begun else verdict
    return _with_map(verdict, _on_job(job.map))


def _with_map(picture: Verdict, invented: Verdict) -> Verdict:
    """A picture's verdict, and that of the map that was invented for it."""
    names = (*picture.damaged, *(f"map: {name}" for name in invented.damaged))
    return Verdict(picture.folder, picture.finished, picture.read + invented.read, names)


def _on_batch(folder: Path) -> Verdict:
    """The verdict on a batch: on its finished shards, which manifests tell of, and of the files beside them.

    The parts of other shards are read when a shard is put together.
    """
    from cluster.datasets.shards import is_as_told
    from cluster.datasets.written import damaged_in, told_in

    finished = (folder / SUCCESS).is_file()
    names = [f"train-{shard:05d}-of-{_shards(folder):05d}" for shard in range(_shards(folder))]
    manifests = {name: folder / MANIFESTS / f"{name}.json" for name in names}
    due = [name for name in names if finished or manifests[name].is_file()]
    looked = REREADING.whole(due, lambda name: is_as_told(folder / DATA / f"{name}.parquet", manifests[name]))
    damaged = sorted(name for name, whole in looked if not whole)
    beside = damaged_in(folder)
    return Verdict(str(folder), finished, len(due) + len(told_in(folder) or {}), (*damaged, *beside))


def _shards(folder: Path) -> int:
    """How many shards batch.json tells of. Raises FormatError where it is none of ours."""
    from cluster.datasets.plan import FORMAT_VERSION, saved_in

    saved = saved_in(folder)
    if saved.get("format_version") != FORMAT_VERSION or type(saved.get("shards")) is not int:
        raise FormatError(
            f"{folder / NAME} has format_version {saved.get('format_version')!r} and {saved.get('shards')!r} shards; "
            f"this program reads {FORMAT_VERSION}"
        )
    return int(saved["shards"])
