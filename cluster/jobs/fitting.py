"""Whether memory and disk hold a job: what it takes, what is there, what to change. Knows a plan; runs nothing.

Bytes of arrays and weights are exact; those of Python and of a network's layers, and of compressed pictures, are
typical figures.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from cluster.jobs.plan import Plan
from cluster.machine import environment, nearest_existing
from cluster.spec.fields import JobSpec, SpecError
from cluster.wording import gigabytes
from storage import containers

WORKER_BYTES = 700 * 2**20
"""A worker beyond its arrays and weights: Python, PyTorch, diffusers, and what the embedded model's layers hold."""
MEMORY_SHARE = 0.9
"""Of the free memory, what a job may take."""

UNTOLD = 8 * 2**30
"""Free memory where the system does not tell of it."""

MASTER = "ome-zarr"
BYTES_PER_PIXEL = {MASTER: 2.6}
BYTES_PER_TILE_PIXEL = {"jpg": 0.9, "png": 2.2, "webp": 0.6}
"""Typical of photographic pictures: zstd of RGB; JPEG and WebP at quality 90, PNG; with the smaller levels, a third
more."""


class DoesNotFit(SpecError):
    """A job that this machine cannot hold; another, or fewer workers, may be fine."""


def check_fits(plan: Plan, spec: JobSpec) -> None:
    """Refuse what neither memory nor disk can hold, before anything is written. Raises DoesNotFit."""
    _check_memory(plan, spec)
    _check_disk(plan, spec)


# --- memory ----------------------------------------------------------------------------------------------------------


def worker_bytes(plan: Plan) -> int:
    """Memory of one worker at its fullest. Of larger networks than the embedded one, the layers come on top."""
    return plan.task_peak_bytes + WORKER_BYTES


def workers_here(spec: JobSpec) -> int:
    """Workers of a resolved spec that share this machine's memory; of a cluster's at least one."""
    elsewhere = spec.executor == "ray" and "RAY_ADDRESS" in environment()
    return 1 if elsewhere else spec.workers or 1


def most_workers(plan: Plan) -> int:
    """Workers that free memory holds, at least one."""
    return max(1, int(available_memory() * MEMORY_SHARE) // worker_bytes(plan))


def _check_memory(plan: Plan, spec: JobSpec) -> None:
    workers, free = workers_here(spec), available_memory()
    needed = workers * worker_bytes(plan)
    if needed > free * MEMORY_SHARE:
        many = f"{workers} workers need" if workers > 1 else "a worker needs"
        raise DoesNotFit(
            f"{many} {gigabytes(needed)} of memory or more, {gigabytes(free)} are free; {_smaller(plan, workers)}"
        )


def _smaller(plan: Plan, workers: int) -> str:
    """What to change; a block is no smaller than a patch."""
    most = most_workers(plan)
    fewer = f"--workers {most}" if 1 < most < workers else "fewer --workers"
    block = f"a smaller --block than {plan.grid.block}" if plan.grid.block > plan.batching.cell else ""
    changes = " or ".join(filter(None, (fewer if workers > 1 else "", block)))
    return f"use {changes}" if changes else "free some memory, or use a machine with more"


def available_memory() -> int:
    """Bytes that new processes may take; a guess where the system does not tell."""
    found = containers.available_memory()
    return UNTOLD if found is None else found


# --- disk ------------------------------------------------------------------------------------------------------------


def bytes_by_output(plan: Plan, spec: JobSpec) -> dict[str, int]:
    """Estimated bytes of each output of the finished job."""
    return {name: _output_bytes(plan, spec, name) for name in spec.outputs} | {"latents": plan.latents_bytes}


def _output_bytes(plan: Plan, spec: JobSpec, name: str) -> int:
    each = BYTES_PER_PIXEL[name] if name in BYTES_PER_PIXEL else BYTES_PER_TILE_PIXEL[spec.tile_format]
    return int(plan.layout.width * plan.layout.height * 4 / 3 * each)


def disk_peak_bytes(plan: Plan, spec: JobSpec) -> int:
    """The most that the job's folder holds at once: while denoising, or when all is written.

    The OME-Zarr image is written whether it was asked for or not, for the smaller levels are read from it.
    """
    written = sum(bytes_by_output(plan, spec).values())
    unasked = 0 if MASTER in spec.outputs else _output_bytes(plan, spec, MASTER)
    return max(plan.work_bytes + plan.latents_bytes, written + unasked)


def _check_disk(plan: Plan, spec: JobSpec) -> None:
    folder = nearest_existing(Path(spec.out))
    free, needed = shutil.disk_usage(folder).free, disk_peak_bytes(plan, spec)
    if needed > free:
        raise DoesNotFit(
            f"{spec.width}x{spec.height} needs about {gigabytes(needed)} of disk, "
            f"{gigabytes(free)} are free at {folder}; make the picture smaller or choose another --out"
        )
