"""Observations from outside: a known half of the picture, known averages of cells; in blocks as on the whole canvas."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import latents_of, run_here, tiny_job, tiny_model

from cluster.engine.executors.in_process import InProcess
from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.engine.worker import build_sampler
from cluster.jobs.job import Job
from generation.sampling.observation import Observation
from generation.sampling.schedules.contract import Schedule
from storage.geometry import RING, Box, Canvas


@dataclass(frozen=True)
class KnownMeans:
    """The means of cells of clean latents are known: each cell is moved, as a whole, to its own."""

    schedule: Schedule
    canvas: Canvas
    cell: int

    def wanted(self, box: Box) -> np.ndarray:
        """(h, w): of every latent's cell, by the cell's place on the canvas."""
        rows = np.arange(box.y0, box.y1) % self.canvas.height // self.cell
        columns = np.arange(box.x0, box.x1) % self.canvas.width // self.cell
        return np.sin(1.0 + rows[:, None] + 3.0 * columns).astype(np.float32)

    def corrected(self, k: int, box: Box, x: np.ndarray, prediction: np.ndarray) -> np.ndarray:
        noisy = torch.from_numpy(x)
        clean = self.schedule.clean(k, noisy, torch.from_numpy(prediction)).numpy()
        channels, height, width = clean.shape
        cells = clean.reshape(channels, height // self.cell, self.cell, width // self.cell, self.cell)
        means = cells.mean((2, 4), keepdims=True) * np.ones_like(cells)
        moved = clean + self.wanted(box) - means.reshape(clean.shape)
        return self.schedule.predicted(k, noisy, torch.from_numpy(moved)).numpy()


def drawn(job: Job, observation: Observation) -> np.ndarray:
    model = tiny_model(info=job.info)
    sampler = replace(build_sampler(job, model), observation=observation)
    run_here(job, executor=InProcess(Worker(job, sampler, model.codec, outputs_for(job))))
    return latents_of(job)


def job_of(folder: Path, monkeypatch: pytest.MonkeyPatch, cell: int, block: int) -> Job:
    job = tiny_job(
        folder, monkeypatch, width=2 * 96, height=2 * 60, topology="ring", method="shifted", block=block,
        scheduler="dpmpp_2m", num_inference_steps=6,
    )  # fmt: skip
    return replace(job, plan=replace(job.plan, observed=cell))


@pytest.mark.parametrize("cell", [1, 4, 12])
def test_what_is_known_is_there_and_no_block_shows(cell: int, tmp_path: Path, monkeypatch) -> None:
    pictures = []
    for block in (48, 96):
        job = job_of(tmp_path / str(block), monkeypatch, cell, block)
        pictures.append(drawn(job, KnownMeans(job.schedule(), job.plan.canvas, cell)))
    assert np.array_equal(*pictures)
    means = pictures[0].reshape(3, 60 // cell, cell, 96 // cell, cell).mean((2, 4))
    wanted = KnownMeans(job.schedule(), Canvas(60, 96, RING), cell).wanted(Box(0, 60, 0, 96))[::cell, ::cell]
    assert np.abs(means - wanted).max() < 1e-3
    assert cell == 1 or np.abs(pictures[0] - wanted.repeat(cell, 0).repeat(cell, 1)).max() > 0.1


def test_blocks_that_cut_what_is_observed_together_are_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="blocks of 48 latents, .* cut squares of 7"):
        job_of(tmp_path, monkeypatch, cell=7, block=48)
