"""What one can do with a job, from Python: plan, generate, resume, status, export. The command line calls these.

from cluster import generate
result = generate(prompt="archipelago", width=4096, height=4096, out="out/islands")
print(result.page)
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cluster import job_file
from cluster.events import OnEvent, unheard
from cluster.identity import INPUTS
from cluster.inputs import lost_copies
from cluster.machine import ask_for_huge_pages
from cluster.paths import absolute
from cluster.running import Result as Result
from cluster.running import enter as enter
from cluster.running import is_job as is_job
from cluster.running import run as run
from cluster.spec import ExecutorName, JobSpec, SpecError
from cluster.spec_fields import SpecFields
from cluster.status import Status, read_status
from storage.fingerprint import FormatError

if TYPE_CHECKING:
    from cluster.batch.entry import BatchResult
    from cluster.batch.filters import Judge
    from cluster.job import Job, Note
    from cluster.report import Pace, PlanReport
    from cluster.verifying import Verdict
    from storage.exports.contract import OnProgress

__all__ = [
    "JobSpec",
    "Result",
    "SpecError",
    "Status",
    "batch",
    "export",
    "generate",
    "plan",
    "resume",
    "status",
    "verify",
]

LOG = logging.getLogger(__name__)


def generate(
    spec: JobSpec | None = None,
    *,
    resume: bool = False,
    on_event: OnEvent = unheard,
    **fields: Unpack[SpecFields],
) -> Result:
    """Make one picture; returns when it is finished.

    Give a JobSpec, or its fields as keyword arguments (`prompt`, `width`, `height` in pixels and `out` at least), or
    both: fields override. With `resume`, a folder that already holds this job is gone on with; a finished job returns
    at once. `on_event` hears of every task (cluster.events), in this thread.

    The folder holds job.yaml, events.jsonl, ledger.jsonl, latents.zarr with the array latents, (C, height / scale,
    width / scale) float32, image.zarr with (3, height, width) uint8 sRGB, index.html and its tiles. The same spec gives
    the same bytes with any number of workers, on the same kind of device.

    Raises SpecError (a setting, or what the machine cannot hold), ModelError, FormatError (a folder of another job),
    cluster.driver.Interrupted after Ctrl-C, OSError (a full disk), NumericalError (NaN from the network). Whatever
    is done then stays done, and `resume` goes on from there.
    """
    asked = spec_of(spec, fields)
    present = is_job(asked.out)
    return run(prepared(asked, check_fit=not present), resume=resume, on_event=on_event)


def plan(spec: JobSpec | None = None, *, calibrate: bool = True, **fields: Unpack[SpecFields]) -> PlanReport:
    """What `generate` of the same arguments would cost: patches, files, bytes, memory, seconds. Writes nothing.

    With `calibrate`, the model is loaded and a few evaluations are timed here; otherwise the time is guessed. A job
    that does not fit this machine is reported on all the same. Raises SpecError and ModelError.
    """
    from cluster.report import report_on

    job = prepared(spec_of(spec, fields), check_fit=False)
    return report_on(job, measured(job) if calibrate else None)


def resume(
    folder: Path | str,
    *,
    executor: ExecutorName | None = None,
    workers: int | None = None,
    thorough: bool = False,
    allow_pickle: bool = False,
    on_event: OnEvent = unheard,
) -> Result:
    """Go on with the job of a folder, wherever it stopped; a finished one returns at once.

    What is missing or damaged is made again: of a finished job what shows in sizes, and with `thorough` what shows
    when all that should be there is read. `executor` and `workers` may differ from before; they do not change the
    picture. A job that was begun with allow_pickle needs it again. Raises what `generate` raises, and FormatError where
    the model's files are no longer those that the job began with.
    """
    job = continued(absolute(folder), executor, workers, allow_pickle)
    return run(job, resume=True, on_event=on_event, thorough=thorough)


def status(folder: Path | str) -> Status:
    """How far the job of a folder is. Raises SpecError where it holds no job, FormatError for another version."""
    return read_status(absolute(folder))


def verify(folder: Path | str) -> Verdict:
    """Read all that the job of a folder should have there, or a batch's shards, and compare it with what was written.

    Changes nothing but the lock. Raises what `resume` raises, and BlockingIOError where a process is at work there.
    """
    from cluster.verifying import verdict_on

    return verdict_on(absolute(folder))


def batch(
    requests: Path | str | Iterable[Mapping[str, Any]] | None = None,
    *,
    n_images: int | None = None,
    filter: str | Judge | None = None,
    webdataset: bool = False,
    folders: bool = False,
    shard_bytes: int | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    on_event: OnEvent = unheard,
    **fields: Unpack[SpecFields],
) -> BatchResult:
    """Make a dataset: a picture for every request, in Parquet shards under `out`; returns when it is finished.

    requests: a .parquet, .csv or .jsonl file, or rows (mappings, a pyarrow Table, a pandas DataFrame) with id, prompt
    (or label), seed, width and height, perhaps negative_prompt, guidance_scale, num_inference_steps and classes (a path
    or the bytes of an image). What rows leave out comes from the fields of JobSpec given here. Instead, `n_images`
    asks for so many of the fields' picture, with ascending seeds. filter: a function of a PIL image, or its name as
    "module:function", see docs/batch.md; shard_bytes: the most that a shard takes. resume: go on where the folder holds
    this batch; retry_failed: so, and draw requests that failed once more.

    Every picture has the bytes that `generate` gives at full size, whatever it is drawn with. Raises SpecError,
    ModelError or FormatError before anything is drawn; then what `generate` raises. Requests that fail are in
    errors.parquet and counted in the result.
    """
    from cluster.batch.entry import make_batch, table_of
    from cluster.batch.extras import Extras
    from cluster.batch.plan import SHARD_BYTES, Sizes

    if "out" not in fields:
        raise SpecError("out is missing; name the folder to write to")
    return make_batch(
        table_of(requests, n_images), dict(fields), filter=filter, extras=Extras(webdataset, folders),
        sizes=Sizes(shard_bytes=shard_bytes or SHARD_BYTES), resume=resume, retry_failed=retry_failed,
        on_event=on_event,
    )  # fmt: skip


def export(
    folder: Path | str,
    format: str,
    out: Path | str | None = None,
    *,
    quality: int | None = None,
    region: tuple[int, int, int, int] | None = None,
    scale: float | None = None,
    dpi: float | None = None,
    iiif_id: str | None = None,
    path: Path | str | None = None,
    zoom_to: tuple[float, ...] | None = None,
    loop: bool = False,
    fps: float | None = None,
    seconds: float | None = None,
    size: tuple[int, int] | None = None,
    easing: str | None = None,
    overwrite: bool = False,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write a finished job's picture in another format, beside the job unless `out` says where; returns the path.

    format: a name of cluster.exporting.FORMATS. region (x, y, width, height) in pixels, scale, dpi and iiif_id are for
    still pictures; path (a keyframe file) or zoom_to (x, y[, zoom]), loop, fps, seconds, size (width, height) and
    easing for videos. Takes less than 500 MB. Raises SpecError and ExportError for what cannot be, OSError where
    files cannot be read or written; nothing is left then.
    """
    from cluster import exporting

    video = exporting.Video(
        absolute(path) if path is not None else None, zoom_to, loop, fps, seconds, size, easing
    )
    return exporting.export(
        absolute(folder), format, absolute(out) if out is not None else None, quality=quality,
        still=exporting.Still(region, scale, dpi, iiif_id), video=video, overwrite=overwrite,
        on_progress=on_progress or exporting.nobody,
    )  # fmt: skip


