"""What a plan says to people: counts, bytes, memory, hours. Knows a prepared job; runs nothing.

Counts are exact, but those of random patches on large canvases, which are estimates, as are bytes of compressed
outputs and all times; a time says whether it was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cluster.jobs.fitting import bytes_by_output, disk_peak_bytes, worker_bytes
from cluster.jobs.inputs import copied_files
from cluster.jobs.job import Job
from cluster.jobs.plan import DENOISE, Plan
from cluster.jobs.stages import Task
from cluster.spec.fields import is_panorama
from generation.models.contracts import ModelInfo
from storage.pyramid import PyramidLayout
from viewer.page import COPIES, PANORAMA_COPIES

OPERATIONS_PER_SECOND = {"cpu": 5e10, "cuda": 3e13}
SECONDS_PER_MEGAPIXEL = {"cpu": 1.0, "cuda": 0.2}
WRITING_SECONDS_PER_MEGAPIXEL = 0.06
"""Levels, JPEG tiles and OME-Zarr on one core (docs/benchmarks.md)."""

TIME_RANGE = {True: (0.8, 1.5), False: (1 / 3, 3.0)}
"""Where the time of a job probably lies, as shares of the figure, of a pace that was measured or guessed: workers that
share a machine's memory and disk are slower than the one that was timed alone, and guesses know no processor."""

SMALL_FILES = 6
"""job.yaml, ledger, events, lock, index.html, provenance.xmp."""


@dataclass(frozen=True)
class PlanReport:
    """The cost of a job before it runs.

    width, height: pixels. patches: of all steps; evaluations: network calls for one patch, with guidance's second half
    and every region in it; evaluations_exact: not from a sample. blocks: tasks of a step; tasks: of all stages.
    files: in the finished folder.
    bytes_by_output, work_bytes: estimates; disk_peak_bytes: the most that the folder holds at once.
    task_peak_bytes: arrays and weights of the largest task; job_peak_bytes: with all workers on one machine.
    seconds_per_evaluation, seconds: of one worker, and of the job; measured: by a calibration, else guessed.
    seconds_range: between what the job probably takes.
    """

    width: int
    height: int
    megapixels: float
    steps: int
    patches: int
    evaluations: int
    evaluations_exact: bool
    blocks: int
    tasks: int
    workers: int
    files: int
    bytes_by_output: dict[str, int]
    work_bytes: int
    disk_peak_bytes: int
    task_peak_bytes: int
    job_peak_bytes: int
    seconds_per_evaluation: float
    seconds: float
    seconds_range: tuple[float, float]
    measured: bool
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return asdict(self)


@dataclass(frozen=True)
class Pace:
    """Seconds that one worker takes for one evaluation, and for one megapixel of decoding and writing.

    of_map: that of the job that invents the class map, where there is one.
    """

    evaluation: float
    megapixel: float
    measured: bool
    of_map: Pace | None = None


def report_on(job: Job, measured: Pace | None = None) -> PlanReport:
    """The report of a job, with the pace that a calibration measured, or a guess."""
    plan, spec = job.plan, job.spec
    workers = spec.workers or 1
    pace = measured or guessed_pace(job)
    seconds = _seconds(job, pace)
    low, high = TIME_RANGE[pace.measured]
    return PlanReport(
        width=spec.width,
        height=spec.height,
        megapixels=spec.width * spec.height / 1e6,
        steps=plan.steps,
        patches=plan.patches,
        evaluations=plan.evaluations,
        evaluations_exact=plan.spent.exact,
        blocks=plan.blocks,
        tasks=sum(stage.tasks for stage in plan.stages),
        workers=workers,
        files=count_files(job),
        bytes_by_output=bytes_by_output(plan, spec),
        work_bytes=plan.work_bytes,
        disk_peak_bytes=disk_peak_bytes(plan, spec),
        task_peak_bytes=plan.task_peak_bytes,
        job_peak_bytes=workers * worker_bytes(plan),
        seconds_per_evaluation=pace.evaluation,
        seconds=seconds,
        seconds_range=(low * seconds, high * seconds),
        measured=pace.measured,
        fingerprint=job.fingerprint,
    )


def guessed_pace(job: Job) -> Pace:
    """What a worker probably does on such a device."""
    device = job.spec.device or "cpu"
    evaluation = guessed_evaluation(job.info, device)
    megapixel = SECONDS_PER_MEGAPIXEL[device] * job.plan.tiling.passes
    return Pace(evaluation, megapixel, measured=False, of_map=guessed_pace(job.map) if job.map else None)


def guessed_evaluation(info: ModelInfo, device: str) -> float:
    """Seconds: two operations for each weight and place, at the depth where most weights are."""
    weights = info.parameters_bytes / 4
    places = (info.patch / max(1, info.multiple)) ** 2 * 4
    return max(1e-3, 2 * weights * places / OPERATIONS_PER_SECOND[device])


def task_seconds(plan: Plan, pace: Pace, task: Task) -> float:
    """Seconds of one task, roughly: where patches have regions, as if each had one."""
    if plan.stages[task[0]].kind == DENOISE:
        return plan.batches(task) * plan.batching.size * (2 if plan.guided else 1) * pace.evaluation
    return plan.layout.superblock**2 / 1e6 * pace.megapixel


def _seconds(job: Job, pace: Pace) -> float:
    """The map, denoising, decoding and pyramid, shared evenly among as many workers as have something to do."""
    plan, spec = job.plan, job.spec
    workers = max(1, min(spec.workers or 1, plan.blocks))
    pixels = spec.width * spec.height / 1e6
    before = _seconds(job.map, pace.of_map) if job.map and pace.of_map else 0.0
    return before + (plan.evaluations * pace.evaluation + pixels * pace.megapixel) / workers


def count_files(job: Job) -> int:
    """Files of the finished folder: tiles, shards, chunks of latents, copies of inputs, small ones; of its map, too."""
    layout, outputs = job.plan.layout, job.spec.outputs
    classes = bool(job.info.class_names) or job.regions is not None
    files = SMALL_FILES + len(COPIES) + job.plan.blocks + 2  # of latents, an array in a group
    files += len(copied_files(job.spec, job.inputs))
    if "deep-zoom" in outputs:
        files += _cells(layout, layout.deep_levels, lambda level: layout.tile) + 1
    if "ome-zarr" in outputs:
        levels = _cells(layout, layout.levels, layout.write_edge) + layout.levels + 1
        files += 2 * levels + 1 if classes else levels
    if classes:
        files += 1  # viewer/classes.js
    if is_panorama(job.spec):
        files += len(PANORAMA_COPIES) + 2  # panorama.html, viewer/panorama.js
    return files + (count_files(job.map) if job.map else 0)


def _cells(layout: PyramidLayout, levels: int, edge: Any) -> int:
    """Squares of side edge(level) on each of the first `levels` levels."""
    sizes = ((layout.size(level), edge(level)) for level in range(levels))
    return sum(-(-height // side) * -(-width // side) for (height, width), side in sizes)
