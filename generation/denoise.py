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

import numpy as np
import torch
from numpy.typing import NDArray

from generation.covers import Cover, Patch, owned_patches
from generation.fusion import Normaliser, Window, to_fixed, to_storage
from generation.models.contracts import Conditioner, Conditioning, Denoiser
from generation.noise import Purpose, noise
from generation.schedules import Schedule
from storage.geometry import Box, Canvas


class NumericalError(ArithmeticError):
    """The network returned something that is not a usable number."""


@dataclass(frozen=True)
class Sampler:
    """Everything that a denoising step needs beside the arrays; built once for each worker."""

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

    def start(self, box: Box) -> NDArray[np.float32]:
        """(C, h, w) x[0]: pure noise at the scheduler's first level."""
        drawn = torch.from_numpy(noise(self.seed, Purpose.START, 0, self.channels, box, self.canvas))
        return self.schedule.start(drawn).numpy()

    def advance(
        self, k: int, box: Box, state: NDArray[np.float32], prediction: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """State (x and history, stacked over channels) and fused prediction of step k -> state of step k + 1."""
        x, *history = torch.split(torch.from_numpy(state), self.channels)

        def draw(index: int) -> torch.Tensor:
            return torch.from_numpy(noise(self.seed, Purpose.STEP, k, self.channels, box, self.canvas, index))

        stepped, kept = self.schedule.step(k, x, history, torch.from_numpy(prediction), draw)
        return torch.cat([stepped, *kept]).numpy()

    def evaluate(self, k: int, block: Box, frame: Box, x: NDArray[np.float32]) -> NDArray[np.int32]:
        """(C, h, w) fixed-point weighted sum, over the frame, of the block's own predictions at x[k] of the frame."""
        patches = owned_patches(self.cover, k, block)
        shown = self.schedule.model_input(k, torch.from_numpy(x))
        normaliser = Normaliser(self.cover, k, frame, self.window)
        total = np.zeros(x.shape, np.int64)
        for first in range(0, len(patches), self.batch_size):
            batch = patches[first : first + self.batch_size]
            predictions = self._predict(
                k, batch, torch.stack([_crop(shown, patch.box, frame) for patch in batch])
            )
            for patch, prediction in zip(batch, predictions, strict=True):
                self.check(prediction, patch, k)
                total[_at(patch.box, frame)] += to_fixed(prediction * normaliser.weights(patch))
        return to_storage(total)

    def _predict(self, k: int, patches: Sequence[Patch], latents: torch.Tensor) -> NDArray[np.float32]:
        """(N, C, h, w) guided predictions of up to a batch of patches."""
        return self.guided(
            k, latents, [patch.box for patch in patches], self.conditioner, self.guidance_scale
        )

    @torch.inference_mode()
    def guided(
        self,
        k: int,
        latents: torch.Tensor,
        boxes: list[Box],
        conditioner: Conditioner,
        scale: float | torch.Tensor,
    ) -> NDArray[np.float32]:
        """(N, C, h, w) guided predictions of up to a batch, evaluated in a batch of fixed, padded size.

        scale: one number, or of each place in the batch (batch_size, 1, 1, 1) numbers that are all above 1.
        """
        padded = boxes + [boxes[-1]] * (self.batch_size - len(boxes))
        inputs = torch.cat([latents, latents[-1:].expand(self.batch_size - len(boxes), -1, -1, -1)])
        inputs = inputs.to(self.device, self.dtype)
        timestep = self.schedule.timesteps[k].to(self.device)
        told = self.denoiser.predict(inputs, timestep, self._moved(conditioner.conditional(padded)))
        told = told.float()
        if self.guidance_scale > 1:  # classifier-free guidance (Ho & Salimans 2022), in diffusers' convention
            untold = self.denoiser.predict(inputs, timestep, self._moved(conditioner.unconditional(padded)))
            told = untold.float() + scale * (told - untold.float())
        return np.asarray(told[: len(boxes)].cpu().numpy())

    def _moved(self, conditioning: Conditioning) -> Conditioning:
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            for name, value in conditioning.items()
        }

    def check(self, prediction: NDArray[np.float32], patch: Patch, k: int) -> None:
        """Raises NumericalError where it is not all numbers."""
        if not np.isfinite(prediction).all():
            broken = "NaN" if np.isnan(prediction).any() else "infinity"
            raise NumericalError(
                f"the network returned {broken} at step {k}, patch at latent (y {patch.box.y0}, x {patch.box.x0}); "
                f"dtype {str(self.dtype).removeprefix('torch.')}: try --dtype float32 or a lower --guidance-scale"
            )


def _crop(x: torch.Tensor, box: Box, frame: Box) -> torch.Tensor:
    return x[_at(box, frame)]


def _at(box: Box, frame: Box) -> tuple[slice, slice, slice]:
    return (slice(None), *box.slices_in(frame))
