"""A stage brought from outside: latents are blurred before they are decoded, in blocks; the engine is untouched."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine import latents_of, run_here, tiny_job, tiny_model

from cluster.engine.executors.in_process import InProcess
from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.engine.worker import build_sampler
from cluster.jobs.job import Job
from cluster.jobs.plan import LatentPass
from cluster.jobs.stages import Margin
from storage.geometry import Box


def blur(latents: np.ndarray, frame: Box, own: Box) -> np.ndarray:
    """The mean of 3 x 3 latents; at borders that do not wrap, of those that are there."""
    total, count = np.zeros_like(latents), np.zeros(latents.shape[1:], np.float32)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            to = tuple(
                slice(max(d, 0), n + min(d, 0)) for d, n in zip((dy, dx), latents.shape[1:], strict=True)
            )
            of = tuple(
                slice(max(-d, 0), n + min(-d, 0)) for d, n in zip((dy, dx), latents.shape[1:], strict=True)
            )
            total[:, *to] += latents[:, *of]
            count[to] += 1
    return (total / count)[(slice(None), *own.slices_in(frame))]


def blurring(job: Job) -> tuple[Job, InProcess]:
    job = replace(job, plan=replace(job.plan, passes=(LatentPass("blur", Margin.around(1)),)))
    model = tiny_model(info=job.info)
    worker = Worker(job, build_sampler(job, model), model.codec, outputs_for(job), passes={"blur": blur})
    return job, InProcess(worker)


@pytest.mark.parametrize("topology", ["plane", "torus"])
def test_latents_are_blurred_in_blocks(
    topology: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharp = tiny_job(tmp_path / "sharp", monkeypatch, topology=topology)
    run_here(sharp)
    job, executor = blurring(tiny_job(tmp_path / "blurred", monkeypatch, topology=topology))
    run_here(job, executor=executor)
    latents, canvas = latents_of(sharp), job.plan.canvas
    around = canvas.clip(canvas.box.expanded(1))
    rows, columns = (
        np.arange(around.y0, around.y1) % canvas.height,
        np.arange(around.x0, around.x1) % canvas.width,
    )
    assert np.allclose(
        latents_of(job), blur(latents[:, rows[:, None], columns], around, canvas.box), atol=1e-6
    )
    assert [stage.name for stage in job.plan.stages][5:7] == ["blur", "decode"]
    assert not (job.spec.out / "work").exists()
