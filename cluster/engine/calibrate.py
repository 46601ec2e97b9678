"""How long a job's networks take here, by running each a little. Knows jobs and clocks; writes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cluster.jobs.job import Job
from cluster.jobs.report import WRITING_SECONDS_PER_MEGAPIXEL, Pace
from cluster.machine import computation_kept, compute_with
from generation.models.contracts import ClassMap

SECONDS_ENOUGH = 10.0


def pace_here(job: Job) -> Pace:
    """The pace of one worker on this machine: the first block's patches in the job's own batches, and one decode tile.

    Of the job that invents the class map, too, where there is one.
    Raises what loading and evaluating raise.
    """
    from cluster.engine.worker import build_sampler
    from cluster.jobs.models import loaded

    spec = job.spec
    with computation_kept():
        compute_with(spec.threads)
        model = loaded(spec, job.info)
        sampler = build_sampler(job, model, _classes(job))
        megapixel = _megapixel(job, model.codec, sampler.device)
        of_map = pace_here(job.map) if job.map is not None else None
        return Pace(_evaluation(job, sampler), megapixel, measured=True, of_map=of_map)


def _classes(job: Job) -> ClassMap | None:
    """The job's class map; the first class everywhere in place of one that is still to be invented."""
    from cluster.engine.worker import class_map
    from generation.places.scenes import UniformMap

    if not job.info.class_names:
        return None
    return UniformMap(0) if job.map is not None else class_map(job)


def _evaluation(job: Job, sampler: Any) -> float:
    """Seconds of one evaluation."""
    own, frame = job.plan.grid.box(0), job.plan.frame(0)
    x = sampler.start(frame)
    evaluations = job.plan.spent_on(0, own).total
    return _seconds(lambda: sampler.evaluate(0, own, frame, x)) / max(1, evaluations)


def _megapixel(job: Job, codec: Any, device: Any) -> float:
    """Seconds of decoding and writing one megapixel: of a tile, times the tiles that a superblock takes."""
    import numpy as np

    from generation.decoding.decode import decode_tile

    plan = job.plan
    tiles = [tile.source for tile in plan.tiling.tiles_over(plan.decode_box(0))]
    largest = max(tiles, key=lambda tile: tile.area)
    latents = np.zeros((plan.channels, *largest.shape), np.float32)
    tile_seconds = _seconds(lambda: decode_tile(codec, latents, device))
    decoded = sum(tile.area for tile in tiles) / largest.area
    pixels = plan.layout.reads(plan.layout.task(0, 0)).box.area / 1e6
    return tile_seconds * decoded / pixels + WRITING_SECONDS_PER_MEGAPIXEL


def _seconds(work: Callable[[], object]) -> float:
    """Seconds that work takes the second time, unless the first took so long that warming up cannot have mattered."""
    for _ in range(2):
        began = time.perf_counter()
        work()
        seconds = time.perf_counter() - began
        if seconds > SECONDS_ENOUGH:
            break
    return seconds