# --- steps that the command line takes one by one --------------------------------------------------------------------


def spec_of(spec: JobSpec | None, fields: SpecFields) -> JobSpec:
    """A spec with some fields replaced, all checked again."""
    given = {} if spec is None else {name: getattr(spec, name) for name in spec.model_fields_set}
    return JobSpec(**{**given, **fields})


def noted(line: str) -> None:
    """What is no error, and worth a line to whoever asked for the picture."""
    LOG.warning("%s", line)


def prepared(spec: JobSpec, check_fit: bool, note: Note = noted) -> Job:
    """The job of a spec: resolved, planned, identified. Of a folder that holds it already, blocks and commits are kept.

    So it is the same job, and loads the same model, whatever has been pushed to the hub meanwhile.
    """
    ask_for_huge_pages()
    from cluster.job import prepare

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
    from cluster.job import idle_workers, unnoted

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
    from cluster.calibrate import pace_here

    return pace_here(job)


def _say_versions_changed(saved: job_file.SavedJob) -> None:
    now = job_file.versions()
    changed = [
        f"{name} {was} -> {now[name]}" for name, was in saved.versions.items() if now.get(name, was) != was
    ]
    if changed:
        LOG.warning("versions changed since the job began, pixels may differ: %s", ", ".join(changed))
