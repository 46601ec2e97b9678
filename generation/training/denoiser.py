"""Knows how the denoiser learns: its batches, loss and figures. Knows no codec, no source of pictures, no loop.

x_t = alpha_t z + sigma_t e,    v = alpha_t e - sigma_t z            (Salimans and Ho 2022)
loss = sum_c w_c |v_c - v_theta,c(x_t, t, class map)|^2

w_c is the root of what a latent channel is worth in pixels, its principal component's deviation: brightness and hue
before detail. All timesteps weigh the same; with min-SNR weights (Hang et al. 2023) fine detail came out too smooth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from generation.training.checkpoints import TrainingState
from generation.training.crops import CropSets, CropSource, condition, draw_coarsening
from generation.training.latents import BlockPca, to_unit
from generation.training.loop import stratified_steps
from generation.training.networks import build_noise_schedule
from generation.training.samples import write_sheet

NULL_SHARE = 0.1
HALVES = 0.2
HELD_OUT_CROPS, HELD_OUT_BATCH = 64, 8


@dataclass(frozen=True)
class Phase:
    """Steps up to `until` (a share of the whole run) use `batch` crops of height x width latents.

    With chance `halves` a step uses 2 `batch` crops of half the width or of half the height instead, so that the
    network also knows the half windows that overlaps are made of (Algorithm 6 of DiffCollage, Zhang et al. 2023).
    """

    until: float
    batch: int
    height: int
    width: int
    halves: float = 0.0


def phases_for(batch: int, side: int) -> tuple[Phase, ...]:
    """A quarter of the steps on twice as many crops of half the side, the rest on whole ones."""
    first = Phase(0.25, 2 * batch, side // 2, side // 2)
    return first, Phase(1.0, batch, side, side, halves=HALVES)


@dataclass(frozen=True)
class DenoiserBatch:
    """Latents (N, C, h, w), what is told of them (N, K, h, w), noise like the latents, and a timestep for each."""

    latents: Tensor
    classes: Tensor
    noise: Tensor
    steps: Tensor

    def to(self, device: torch.device) -> DenoiserBatch:
        """These latents and planes on a device."""
        moved = (tensor.to(device) for tensor in (self.latents, self.classes, self.noise, self.steps))
        return DenoiserBatch(*moved)


def draw_pairs(
    source: CropSource, pca: BlockPca, phase: Phase, random: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Latents of random crops and their coarsened class maps; a tenth of the maps are null."""
    crops = [source.draw(random, phase.height, phase.width) for _ in range(phase.batch)]
    number = len(source.classes)
    maps = np.stack([condition(crop, draw_coarsening(random), number, random) for crop in crops])
    maps[random.random(phase.batch) < NULL_SHARE] = 0.0
    return pca.encode(to_unit([crop.pixels for crop in crops])), torch.from_numpy(maps)


def channel_weights(pca: BlockPca) -> Tensor:
    """(C,) w_c of the equation above, with mean one."""
    weights = pca.deviations.sqrt()
    return weights / weights.mean()


def squared_errors(model: nn.Module, batch: DenoiserBatch, schedule: Any) -> Tensor:
    """|v - v_theta|^2 of each latent: (N, C, h, w)."""
    noisy = schedule.add_noise(batch.latents, batch.noise, batch.steps)
    target = schedule.get_velocity(batch.latents, batch.noise, batch.steps)
    predicted = model(torch.cat([noisy, batch.classes], dim=1), batch.steps).sample
    errors: Tensor = (predicted.float() - target).square()
    return errors


def phase_at(step: int, steps: int, phases: tuple[Phase, ...]) -> Phase:
    """The phase that a step belongs to."""
    return next(phase for phase in phases if step < phase.until * steps)


def halved(phase: Phase, random: np.random.Generator) -> Phase:
    """The phase itself, or, with its chance of halves, one of half windows side by side or above each other."""
    if random.random() >= phase.halves:
        return phase
    if random.random() < 0.5:
        return replace(phase, batch=2 * phase.batch, width=phase.width // 2)
    return replace(phase, batch=2 * phase.batch, height=phase.height // 2)


def held_out_loss(model: nn.Module, source: CropSource, pca: BlockPca, side: int) -> float:
    """Unweighted v-loss on fixed crops of side x side latents: fixed noise, evenly spread timesteps."""
    random, schedule = np.random.default_rng(99), build_noise_schedule()
    generator, phase = torch.Generator().manual_seed(99), Phase(1.0, HELD_OUT_BATCH, side, side)
    device, total = next(model.parameters()).device, 0.0
    for index in range(0, HELD_OUT_CROPS, HELD_OUT_BATCH):
        latents, classes = draw_pairs(source, pca, phase, random)
        noise = torch.randn(latents.shape, generator=generator)
        place = torch.arange(HELD_OUT_BATCH) * HELD_OUT_CROPS // HELD_OUT_BATCH + index // HELD_OUT_BATCH
        steps = ((place + 0.5) * 1000 / HELD_OUT_CROPS).long()
        with torch.no_grad():
            batch = DenoiserBatch(latents, classes, noise, steps).to(device)
            total += float(squared_errors(model, batch, schedule).mean(dim=(1, 2, 3)).sum())
    return total / HELD_OUT_CROPS


@dataclass(frozen=True)
class DenoiserSubject:
    """The denoiser as the loop sees it. build: a network to hold the averaged weights."""

    sets: CropSets
    pca: BlockPca
    steps: int
    phases: tuple[Phase, ...]
    build: Callable[[], Any]

    @cached_property
    def schedule(self) -> Any:
        """The noise schedule of training."""
        return build_noise_schedule()

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> DenoiserBatch:
        """Crops of the step's phase; noise of every strength."""
        phase = halved(phase_at(step, self.steps, self.phases), random)
        latents, classes = draw_pairs(self.sets.training, self.pca, phase, random)
        noise = torch.randn(latents.shape, generator=torch_random)
        return DenoiserBatch(latents, classes, noise, stratified_steps(len(latents), torch_random))

    def loss(self, state: TrainingState, batch: DenoiserBatch) -> Tensor:
        """The weighted loss of the equation above."""
        batch = batch.to(next(state.model.parameters()).device)
        errors = squared_errors(state.model, batch, self.schedule)
        return (channel_weights(self.pca).to(errors.device)[:, None, None] * errors).mean()

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """The held-out v-loss, and a sheet of samples to look at."""
        model = averaged(self.build(), state.average).to(next(state.model.parameters()).device)
        side = self.phases[-1].width
        held_out = held_out_loss(model, self.sets.held_out, self.pca, side)
        path = out / f"samples-{state.step:06d}.png"
        write_sheet(model, self.pca.decode, self.sets.held_out, side, path, seed=state.step)
        return {"held_out": held_out}


def averaged(model: Any, average: dict[str, Tensor]) -> Any:
    """The network with the moving average as its weights, for evaluation."""
    model.load_state_dict(average)
    return model.eval().requires_grad_(False)
