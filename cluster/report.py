"""What a plan says to people: counts, bytes, memory, hours. Knows a prepared job; runs nothing.

Counts are exact. Bytes of compressed outputs and all times are estimates; a time says whether it was measured.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cluster.job import Job, bytes_by_output, disk_peak_bytes
from storage.pyramid import PyramidLayout

WORKER_BYTES = 700 * 2**20
"""A worker before it loads a model: Python, PyTorch, diffusers."""

OPERATIONS_PER_SECOND = {"cpu": 5e10, "cuda": 3e13}
SECONDS_PER_MEGAPIXEL = {"cpu": 6.0, "cuda": 0.2}
SMALL_FILES = 9
"""job.yaml, ledger, events, index.html, the four of viewer/, image.dzi."""


@dataclass(frozen=True)
class PlanReport:
    """The cost of a job before it runs.

    width, height: pixels. patches: network calls for one patch over all steps; evaluations: the same with
    guidance's second half. blocks: tasks of a step; tasks: of all stages. files: in the finished folder.
    bytes_by_output, work_bytes: estimates; disk_peak_bytes: the most that the folder holds at once.
    task_peak_bytes: arrays and weights of the largest task; job_peak_bytes: with all workers on one machine.
    seconds_per_evaluation, seconds: of one worker, and of the job; measured: by a calibration, else guessed.
    """

    width: int
    height: int
    megapixels: float
    steps: int
    patches: int
    evaluations: int
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
    measured: bool
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return asdict(self)


def report_on(job: Job, measured_seconds: float | None = None) -> PlanReport:
    """The report of a job, with the time that a calibration measured for one evaluation, or a guess."""
    plan, spec = job.plan, job.spec
    workers = spec.workers or 1
    pace = measured_seconds if measured_seconds is not None else guessed_seconds(job)
    return PlanReport(
        width=spec.width,
        height=spec.height,
        megapixels=spec.width * spec.height / 1e6,
        steps=plan.steps,
        patches=plan.patches,
        evaluations=plan.evaluations,
        blocks=plan.blocks,
        tasks=sum(stage.tasks for stage in plan.stages),
        workers=workers,
        files=count_files(job),
        bytes_by_output=bytes_by_output(plan, spec.outputs),
        work_bytes=plan.work_bytes,
        disk_peak_bytes=disk_peak_bytes(plan, spec.outputs),
        task_peak_bytes=plan.task_peak_bytes,
        job_peak_bytes=workers * (plan.task_peak_bytes + WORKER_BYTES),
        seconds_per_evaluation=pace,
        seconds=_seconds(job, pace),
        measured=measured_seconds is not None,
        fingerprint=job.fingerprint,
    )


def guessed_seconds(job: Job) -> float:
    """Of one evaluation: two operations for each weight and place, at the depth where most weights are."""
    weights = job.info.parameters_bytes / 4
    places = (job.info.patch / max(1, job.info.multiple)) ** 2 * 4
    return max(1e-3, 2 * weights * places / OPERATIONS_PER_SECOND[job.spec.device or "cpu"])


def _seconds(job: Job, pace: float) -> float:
    """Denoising, decoding and pyramid, shared evenly among as many workers as have something to do."""
    plan, spec = job.plan, job.spec
    workers = max(1, min(spec.workers or 1, plan.blocks))
    pixels = spec.width * spec.height / 1e6 * SECONDS_PER_MEGAPIXEL[spec.device or "cpu"]
    return (plan.evaluations * pace + pixels) / workers


def count_files(job: Job) -> int:
    """Files of the finished folder: tiles, shards, chunks of latents, and the small ones."""
    layout, outputs = job.plan.layout, job.spec.outputs
    tiles = _cells(layout, layout.deep_levels, lambda level: layout.tile) if "deep-zoom" in outputs else 0
    shards = (
        _cells(layout, layout.levels, layout.write_edge) + layout.levels + 1 if "ome-zarr" in outputs else 0
    )
    return tiles + shards + job.plan.blocks + 1 + SMALL_FILES


def _cells(layout: PyramidLayout, levels: int, edge: Any) -> int:
    """Squares of side edge(level) on each of the first `levels` levels."""
    sizes = ((layout.size(level), edge(level)) for level in range(levels))
    return sum(-(-height // side) * -(-width // side) for (height, width), side in sizes)
