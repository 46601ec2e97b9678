"""What one can do with a job, from Python: plan, generate, resume, status, export. The command line calls these.

from cluster import generate
result = generate(prompt="archipelago", width=4096, height=4096, out="out/islands")
print(result.page)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from cluster import job_file
from cluster.events import OnEvent, as_map, unheard
from cluster.machine import ask_for_huge_pages
from cluster.progress import EVENTS, JsonLines, fan_out
from cluster.spec import ExecutorName, JobSpec, SpecError
from cluster.spec_fields import SpecFields
from cluster.status import LEDGER, Status, read_status
from storage.fingerprint import FormatError

if TYPE_CHECKING:
    from cluster.batch.entry import BatchResult
    from cluster.batch.filters import Judge
    from cluster.executors.contract import Executor, Work
    from cluster.job import Job
    from cluster.report import Pace, PlanReport
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
]

LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """A finished picture: the job's folder, and in it the page that shows the picture."""

    folder: Path
    page: Path


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
    on_event: OnEvent = unheard,
) -> Result:
    """Go on with the job of a folder, wherever it stopped; a finished one returns at once.

    `executor` and `workers` may differ from before; they do not change the picture. Raises what `generate` raises, and
    FormatError where the model's files are no longer those that the job began with.
    """
    return run(continued(Path(folder), executor, workers), resume=True, on_event=on_event)


def status(folder: Path | str) -> Status:
    """How far the job of a folder is. Raises SpecError where it holds no job, FormatError for another version."""
    return read_status(Path(folder))


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
        Path(path) if path is not None else None, zoom_to, loop, fps, seconds, size, easing
    )
    return exporting.export(
        Path(folder), format, Path(out) if out is not None else None, quality=quality,
        still=exporting.Still(region, scale, dpi, iiif_id), video=video, overwrite=overwrite,
        on_progress=on_progress or exporting.nobody,
    )  # fmt: skip


# --- steps that the command line takes one by one --------------------------------------------------------------------


def spec_of(spec: JobSpec | None, fields: SpecFields) -> JobSpec:
    """A spec with some fields replaced, all checked again."""
    given = {} if spec is None else {name: getattr(spec, name) for name in spec.model_fields_set}
    return JobSpec(**{**given, **fields})


def prepared(spec: JobSpec, check_fit: bool) -> Job:
    """The job of a spec: resolved, planned, identified. Of a folder that holds it already, the blocks are kept."""
    ask_for_huge_pages()
    from cluster.job import prepare

    if is_job(spec.out) and (saved := job_file.load(spec.out).spec).model == spec.model:
        spec = spec.model_copy(update={"block": saved.block})
    return prepare(spec, check_fit=check_fit)


def continued(folder: Path, executor: ExecutorName | None, workers: int | None) -> Job:
    """The job of a folder, perhaps with other workers."""
    saved = job_file.load(folder)
    changes = {
        name: value for name, value in (("executor", executor), ("workers", workers)) if value is not None
    }
    job = prepared(JobSpec(**{**saved.spec.model_dump(), **changes}), check_fit=False)
    _say_versions_changed(saved)
    if job.fingerprint != saved.fingerprint:
        raise FormatError(
            f"the model's files or this program changed since {folder} was begun, so going on would mix two pictures; "
            "start again in another folder with --out"
        )
    return job


def measured(job: Job) -> Pace:
    """The pace of a worker, by a little work here."""
    from cluster.calibrate import pace_here

    return pace_here(job)


def _executor(work: Work) -> Executor:
    from cluster import executors

    return executors.make(work)


def run(job: Job, *, resume: bool, on_event: OnEvent, make: Callable[[Work], Executor] = _executor) -> Result:
    """Do what is left of a prepared job. make: its executor, and its map's, which are closed when they are done."""
    folder = job.spec.out
    result = Result(folder, folder / "index.html")
    enter(job, resume)
    if is_finished(job):
        return result
    job_file.save(job.spec, job.fingerprint)
    if job.map is not None:
        run(job.map, resume=True, on_event=as_map(on_event), make=make)
    _execute(job, on_event, make)
    return result


def _execute(job: Job, on_event: OnEvent, make: Callable[[Work], Executor]) -> None:
    from cluster import driver

    with JsonLines(job.spec.out / EVENTS) as log:
        try:
            with closing(make(job)) as executor:
                driver.run(job, executor, fan_out(log, on_event))
        except KeyboardInterrupt:  # while the workers were starting or stopping
            raise driver.Interrupted from None


def enter(job: Job, resume: bool) -> None:
    """Refuse a folder that is not this job's to write to."""
    folder = job.spec.out
    if folder.exists() and not folder.is_dir():
        raise SpecError(f"{folder} is a file; name a folder with --out")
    if not is_job(folder):
        if folder.is_dir() and any(folder.iterdir()):
            raise SpecError(f"{folder} holds other files; name a new or empty folder with --out")
        return
    saved = job_file.load(folder)
    if saved.fingerprint != job.fingerprint:
        raise FormatError(
            f"{folder} holds another job ({saved.spec.prompt!r}, {saved.spec.width}x{saved.spec.height}"
            f"{_differences(saved.spec, job.spec)}); choose another folder with --out"
        )
    if not resume:
        raise SpecError(
            f"{folder} already holds this job; add --resume to go on with it, or choose another --out"
        )


def _differences(old: JobSpec, new: JobSpec) -> str:
    """Which settings differ, for people who believe that it is the same job."""
    elsewhere = ("prompt", "width", "height")  # in the message
    free = ("out", "executor", "workers", "block", "preview_every", "allow_pickle")
    names = [
        name
        for name in JobSpec.model_fields
        if name not in (*elsewhere, *free) and getattr(old, name) != getattr(new, name)
    ]
    return f"; other {', '.join(names)}" if names else ""


def is_job(folder: Path) -> bool:
    """Whether a folder holds a job, begun or finished."""
    return (folder / job_file.NAME).is_file()


def is_finished(job: Job) -> bool:
    """Whether every task is in the ledger and the last run closed its outputs."""
    folder = job.spec.out
    if not (folder / LEDGER).exists():
        return False
    state = read_status(folder)
    tasks = sum(stage.tasks for stage in job.plan.stages)
    return state.state == "finished" and sum(group.done for group in state.groups) == tasks


def _say_versions_changed(saved: job_file.SavedJob) -> None:
    now = job_file.versions()
    changed = [
        f"{name} {was} -> {now[name]}" for name, was in saved.versions.items() if now.get(name, was) != was
    ]
    if changed:
        LOG.warning("versions changed since the job began, pixels may differ: %s", ", ".join(changed))
