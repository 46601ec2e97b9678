"""A small picture of latents that are still noisy elsewhere: which latents a pixel averages, and its colour.

Knows boxes, arrays and the codec's contract; no block's neighbours, no file.

    latents   |.|.|.|.|.|.|.|.|.|.|.|.|      cells of `cell` latents, counted from the picture's corner
    pixels    |--0--|--1--|--2--|--3--|      a pixel averages the `window` latents in the middle of its cell
    blocks    |=======A=======|===B===|      and is drawn by the block in which that window begins

So a pixel does not depend on where blocks end, and each pixel is drawn by one block. A block's frame reaches as far
as its windows do; in pictures of many gigapixels a cell is larger than a frame, and the window a part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from generation.models.contracts import Codec
from storage.geometry import Box

LONGEST = 2048
"""Pixels of a preview's longer side, at most."""

_PROBE = 32
_COLOURS = 12
_RANGE = 0.6
_GRAIN = 0.2


@dataclass(frozen=True)
class Raster:
    """The pixels of a preview of height x width latents. cell, window: latents along either axis."""

    height: int
    width: int
    cell: int
    window: int

    @classmethod
    def of(cls, height: int, width: int, reach: int, longest: int = LONGEST) -> Raster:
        """The raster of a picture, as fine as it may be: one pixel a latent, or `longest` pixels.

        reach: latents of a frame beyond its block.
        """
        cell = -(-max(height, width) // longest)
        return cls(height, width, cell, min(cell, reach + 1, height, width))

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of pixels."""
        return -(-self.height // self.cell), -(-self.width // self.cell)

    def pixels_of(self, block: Box) -> Box:
        """The pixels that a block of latents draws; none, perhaps, where cells are larger than blocks."""
        rows = np.searchsorted(self._begins(self.height), [block.y0, block.y1])
        columns = np.searchsorted(self._begins(self.width), [block.x0, block.x1])
        return Box(int(rows[0]), int(rows[1]), int(columns[0]), int(columns[1]))

    def averages(self, latents: NDArray[np.float32], frame: Box, pixels: Box) -> NDArray[np.float32]:
        """(C, h, w) latents of a frame -> (C, rows, columns) means over the pixels' windows, all within the frame."""
        rows = self._windows(self.height, pixels.y0, pixels.y1) - frame.y0
        columns = self._windows(self.width, pixels.x0, pixels.x1) - frame.x0
        seen = latents[:, rows.reshape(-1, 1), columns.reshape(1, -1)]
        channels, window = len(latents), self.window
        tiled = seen.reshape(channels, pixels.height, window, pixels.width, window)
        means: NDArray[np.float32] = tiled.mean(axis=(2, 4), dtype=np.float32)
        return means

    def _begins(self, length: int) -> NDArray[np.int64]:
        """The first latent of each pixel's window, ascending; the last window ends within the picture."""
        cells = np.arange(-(-length // self.cell)) * self.cell
        return np.minimum(cells + (self.cell - self.window) // 2, length - self.window)

    def _windows(self, length: int, first: int, last: int) -> NDArray[np.int64]:
        """(last - first, window) latents along one axis."""
        return self._begins(length)[first:last, None] + np.arange(self.window)


@dataclass(frozen=True)
class Colours:
    """An affine map from a latent to the mean colour of its pixels. weights: (C + 1, 3), the offset last."""

    weights: NDArray[np.float32]

    def paint(self, latents: NDArray[np.float32]) -> NDArray[np.uint8]:
        """(C, h, w) latents -> (h, w, 3); what no colour can show is cut off, NaN is black."""
        colours = np.einsum("chw,cd->hwd", latents, self.weights[:-1])  # without BLAS, whose threads spin on
        colours += self.weights[-1]
        painted: NDArray[np.uint8] = np.rint(np.nan_to_num(colours.clip(0, 1)) * 255).astype(np.uint8)
        return painted


@torch.inference_mode()
def fit_colours(codec: Codec, scale: int) -> Colours:
    """The map that comes closest, in the mean square, to what the codec makes of a probe picture's latents."""
    latents = codec.encode(_probe(_PROBE * scale))
    pixels = (codec.decode(latents) * 0.5 + 0.5).clamp(0, 1)
    means = torch.nn.functional.avg_pool2d(pixels, scale)
    known, wanted = (field[0].flatten(1).T.double().cpu().numpy() for field in (latents, means))
    weights, *_ = np.linalg.lstsq(np.c_[known, np.ones(len(known))], wanted, rcond=None)
    return Colours(weights.astype(np.float32))


def _probe(side: int) -> torch.Tensor:
    """(1, 3, side, side) in [-1, 1]: soft colours under fine and coarse grain. Without the grain, what carries detail
    in a latent gets no weight, and the map is poor (20 dB where it has 39, embedded model).
    """
    generator = torch.Generator().manual_seed(0)
    colours = (torch.rand(1, 3, _COLOURS, _COLOURS, generator=generator) * 2 - 1) * _RANGE
    soft = torch.nn.functional.interpolate(colours, size=(side, side), mode="bicubic")
    fine = torch.randn(1, 1, side, side, generator=generator)
    coarse = torch.randn(1, 1, -(-side // 4), -(-side // 4), generator=generator)
    coarse = torch.nn.functional.interpolate(coarse, size=(side, side), mode="nearest")
    return (soft + _GRAIN * (fine + coarse)).clamp(-1, 1)
