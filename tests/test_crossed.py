"""Every solver with every method on every topology: blocks, in memory, give the bits of the whole canvas."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine import INFO, latents_of, run_here, tiny_job, tiny_model
from numpy.typing import NDArray
from test_engine import METHODS, info_for

from cluster.engine.worker import build_sampler
from cluster.jobs.job import Job
from cluster.jobs.plan import Plan
from generation.sampling.denoise import Sampler
from generation.sampling.fusion import from_fixed
from generation.sampling.packing import wrapped
from generation.sampling.schedules.names import NATIVE_NAMES, SHORT_NAMES
from storage.geometry import TOPOLOGIES, Box


def in_blocks(plan: Plan, sampler: Sampler) -> list[NDArray[np.float32]]:
    """The fields after the last step, (C, H, W) each: evaluated, fused and stepped block by block."""
    canvas, whole = plan.canvas, plan.canvas.box
    fields = [sampler.start(whole)]
    for k in range(plan.steps):
        total = np.zeros((plan.channels, *whole.shape), np.int64)
        for own, frame in blocks_of(plan):
            sums = sampler.evaluate(k, own, frame, wrapped(fields[0], canvas, frame)).sums
            for piece, home in canvas.split_at_edges(frame):
                total[:, *home.slices_in(whole)] += sums[:, *piece.slices_in(frame)]
        stepped = [np.empty_like(fields[0]) for _ in range(plan.fields[k + 1])]
        for own, frame in blocks_of(plan):
            inputs = [wrapped(field, canvas, frame) for field in fields]
            after = sampler.advance(k, frame, inputs, from_fixed(wrapped(total, canvas, frame)))
            for out, field in zip(stepped, after, strict=True):
                out[:, *own.slices_in(whole)] = field[:, *own.slices_in(frame)]
        fields = stepped
    return fields


def blocks_of(plan: Plan) -> Iterator[tuple[Box, Box]]:
    return ((plan.grid.box(block), plan.frame(block)) for block in range(plan.blocks))


def job_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, scheduler: str, block: int, **fields: object
) -> Job:
    return tiny_job(
        folder, monkeypatch, info_for(scheduler), scheduler=scheduler, block=block, num_inference_steps=5,
        batch_size=3, guidance_scale=2.0, **fields,
    )  # fmt: skip


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("method", "overlap"), METHODS)
@pytest.mark.parametrize("scheduler", [*SHORT_NAMES, *NATIVE_NAMES])
def test_no_block_shows(
    scheduler: str, method: str, overlap: float, topology: str, tmp_path, monkeypatch
) -> None:
    drawn = []
    for block in (32, 64):
        job = job_of(
            tmp_path, monkeypatch, scheduler, block, method=method, overlap=overlap, topology=topology
        )
        drawn.append(in_blocks(job.plan, build_sampler(job, tiny_model(info=job.info))))
    assert (job.plan.blocks, len(drawn[0])) == (1, 1)
    assert np.isfinite(drawn[0][0]).all() and np.ptp(drawn[0][0]) > 0.1
    assert np.array_equal(drawn[0][0], drawn[1][0])


def test_in_memory_is_as_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(tmp_path, monkeypatch, "unipc", 32, method="random-grid", topology="torus")
    run_here(job)
    found = in_blocks(job.plan, build_sampler(job, tiny_model(info=INFO)))
    assert np.array_equal(found[0], latents_of(job))
