"""Knows how a denoiser learns to draw in a few long steps: targets, loss and figures. Knows no loop.

With alpha = cos phi and sigma = sin phi, the denoiser's probability-flow equation is dx / d phi = v (Salimans and Ho
2022). A step of DDIM from phi down to phi - d holds x_0 and e as the network sees them at phi:

    x' = cos(d) x - sin(d) v

As d grows the pictures get smooth. So the teacher, with its own solver, goes from noise to a picture in `solver_steps`
steps; the student, which begins with the teacher's weights, learns the v that reaches in one jump what k of them reach:

    teacher   x0 . . x3 . . x6 . . x9 . . x12       v*_i = (cos(d_i) x_i - x_{i+1}) / sin(d_i)
    student   x0 --> x1 --> x2 --> x3 --> x4        loss = sum_c w_c |v*_i - v_theta(x_i, t_i, class map)|^2

This is progressive distillation in a single stage, on the teacher's own paths instead of on noisy pictures: the student
will see no other states. It knows only the `jumps` timesteps that it was taught, and only DDIM's step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from generation.training.checkpoints import TrainingState, read
from generation.training.crops import CropSets, CropSource
from generation.training.denoiser import Phase, averaged, channel_weights, draw_pairs, halved
from generation.training.latents import BlockPca, to_bytes
from generation.training.networks import build_jump_solver, build_noise_schedule, build_solver
from generation.training.samples import stack_column

NAME = "distilled"
AVERAGE_DECAY = 0.998
JUDGED_PATCHES, JUDGED_BATCH, SHEET_ROWS = 32, 8, 6


@dataclass(frozen=True)
class DistillationBatch:
    """What a path begins with: noise (N, C, h, w) and one-hot class maps (N, K, h, w)."""

    noise: Tensor
    classes: Tensor

    def to(self, device: torch.device) -> DistillationBatch:
        """These targets on a device."""
        return DistillationBatch(self.noise.to(device), self.classes.to(device))


@dataclass(frozen=True)
class Jumps:
    """Where the student's steps begin, as timesteps (J,), and how far in phi each goes (J,)."""

    timesteps: Tensor
    angles: Tensor


def jumps_of(number: int) -> Jumps:
    """The steps of the solver that the student is sampled with; the last one ends at phi = 0."""
    solver = build_jump_solver()
    solver.set_timesteps(number)
    kept = build_noise_schedule().alphas_cumprod[solver.timesteps].double()
    phi = torch.cat([torch.atan2((1.0 - kept).sqrt(), kept.sqrt()), torch.zeros(1, dtype=torch.float64)])
    return Jumps(solver.timesteps, (phi[:-1] - phi[1:]).float())


def path(model: nn.Module, batch: DistillationBatch, solver: Any, steps: int, every: int = 1) -> Tensor:
    """(steps / every + 1, N, C, h, w): the noise, and what a solver makes of it after each `every` of its steps."""
    solver.set_timesteps(steps)
    x = batch.noise * solver.init_noise_sigma
    states = [x]
    for index, timestep in enumerate(solver.timesteps, start=1):
        with torch.no_grad():
            velocity = model(torch.cat([x, batch.classes], dim=1), timestep).sample.float()
        x = solver.step(velocity, timestep, x).prev_sample
        if index % every == 0:
            states.append(x)
    return torch.stack(states)


def jump_targets(states: Tensor, angles: Tensor) -> Tensor:
    """(J + 1, N, C, h, w), (J,) -> (J, N, C, h, w): v* of the equation above."""
    angles = angles.to(states.device)[:, None, None, None, None]
    return (angles.cos() * states[:-1] - states[1:]) / angles.sin()


