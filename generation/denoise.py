"""One block, one step: fuse, take the scheduler's step, evaluate the block's patches. Pure functions of arrays.

window   the block and its halo: what the block's own patches read
own      the patches whose centre lies in the block; each patch of a step is owned by one block

         +-- window ----------+
         |   +-- block --+    |      step k of block b
         |   |     +-----+--+ |        x[k]      on the window, from x[k-1] and the fused prediction
         |   |     |patch   | |        sums[k]   of the own patches, on the window
         |   +-----+-----+--+ |
         +---------+--------+-+
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from generation.covers import Cover, Patch, owned_patches
from generation.fusion import Normaliser, Window, to_fixed, to_storage
from generation.models.contracts import Conditioner, Denoiser
from generation.noise import Purpose, noise
from generation.parts import Alike, Ask, Evaluations, Mixture, Network, Subject
from generation.schedules.contract import Schedule
from storage.geometry import Box, Canvas

Fields: TypeAlias = Sequence[NDArray[np.float32]]
"""x, then what the scheduler remembers, each (C, h, w); not to be written to, for they may share memory."""


class NumericalError(ArithmeticError):
    """The network returned something that is not a usable number."""


@dataclass(frozen=True)
class Sampler:
    """Everything that a denoising step needs beside the arrays; built once for each worker.

    conditioner: tells every patch the same words, unless a `mixture` tells them several things at once.
    """

    canvas: Canvas
    cover: Cover
    window: Window
    schedule: Schedule
    seed: int
    channels: int
    denoiser: Denoiser
    conditioner: Conditioner
    guidance_scale: float
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    mixture: Mixture | None = None

    def start(self, box: Box) -> NDArray[np.float32]:
        """(C, h, w) x[0]: pure noise at the scheduler's first level."""
        drawn = torch.from_numpy(noise(self.seed, Purpose.START, 0, self.channels, box, self.canvas))
        return self.schedule.start(drawn).numpy()

    def advance(self, k: int, box: Box, fields: Fields, prediction: NDArray[np.float32]) -> Fields:
        """Fields of step k and the fused prediction (C, h, w) there -> fields of step k + 1, none of them copied."""
        x, *history = (torch.from_numpy(field) for field in fields)

        def draw(index: int) -> torch.Tensor:
            return torch.from_numpy(noise(self.seed, Purpose.STEP, k, self.channels, box, self.canvas, index))

        stepped, kept = self.schedule.step(k, x, history, torch.from_numpy(prediction), draw)
        return [field.numpy() for field in (stepped, *kept)]

    def evaluate(self, k: int, block: Box, frame: Box, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """(C, h, w) fixed-point weighted sum, over the frame, of the block's own predictions at x[k] of the frame."""
        shown = self.schedule.model_input(k, torch.from_numpy(x))
        normaliser = Normaliser(self.cover, k, frame, self.window)
        total = np.zeros(x.shape, np.int64)
        asks = (self.ask(patch, patch, shown, frame) for patch in owned_patches(self.cover, k, block))
        for asked, prediction in Evaluations[Patch](self.network(k)).of(asks):
            patch = asked.subject
            self.check(prediction, patch, k)
            total[_at(patch.box, frame)] += to_fixed(prediction * normaliser.weights(patch))
        return to_storage(total)

    def ask(self, subject: Subject, patch: Patch, shown: torch.Tensor, frame: Box) -> Ask[Subject]:
        """A patch, told what this picture's mixture says; `shown` are the frame's latents."""
        latents = shown[_at(patch.box, frame)]
        return Ask(subject, patch.box, latents, self.told.parts(patch), self.guidance_scale)

    @property
    def told(self) -> Mixture:
        """What patches are told, part by part."""
        return self.mixture or Alike(self.conditioner)

    def network(self, k: int) -> Network:
        """The network at step k."""
        return Network(
            self.denoiser,
            self.schedule.timesteps[k],
            self.batch_size,
            self.guidance_scale > 1,
            self.device,
            self.dtype,
        )

    def check(self, prediction: NDArray[np.float32], patch: Patch, k: int) -> None:
        """Raises NumericalError where it is not all numbers."""
        if not np.isfinite(prediction).all():
            broken = "NaN" if np.isnan(prediction).any() else "infinity"
            raise NumericalError(
                f"the network returned {broken} at step {k}, patch at latent (y {patch.box.y0}, x {patch.box.x0}); "
                f"dtype {str(self.dtype).removeprefix('torch.')}: try --dtype float32 or a lower --guidance-scale"
            )


def _at(box: Box, frame: Box) -> tuple[slice, slice, slice]:
    return (slice(None), *box.slices_in(frame))
