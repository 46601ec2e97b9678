"""The engine beside generation/plain.py, which shares none of it: the whole canvas, diffusers' own solver, float sums.

Noise comes from the engine, and where patches lie comes from its placements; everything else is written there as the
papers have it.
"""

from collections.abc import Callable
from itertools import product
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from engine import INFO, ConvolutionalDenoiser, Told, latents_of, run_here, tiny_job

from cluster.jobs.job import Job
from generation import plain
from generation.sampling.covers import Patch, owned_patches
from generation.sampling.fusion import hann
from generation.sampling.noise import Purpose, noise
from storage.geometry import TOPOLOGIES, Box, Canvas

STEPS, SIDE = 6, INFO.patch
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "pndm": diffusers.PNDMScheduler,
}


def solver_of(scheduler: str):
    settings = {"clip_sample": False} if scheduler == "ddim" else {}
    solver = CLASSES[scheduler].from_config(INFO.scheduler_config, **settings)
    solver.set_timesteps(STEPS)
    return solver


def drawn(job: Job, scheduler: str, patches: Callable[[int], list[plain.PlainPatch]]) -> np.ndarray:
    """(C, H, W) latents of a job by the plain loop."""
    canvas, solver = job.plan.canvas, solver_of(scheduler)
    denoiser, told = ConvolutionalDenoiser(), Told(len(job.spec.prompt) / 10, canvas.height, canvas.width)
    scale = job.spec.guidance_scale

    def predict(step: int, patch: plain.PlainPatch, latents: torch.Tensor) -> torch.Tensor:
        top, left = int(patch.rows[0]), int(patch.columns[0])
        place, timestep = [Box(top, top + SIDE, left, left + SIDE)], solver.timesteps[step]
        conditional = denoiser.predict(latents[None], timestep, told.conditional(place))[0]
        if scale <= 1:
            return conditional
        null = denoiser.predict(latents[None], timestep, told.unconditional(place))[0]
        return null + scale * (conditional - null)

    start = torch.from_numpy(noise(job.spec.seed, Purpose.START, 0, job.plan.channels, canvas.box, canvas))
    return plain.denoise(start * float(solver.init_noise_sigma), solver, patches, predict).numpy()


def assert_alike(found: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(expected).max() > 0.5
    assert np.allclose(found, expected, atol=2e-5 * float(np.abs(expected).max()))


@pytest.mark.parametrize("scheduler", CLASSES)
@pytest.mark.parametrize("kind", ["uniform", "hann"])
def test_overlapping_patches_of_a_plane(scheduler: str, kind: str, tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(
        tmp_path, monkeypatch, method=kind, overlap=0.5, scheduler=scheduler, num_inference_steps=STEPS, seed=3,
        batch_size=3,
    )  # fmt: skip
    run_here(job)
    window = plain.hann(SIDE) if kind == "hann" else torch.ones(SIDE, SIDE)
    patches = list(plain.grid(job.plan.canvas.height, job.plan.canvas.width, SIDE, SIDE // 2, window))
    assert_alike(latents_of(job), drawn(job, scheduler, lambda step: patches))


def wrapped(box: Box, canvas: Canvas) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(box.y0, box.y1) % canvas.height, np.arange(box.x0, box.x1) % canvas.width


def weighted(patch: Patch, canvas: Canvas, window: np.ndarray) -> plain.PlainPatch:
    """A patch that counts by its window on what it owns."""
    owned = np.zeros(patch.box.shape, np.float32)
    owned[patch.owns.slices_in(patch.box)] = window[patch.owns.slices_in(patch.box)]
    return plain.PlainPatch(*wrapped(patch.box, canvas), torch.from_numpy(owned))


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("method", "blend_last"),
    [("hann", 0), ("gaussian", 0), *product(("shifted", "random-patch", "random-grid"), (0, 2))],
)
def test_every_method_on_every_topology(
    method: str, topology: str, blend_last: int, tmp_path: Path, monkeypatch
) -> None:
    """With guidance; of covers whose patches have owners also where they blend at last."""
    overlapping = method in ("hann", "gaussian")
    job = tiny_job(
        tmp_path, monkeypatch, method=method, topology=topology, blend_last=blend_last, overlap=0.25,
        scheduler="dpmpp_2m", num_inference_steps=STEPS, guidance_scale=2.5, batch_size=3, seed=4,
    )  # fmt: skip
    run_here(job)
    canvas, line = job.plan.canvas, hann(SIDE)
    if method == "gaussian":
        line = np.exp(-(((np.arange(SIDE) + 0.5) / SIDE - 0.5) ** 2) / 0.02)
    blended = np.outer(line, line).astype(np.float32)

    def patches(step: int) -> list[plain.PlainPatch]:
        found = owned_patches(job.plan.cover, step, canvas.box)
        if overlapping or step >= STEPS - blend_last:
            return [weighted(patch, canvas, blended) for patch in found]
        if method == "shifted":
            return [weighted(patch, canvas, np.ones_like(blended)) for patch in found]
        order = sorted(found, key=lambda patch: patch.rank)
        return list(plain.owners([wrapped(patch.box, canvas) for patch in order], *canvas.box.shape))

    assert_alike(latents_of(job), drawn(job, "dpmpp_2m", patches))
