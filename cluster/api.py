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

from cluster.engine.continuing import continued, measured, noted, prepared
from cluster.engine.running import Result as Result
from cluster.engine.running import enter as enter
from cluster.engine.running import is_job as is_job
from cluster.engine.running import run as run
from cluster.following.events import OnEvent, unheard
from cluster.following.progress import fan_out
from cluster.following.showing import counted, shown
from cluster.following.status import Status, read_status
from cluster.spec.fields import ExecutorName, JobSpec, SpecError
from cluster.spec.keywords import SpecFields
from cluster.spec.paths import absolute

if TYPE_CHECKING:
    from cluster.datasets.entry import BatchResult
    from cluster.datasets.filters import Judge
    from cluster.jobs.job import Note
    from cluster.jobs.report import PlanReport
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
    spec: JobSpec | str | None = None,
    *,
    resume: bool = False,
    progress: bool | None = None,
    on_event: OnEvent = unheard,
    note: Note = noted,
    **fields: Unpack[SpecFields],
) -> Result:
    """Make one picture; returns when it is finished.

    Give a JobSpec, or its fields as keyword arguments (`prompt`, `width`, `height` in pixels and `out` at least), or
    both: fields override. The prompt may come first, in place of a JobSpec. With `resume`, a folder that already holds
    this job is gone on with; a finished job returns at once. `on_event` hears of every task (cluster.following.events),
    in this thread. progress: None shows bars on a terminal and in notebooks with widgets, True lines elsewhere, too,
    False nothing. note: told in a line what changes nothing, or is not as it may seem; by default it is logged.

    The folder holds job.yaml, events.jsonl, ledger.jsonl, latents.zarr with the array latents, (C, height / scale,
    width / scale) float32, image.zarr with (3, height, width) uint8 sRGB, index.html and its tiles. The same spec gives
    the same bytes with any number of workers, on the same kind of device.

    Raises SpecError (a setting, or what the machine cannot hold), ModelError, FormatError (a folder of another job),
    cluster.engine.driver.Interrupted after Ctrl-C, OSError (a full disk), NumericalError (NaN from the network).
    Whatever is done then stays done, and `resume` goes on from there.
    """
    asked = spec_of(spec, fields)
    present = is_job(asked.out)
    job = prepared(asked, check_fit=not present, note=note)
    with shown(progress) as listener:
        return run(job, resume=resume, on_event=fan_out(listener, on_event))


def plan(
    spec: JobSpec | str | None = None,
    *,
    calibrate: bool = False,
    note: Note = noted,
    **fields: Unpack[SpecFields],
) -> PlanReport:
    """What `generate` of the same arguments would cost: patches, files, bytes, memory, seconds. Writes nothing.

    With `calibrate`, the model is loaded and a few evaluations are timed here; otherwise the time is guessed, and its
    range (`seconds_range`) is wide. A job that does not fit this machine is reported on all the same. Raises SpecError
    and ModelError. note: as in `generate`.
    """
    from cluster.jobs.report import report_on

    job = prepared(spec_of(spec, fields), check_fit=False, note=note)
    return report_on(job, measured(job) if calibrate else None)


def resume(
    folder: Path | str,
    *,
    executor: ExecutorName | None = None,
    workers: int | None = None,
    thorough: bool = False,
    allow_pickle: bool = False,
    progress: bool | None = None,
    on_event: OnEvent = unheard,
) -> Result:
    """Go on with the job of a folder, wherever it stopped; a finished one returns at once.

    What is missing or damaged is made again: of a finished job what shows in sizes, and with `thorough` what shows
    when all that should be there is read. `executor` and `workers` may differ from before; they do not change the
    picture. A job that was begun with allow_pickle needs it again. Raises what `generate` raises, and FormatError where
    the model's files are no longer those that the job began with. progress, on_event: as in `generate`.
    """
    job = continued(absolute(folder), executor, workers, allow_pickle)
    with shown(progress) as listener:
        return run(job, resume=True, on_event=fan_out(listener, on_event), thorough=thorough)


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
    progress: bool | None = None,
    on_event: OnEvent = unheard,
    **fields: Unpack[SpecFields],
) -> BatchResult:
    """Make a dataset: a picture for every request, in Parquet shards under `out`; returns when it is finished.

    requests: a .parquet, .csv or .jsonl file, or rows (mappings, a pyarrow Table, a pandas DataFrame) with id, prompt
    (or label), seed, width and height, perhaps negative_prompt, guidance_scale, num_inference_steps and classes (a path
    or the bytes of an image). What rows leave out comes from the fields of JobSpec given here. Instead, `n_images`
    asks for so many of the fields' picture, with ascending seeds. filter: a function of a PIL image, or its name as
    "module:function", see docs/batch.md; shard_bytes: the most that a shard takes. resume: go on where the folder holds
    this batch; retry_failed: so, and draw requests that failed once more. progress, on_event: as in `generate`.

    Every picture has the bytes that `generate` gives at full size, whatever it is drawn with. Raises SpecError,
    ModelError or FormatError before anything is drawn; then what `generate` raises. Requests that fail are in
    errors.parquet and counted in the result.
    """
    from cluster.datasets.entry import make_batch, table_of
    from cluster.datasets.extras import Extras
    from cluster.datasets.plan import SHARD_BYTES, Sizes

    if "out" not in fields:
        raise SpecError("out is missing; name the folder to write to")
    with shown(progress) as listener:
        return make_batch(
            table_of(requests, n_images), dict(fields), filter=filter, extras=Extras(webdataset, folders),
            sizes=Sizes(shard_bytes=shard_bytes or SHARD_BYTES), resume=resume, retry_failed=retry_failed,
            on_event=fan_out(listener, on_event),
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
    progress: bool | None = None,
    on_progress: OnProgress | None = None,
) -> Path:
    """Write a finished job's picture in another format, beside the job unless `out` says where; returns the path.

    format: a name of cluster.results.exporting.FORMATS. region (x, y, width, height) in pixels, scale, dpi and iiif_id
    are for still pictures; path (a keyframe file) or zoom_to (x, y[, zoom]), loop, fps, seconds, size (width, height)
    and easing for videos. progress: a bar, as in `generate`, unless on_progress hears of it. Takes less than 500 MB.
    Raises SpecError and ExportError for what cannot be, OSError where files cannot be read or written; nothing is left
    then.
    """
    from cluster.results import exporting

    video = exporting.Video(
        absolute(path) if path is not None else None, zoom_to, loop, fps, seconds, size, easing
    )
    with counted("export", False if on_progress else progress) as listener:
        return exporting.export(
            absolute(folder), format, absolute(out) if out is not None else None, quality=quality,
            still=exporting.Still(region, scale, dpi, iiif_id), video=video, overwrite=overwrite,
            on_progress=on_progress or listener,
        )  # fmt: skip


# --- steps that the command line takes one by one --------------------------------------------------------------------


def spec_of(spec: JobSpec | str | None, fields: SpecFields) -> JobSpec:
    """A spec, or a prompt, with some fields replaced, all checked again."""
    given: dict[str, Any] = dict(fields)
    if isinstance(spec, JobSpec):
        given = {name: getattr(spec, name) for name in spec.model_fields_set} | given
    elif spec is not None:
        if "prompt" in fields:
            raise SpecError(f"two prompts are given, {spec!r} and {fields['prompt']!r}; give one")
        given["prompt"] = spec
    return JobSpec(**given)
