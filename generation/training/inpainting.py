"""Knows how the inpainting variant learns: what is hidden, what it sees, its loss and figures. Knows no loop.

The network of the denoiser with more planes to read, in the order of diffusers' inpainting networks after the classes:

    noisy (C) | classes (K) | hidden (1): 1 where to paint | context (C): clean latents where visible, 0 where hidden

    sides          corners        inside         outside        nothing is visible
    +----+-----+   +-------+      +---------+    +---------+    +---------+
    |see |/////|   | see   |      | see     |    |/////////|    |/////////|
    |    |/////|   |  +----+      |  +---+  |    |//+---+//|    |/////////|
    |    |/////|   |  |////|      |  |///|  |    |//|see|//|    |/////////|
    +----+-----+   +--+----+      +--+---+--+    +---------+    +---------+

Sides and corners are the windows of an autoregressive extension, inside and outside those of picture frames. The loss
is the denoiser's with other weights, for the plain task is learnt already: places by what can be learnt there (little
where all is visible, most beside what is visible), and more of the noise levels where colours and shapes are chosen.
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
from generation.training.crops import CropSets
from generation.training.data import Bools
from generation.training.denoiser import (
    DenoiserBatch,
    Phase,
    averaged,
    channel_weights,
    draw_pairs,
    halved,
    squared_errors,
)
from generation.training.latents import BlockPca, to_bytes
from generation.training.loop import stratified_steps
from generation.training.networks import build_noise_schedule
from generation.training.samples import sample, stack_column

NAME = "inpainting"
SIDES, CORNERS, INSIDE, OUTSIDE = 0.4, 0.6, 0.75, 0.9
VISIBLE_WEIGHT, HIDDEN_WEIGHT, BORDER_WEIGHT = 0.1, 1.0, 3.0
BORDER = 3
EARLINESS = 0.6
JUDGED_CROPS, JUDGED_BATCH, SHEET_ROWS = 64, 8, 6


def extra_planes(channels: int) -> int:
    """Planes that the variant reads beside the denoiser's."""
    return channels + 1


def draw_hidden(random: np.random.Generator, height: int, width: int) -> Bools:
    """(h, w): what is to be painted, of one of the kinds above."""
    kind, hidden = random.random(), np.zeros((height, width), dtype=bool)
    y, x = _cut(random, height), _cut(random, width)
    if kind < SIDES:
        if random.random() < 0.5:
            hidden[:, x:] = True
        else:
            hidden[y:] = True
    elif kind < CORNERS:
        hidden[y:, x:] = True
    elif kind < OUTSIDE:
        y1, x1 = _cut(random, height), _cut(random, width)
        hidden[min(y, y1) : max(y, y1) + 1, min(x, x1) : max(x, x1) + 1] = True
        hidden ^= kind >= INSIDE
    else:
        hidden[:] = True
    if random.random() < 0.5:
        hidden = hidden[::-1]
    return hidden[:, ::-1] if random.random() < 0.5 else hidden


