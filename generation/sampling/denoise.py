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

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from generation.models.contracts import Conditioner, Denoiser
from generation.models.errors import NumericalError
from generation.sampling.batching import Batching
from generation.sampling.covers import Cover, Patch, owned_patches
from generation.sampling.fusion import to_fixed, to_storage
from generation.sampling.noise import Purpose, noise
from generation.sampling.observation import UNOBSERVED, Observation
from generation.sampling.parts import Cell, Evaluations, Mixture, Network, OnePrompt, PatchQuery, Subject
from generation.sampling.schedules.contract import Schedule
from storage.geometry import Box, Canvas

Fields: TypeAlias = Sequence[NDArray[np.float32]]
"""x, then what the scheduler remembers, each (C, h, w); not to be written to, for they may share memory."""


@dataclass(frozen=True)
class Evaluated:
    """A block's predictions at one step, and what they took.

    sums: (C, h, w) fixed point, over the block's frame. conditional: evaluations, of which guidance's other end is
    none. seats: places in batches, of both ends.
    """

    sums: NDArray[np.int32]
    conditional: int
    seats: int


@dataclass(frozen=True)
class Sampler:
    """Everything that a denoising step needs beside the arrays; built once for each worker.

    conditioner: tells every patch the same words, unless a `mixture` tells them several things at once. observation:
    what the picture is made to agree with.
    """

    canvas: Canvas
    cover: Cover
    schedule: Schedule
    seed: int
    channels: int
    denoiser: Denoiser
    conditioner: Conditioner
    guidance_scale: float
    batching: Batching
    device: torch.device
    dtype: torch.dtype
    mixture: Mixture | None = None
    observation: Observation = UNOBSERVED

    def start(self, box: Box) -> NDArray[np.float32]:
        """(C, h, w) x[0]: pure noise at the scheduler's first level."""
        drawn = torch.from_numpy(noise(self.seed, Purpose.START, 0, self.channels, box, self.canvas))
        return self.schedule.start(drawn).numpy()

    def advance(self, k: int, box: Box, fields: Fields, prediction: NDArray[np.float32]) -> Fields:
        """Fields of step k and the fused prediction (C, h, w) there -> fields of step k + 1, none of them copied."""
        prediction = self.observation.corrected(k, box, fields[0], prediction)
        x, *history = (torch.from_numpy(field) for field in fields)

        def draw(index: int) -> torch.Tensor:
            return torch.from_numpy(noise(self.seed, Purpose.STEP, k, self.channels, box, self.canvas, index))

        stepped, kept = self.schedule.step(k, x, history, torch.from_numpy(prediction), draw)
        return [field.numpy() for field in (stepped, *kept)]

    def evaluate(self, k: int, block: Box, frame: Box, x: NDArray[np.float32]) -> Evaluated:
        """The block's own predictions at x[k] (C, h, w) of the frame, weighted and added up."""
        shown = self.schedule.model_input(k, torch.from_numpy(x))
        weights = self.cover.weights(k, frame)
        total = np.zeros(x.shape, np.int64)
        evaluations = Evaluations[Patch](self.network(k))
        for query, prediction in evaluations.of(self.cells(k, block, frame, shown, lambda patch: patch)):
            patch = query.subject
            self.check(prediction, patch, k)
            total[_at(patch.box, frame)] += to_fixed(prediction * weights.of(patch))
        return Evaluated(to_storage(total), evaluations.conditional, evaluations.seats)

    def cells(
        self, k: int, block: Box, frame: Box, shown: torch.Tensor, subject: Callable[[Patch], Subject]
    ) -> Iterator[Cell[Subject]]:
        """The block's own patches of step k, by the cells of the canvas; `shown` are the frame's latents."""
        for cell in self.batching.cells_in(block):
            patches = owned_patches(self.cover, k, cell)
            queries = [self._query(k, patch, subject(patch), shown, frame) for patch in patches]
            yield Cell(queries, self.batching)

    def _query(
        self, k: int, patch: Patch, subject: Subject, shown: torch.Tensor, frame: Box
    ) -> PatchQuery[Subject]:
        """A patch, told what this picture's mixture says."""
        mixture = self.mixture or OnePrompt(self.conditioner)
        latents = shown[_at(patch.box, frame)]
        return PatchQuery(subject, patch.box, latents, mixture.parts(k, patch), self.guidance_scale)

    def network(self, k: int) -> Network:
        """The network at step k."""
        return Network(
            self.denoiser, self.schedule.timesteps[k], self.guidance_scale > 1, self.device, self.dtype
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
