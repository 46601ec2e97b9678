"""Several small pictures denoised together: their patches share batches. Pure functions of arrays.

    step k   picture 0   a b          batches of 4    a b c d
             picture 1   c d e f                      e f g g     the last one padded, as for a picture alone
             picture 2   g

A patch's prediction does not depend on what else is in its batch, nor on its place in it, and its picture's canvas
alone says how many its batch holds. So each picture is, bit for bit, what its sampler gives alone, whatever it is
packed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from generation.models.errors import NumericalError
from generation.sampling.covers import Patch
from generation.sampling.denoise import Fields, Sampler
from generation.sampling.fusion import from_fixed, to_fixed, to_storage
from generation.sampling.parts import Cell, Evaluations
from storage.geometry import Box, Canvas


@dataclass(frozen=True)
class Spent:
    """What pictures took. evaluations, batches: of conditional predictions; seats: places in batches, of both ends."""

    evaluations: int = 0
    batches: int = 0
    seats: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(
            self.evaluations + other.evaluations, self.batches + other.batches, self.seats + other.seats
        )


@dataclass(frozen=True)
class Packed:
    """(C, h, w) final latents of each picture, or what went wrong with it; and what all cost."""

    pictures: list[NDArray[np.float32] | NumericalError]
    spent: Spent


def draw_together(samplers: Sequence[Sampler], frames: Sequence[Box]) -> Packed:
    """Denoise pictures whose samplers differ in canvas, seed, conditioner, mixture and guidance scale only.

    frames: of each, its whole canvas with the halo that patches reach into where it wraps.
    """
    first = samplers[0]
    drawn = [_Picture(sampler, frame) for sampler, frame in zip(samplers, frames, strict=True)]
    spent = Spent()
    for k in range(len(first.schedule)):
        going = [picture for picture in drawn if picture.error is None]
        evaluations = Evaluations[OfPicture](first.network(k))
        cells = (cell for picture in going for cell in picture.begin(k))
        for query, prediction in evaluations.of(cells):
            picture, patch = query.subject
            picture.add(k, patch, prediction)
        for picture in going:
            picture.end(k)
        spent += Spent(evaluations.conditional, evaluations.batches, evaluations.seats)
    return Packed([picture.result() for picture in drawn], spent)


class _Picture:
    """One picture under way."""

    def __init__(self, sampler: Sampler, frame: Box) -> None:
        self.sampler = sampler
        self.error: NumericalError | None = None
        self._frame = frame
        self._fields: Fields = [sampler.start(sampler.canvas.box)]

    def begin(self, k: int) -> Iterator[Cell[OfPicture]]:
        """The patches of step k, by the cells of the canvas."""
        sampler, frame = self.sampler, self._frame
        x = wrapped(self._fields[0], sampler.canvas, frame)
        shown = sampler.schedule.model_input(k, torch.from_numpy(x))
        self._weights = sampler.cover.weights(k, frame)
        self._total = np.zeros((sampler.channels, *frame.shape), np.int64)
        return sampler.cells(k, sampler.canvas.box, frame, shown, lambda patch: (self, patch))

    def add(self, k: int, patch: Patch, prediction: NDArray[np.float32]) -> None:
        try:
            self.sampler.check(prediction, patch, k)
        except NumericalError as error:
            self.error = self.error or error
            return
        place = (slice(None), *patch.box.slices_in(self._frame))
        self._total[place] += to_fixed(prediction * self._weights.of(patch))

    def end(self, k: int) -> None:
        """Fuse the predictions and take the scheduler's step."""
        if self.error is not None:
            return
        try:
            prediction = from_fixed(self._folded(to_storage(self._total)))
        except OverflowError as error:
            hint = "try --dtype float32 or a lower --guidance-scale"
            self.error = NumericalError(f"{error} (step {k}); {hint}")
            return
        self._fields = self.sampler.advance(k, self.sampler.canvas.box, self._fields, prediction)

    def _folded(self, sums: NDArray[np.int32]) -> NDArray[np.int64]:
        """Sums over the frame -> over the canvas: what hangs over a border that wraps counts on the other side."""
        canvas, frame = self.sampler.canvas, self._frame
        total = np.zeros((len(sums), *canvas.box.shape), np.int64)
        for dy, dx in canvas.wrapped_shifts(frame, canvas.box):
            image = frame.shifted(dy, dx)
            common = image.intersection(canvas.box)
            assert common is not None
            part = sums[(slice(None), *common.slices_in(image))]
            total[(slice(None), *common.slices_in(canvas.box))] += part
        return total

    def result(self) -> NDArray[np.float32] | NumericalError:
        return self.error or self._fields[0]


def wrapped(x: NDArray[np.float32], canvas: Canvas, box: Box) -> NDArray[np.float32]:
    """(C, h, w) of a box that may hang over borders that wrap, from (C, H, W) of the canvas."""
    out = np.empty((len(x), *box.shape), x.dtype)
    for piece, home in canvas.split_at_edges(box):
        out[(slice(None), *piece.slices_in(box))] = x[:, home.y0 : home.y1, home.x0 : home.x1]
    return out


OfPicture: TypeAlias = tuple[_Picture, Patch]