def _cut(random: np.random.Generator, length: int) -> int:
    """A place that leaves at least an eighth on either side."""
    return int(random.integers(max(1, length // 8), length - length // 8))


def told(latents: Tensor, classes: Tensor, hidden: Tensor) -> Tensor:
    """(N, C, h, w), (N, K, h, w), (N, 1, h, w) -> (N, K + 1 + C, h, w): all that is read beside the noisy latents."""
    return torch.cat([classes, hidden, latents * (1.0 - hidden)], dim=1)


def place_weights(hidden: Tensor) -> Tensor:
    """(N, 1, h, w): what each place counts in the loss; hidden latents up to BORDER from a visible one count most."""
    reached = nn.functional.max_pool2d(1.0 - hidden, 2 * BORDER + 1, stride=1, padding=BORDER)
    inner = HIDDEN_WEIGHT + (BORDER_WEIGHT - HIDDEN_WEIGHT) * reached
    return torch.where(hidden > 0, inner, VISIBLE_WEIGHT)


def early_steps(number: int, generator: torch.Generator) -> Tensor:
    """Stratified timesteps with more of the noisy end: t = 1000 u ** EARLINESS."""
    shares = (stratified_steps(number, generator) + 0.5) / 1000
    return (1000 * shares**EARLINESS).long().clamp(max=999)


@dataclass(frozen=True)
class InpaintingSubject:
    """The variant as the loop sees it. build: a network to hold the averaged weights."""

    sets: CropSets
    pca: BlockPca
    phase: Phase
    build: Callable[[], Any]

    @cached_property
    def schedule(self) -> Any:
        """The noise schedule of training."""
        return build_noise_schedule()

    @property
    def classes(self) -> int:
        """K."""
        return len(self.sets.training.classes)

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> DenoiserBatch:
        """Crops with hidden parts; noise of every strength."""
        del step
        phase = halved(self.phase, random)
        latents, classes = draw_pairs(self.sets.training, self.pca, phase, random)
        masks = np.stack([draw_hidden(random, phase.height, phase.width) for _ in range(phase.batch)])
        hidden = torch.from_numpy(masks)[:, None].float()
        noise = torch.randn(latents.shape, generator=torch_random)
        condition = told(latents, classes, hidden)
        return DenoiserBatch(latents, condition, noise, early_steps(len(latents), torch_random))

    def loss(self, state: TrainingState, batch: DenoiserBatch) -> Tensor:
        """The denoiser's loss, weighted by place."""
        batch = batch.to(next(state.model.parameters()).device)
        hidden = batch.classes[:, self.classes]
        places = place_weights(hidden[:, None])
        errors = squared_errors(state.model, batch, self.schedule) * places / places.mean()
        weights = channel_weights(self.pca).to(errors.device)
        return (weights[:, None, None] * errors).mean()

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """Held-out v-loss of hidden places, with their context and without; and a sheet."""
        model = averaged(self.build(), state.average).to(next(state.model.parameters()).device)
        self.write_sheet(model, out / f"inpainting-{state.step:06d}.png", state.step)
        return {
            "held_out": self.held_out_loss(model, context=True),
            "without_context": self.held_out_loss(model, context=False),
        }

    def held_out_loss(self, model: nn.Module, context: bool) -> float:
        """v-loss per hidden latent on fixed crops; without context all is hidden, and the same places are judged."""
        random, generator = np.random.default_rng(98), torch.Generator().manual_seed(98)
        device, total, count = next(model.parameters()).device, 0.0, 0.0
        for index in range(0, JUDGED_CROPS, JUDGED_BATCH):
            latents, classes, hidden = self._judged(random, JUDGED_BATCH)
            noise = torch.randn(latents.shape, generator=generator)
            place = torch.arange(JUDGED_BATCH) * JUDGED_CROPS // JUDGED_BATCH + index // JUDGED_BATCH
            steps = ((place + 0.5) * 1000 / JUDGED_CROPS).long()
            seen = told(latents, classes, hidden if context else torch.ones_like(hidden))
            with torch.no_grad():
                errors = squared_errors(
                    model, DenoiserBatch(latents, seen, noise, steps).to(device), self.schedule
                )
            total += float((errors.mean(dim=1, keepdim=True).cpu() * hidden).sum())
            count += float(hidden.sum())
        return total / count

    def _judged(self, random: np.random.Generator, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Held-out latents, classes and hidden places; something is visible in each."""
        phase = Phase(1.0, number, self.phase.height, self.phase.width)
        latents, classes = draw_pairs(self.sets.held_out, self.pca, phase, random)
        masks: list[Bools] = []
        while len(masks) < number:
            mask = draw_hidden(random, phase.height, phase.width)
            if not mask.all():
                masks.append(mask)
        return latents, classes, torch.from_numpy(np.stack(masks))[:, None].float()

    def write_sheet(self, model: nn.Module, path: Path, seed: int) -> None:
        """Rows of | visible part | painted | real |, decoded by the linear inverse."""
        latents, classes, hidden = self._judged(np.random.default_rng(seed), SHEET_ROWS)
        device = next(model.parameters()).device
        painted = sample(model, told(latents, classes, hidden).to(device), 20, 1.0, seed).cpu()
        visible = to_bytes(self.pca.decode(latents))
        side = visible.shape[1] // latents.shape[2]
        covered = hidden[:, 0].bool().numpy().repeat(side, axis=1).repeat(side, axis=2)
        visible[covered] = 128
        composed = latents * (1.0 - hidden) + painted * hidden
        columns = [visible, to_bytes(self.pca.decode(composed)), to_bytes(self.pca.decode(latents))]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate([stack_column(column) for column in columns], axis=1)).save(path)


def warm_start(network: Any, denoiser: Path) -> None:
    """Begin at the denoiser's averaged weights; what the further planes say counts nothing at first."""
    weights = read(denoiser)["average"]
    first = network.conv_in.weight.detach().clone().zero_()
    known = weights["conv_in.weight"]
    first[:, : known.shape[1]] = known
    network.load_state_dict({**weights, "conv_in.weight": first})