@dataclass(frozen=True)
class DistillationSubject:
    """The student as the loop sees it. build: a network to hold the averaged weights."""

    sets: CropSets
    pca: BlockPca
    phase: Phase
    build: Callable[[], Any]
    teacher: nn.Module
    solver_steps: int
    jumps: int

    @cached_property
    def course(self) -> Jumps:
        """The student's steps."""
        return jumps_of(self.jumps)

    def draw(
        self, step: int, random: np.random.Generator, torch_random: torch.Generator
    ) -> DistillationBatch:
        """Class maps of random crops, noise of the same size."""
        del step
        return self._begin(self.sets.training, halved(self.phase, random), random, torch_random)

    def _begin(
        self, source: CropSource, phase: Phase, random: np.random.Generator, torch_random: torch.Generator
    ) -> DistillationBatch:
        latents, classes = draw_pairs(source, self.pca, phase, random)
        return DistillationBatch(torch.randn(latents.shape, generator=torch_random), classes)

    def taught(self, batch: DistillationBatch) -> Tensor:
        """(J + 1, N, C, h, w): the teacher's path, where the student's steps begin and end."""
        return path(self.teacher, batch, build_solver(), self.solver_steps, self.solver_steps // self.jumps)

    def squared_errors(self, model: nn.Module, batch: DistillationBatch) -> Tensor:
        """|v* - v_theta|^2 at all jumps: (J, N, C, h, w)."""
        states = self.taught(batch)
        maps = batch.classes.expand(self.jumps, *batch.classes.shape)
        seen = torch.cat([states[:-1], maps], dim=2).flatten(0, 1)
        timesteps = self.course.timesteps.to(seen.device).repeat_interleave(len(batch.noise))
        predicted = model(seen, timesteps).sample.float().unflatten(0, states[:-1].shape[:2])
        errors: Tensor = (predicted - jump_targets(states, self.course.angles)).square()
        return errors

    def loss(self, state: TrainingState, batch: DistillationBatch) -> Tensor:
        """The loss above, of all jumps of each path."""
        errors = self.squared_errors(state.model, batch.to(next(state.model.parameters()).device))
        return (channel_weights(self.pca).to(errors.device)[:, None, None] * errors).mean()

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """Unweighted held-out loss; squared neighbour differences of samples over the teacher's; and a sheet."""
        model = averaged(self.build(), state.average).to(next(state.model.parameters()).device)
        self.write_sheet(model, out / f"{NAME}-{state.step:06d}.png", state.step)
        return self.figures(model)

    def figures(self, model: nn.Module) -> dict[str, float]:
        """held_out, and detail: one where samples have the teacher's detail, less where they are smoother."""
        device, losses, ours, theirs = next(model.parameters()).device, 0.0, 0.0, 0.0
        for index in range(0, JUDGED_PATCHES, JUDGED_BATCH):
            batch = self._judged(97 + index, JUDGED_BATCH).to(device)
            with torch.no_grad():
                losses += float(self.squared_errors(model, batch).mean()) * JUDGED_BATCH
            ours += roughness(self.drawn(model, batch))
            theirs += roughness(self.taught(batch)[-1])
        return {"held_out": losses / JUDGED_PATCHES, "detail": ours / theirs}

    def _judged(self, seed: int, number: int) -> DistillationBatch:
        phase = Phase(1.0, number, self.phase.height, self.phase.width)
        random, torch_random = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
        return self._begin(self.sets.held_out, phase, random, torch_random)

    def drawn(self, model: nn.Module, batch: DistillationBatch) -> Tensor:
        """(N, C, h, w): the student's samples."""
        return path(model, batch, build_jump_solver(), self.jumps)[-1]

    def write_sheet(self, model: nn.Module, file: Path, seed: int) -> None:
        """Rows of | teacher | teacher in as few steps as the student | student |, decoded by the linear inverse."""
        batch = self._judged(seed, SHEET_ROWS).to(next(model.parameters()).device)
        columns = [
            self.taught(batch)[-1],
            path(self.teacher, batch, build_solver(), self.jumps)[-1],
            self.drawn(model, batch),
        ]
        pictures = [stack_column(to_bytes(self.pca.decode(latents.cpu()))) for latents in columns]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(pictures, axis=1)).save(file)


def roughness(latents: Tensor) -> float:
    """The mean squared difference of neighbours."""
    return float(latents.diff(dim=-1).square().mean() + latents.diff(dim=-2).square().mean())


def teacher_of(network: Any, denoiser: Path) -> Any:
    """A network with the averaged weights of a denoiser's checkpoint, which learns nothing more."""
    return averaged(network, read(denoiser)["average"])
