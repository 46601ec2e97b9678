"""The engine beside a loop that shares none of it: diffusers' own scheduler, the whole canvas, floating-point sums.

Noise comes from the engine; everything else is written here as the papers have it.
"""

import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from engine import INFO, ConvolutionalDenoiser, Told, latents_of, run_here, tiny_job

from generation.noise import Purpose, noise
from storage.geometry import Box

STEPS, SIDE = 6, INFO.patch
CLASSES = {
    "ddim": diffusers.DDIMScheduler,
    "euler": diffusers.EulerDiscreteScheduler,
    "heun": diffusers.HeunDiscreteScheduler,
    "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler,
    "pndm": diffusers.PNDMScheduler,
}


def starts(length: int, stride: int) -> list[int]:
    """Of patches that cover [0, length), the last one ending there."""
    count = 1 + math.ceil((length - SIDE) / stride)
    return [min(index * stride, length - SIDE) for index in range(count)]


def window(kind: str) -> torch.Tensor:
    if kind == "uniform":
        return torch.ones(SIDE, SIDE)
    ramp = torch.sin(torch.pi * (torch.arange(SIDE) + 0.5) / SIDE) ** 2
    return torch.outer(ramp, ramp)


def fused(x: torch.Tensor, predict, kind: str, stride: int) -> torch.Tensor:
    """MultiDiffusion, equation 5, and Mixture of Diffusers: the weighted mean of what the patches say."""
    total, weights = torch.zeros_like(x), torch.zeros(x.shape[-2:])
    for top in starts(x.shape[-2], stride):
        for left in starts(x.shape[-1], stride):
            at = (slice(top, top + SIDE), slice(left, left + SIDE))
            total[..., *at] += window(kind) * predict(x[..., *at], Box(top, top + SIDE, left, left + SIDE))
            weights[at] += window(kind)
    return total / weights


@pytest.mark.parametrize("scheduler", CLASSES)
@pytest.mark.parametrize("kind", ["uniform", "hann"])
def test_the_engine_draws_what_a_plain_loop_draws(
    scheduler: str, kind: str, tmp_path: Path, monkeypatch
) -> None:
    job = tiny_job(
        tmp_path,
        monkeypatch,
        method=kind,
        overlap=0.5,
        scheduler=scheduler,
        num_inference_steps=STEPS,
        seed=3,
    )
    run_here(job)
    canvas, channels = job.plan.canvas, job.plan.channels
    settings = {"clip_sample": False} if scheduler == "ddim" else {}
    solver = CLASSES[scheduler].from_config(INFO.scheduler_config, **settings)
    solver.set_timesteps(STEPS)
    drawn = noise(3, Purpose.START, 0, channels, canvas.box, canvas)
    x = torch.from_numpy(drawn)[None] * float(solver.init_noise_sigma)
    denoiser, told = ConvolutionalDenoiser(), Told(len(job.spec.prompt) / 10, canvas.height, canvas.width)
    for timestep in solver.timesteps:
        shown = solver.scale_model_input(x, timestep)

        def predict(patch: torch.Tensor, box: Box, timestep: torch.Tensor = timestep) -> torch.Tensor:
            return denoiser.predict(patch, timestep, told.conditional([box]))

        prediction = fused(shown, predict, kind, SIDE // 2)
        x = solver.step(prediction, timestep, x, return_dict=False)[0]
    assert np.abs(x[0].numpy()).max() > 0.5
    assert np.allclose(latents_of(job), x[0].numpy(), atol=2e-5 * float(x.abs().max()))
