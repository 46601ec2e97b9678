"""Latents -> pixels, tile by tile, blended. Pure functions of arrays; knows the codec's contract, no files.

Tiles lie on a lattice anchored to the canvas. A tile's core is `stride = tile - 2 margin` latents wide and its
decode extends `margin` beyond on every side (as far as the canvas goes).

    cores     |--------|--------|--------|
    decodes  ============    ============        each core +- margin
                  ============
    weights   1 inside; Hann ramps across +- margin pixels round each core's border, which sum to one exactly

For a *local* codec (no normalisation over a tile, receptive field within the margin) a core decodes to the same
pixels whatever surrounds the tile, so the ramps have zero width and no neighbour is decoded twice. Otherwise the
lattice is moved by half a core: what is decoded at once begins and ends in the middle of cores, so that fewer ramps
reach into it from outside.

generation/decoding/four_shift.py has another blend, for comparison.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from generation.models.contracts import Codec
from generation.models.errors import NumericalError
from generation.models.turns import LOADING
from storage.geometry import Box, Canvas
from storage.light import strips

if TYPE_CHECKING:
    import torch

ReadLatents = Callable[[Box], NDArray[np.float32]]
Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class DecodeTile:
    """What is decoded at once: the latents `source`, for the sake of those of `core`.

    reach: where the tile counts at all.
    seams: along (y, x), the border of other tiles that this one is laid over, where it is there to hide one.
    """

    core: Box
    source: Box
    reach: Box
    seams: tuple[int | None, int | None] = (None, None)


class Blend(Protocol):
    """How tiles become one picture. A pixel depends on its place alone, not on the box that is asked for."""

    @property
    def canvas(self) -> Canvas:
        """What is decoded."""

    @property
    def scale(self) -> int:
        """Pixels along the side of a latent."""

    @property
    def tile(self) -> int:
        """The usual side, in latents, of what is decoded at once."""

    @property
    def passes(self) -> int:
        """How often tiles cover the canvas, margins left aside."""

    def tiles_over(self, box: Box) -> list[DecodeTile]:
        """Every tile that counts in a latent box, which may wrap, in the order in which they are laid down."""

    def lay(self, under: Pixels, pixels: Pixels, tile: DecodeTile, part: Box) -> None:
        """Bring a tile's (H, W, 3) pixels of a latent box `part` into `under`, what earlier tiles left there.

        May overwrite `pixels`.
        """


@dataclass(frozen=True)
class Tiling:
    """The lattice of decode tiles. All lengths in latents."""

    canvas: Canvas
    scale: int
    tile: int
    margin: int
    local: bool
    passes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.stride < 2 * self.margin or self.margin < 0:
            raise ValueError(
                f"decode tile {self.tile} is too small for a margin of {self.margin}; need >= 4 margins"
            )

    @property
    def stride(self) -> int:
        return self.tile - 2 * self.margin

    @property
    def ramp(self) -> int:
        """Half the width of the blend between two tiles."""
        return 0 if self.local else self.margin

    def tiles_over(self, box: Box) -> list[DecodeTile]:
        """Every tile whose weights reach a latent box, which may wrap; in order."""
        reach = box.expanded(self.ramp)
        found = []
        for y0, y1 in self._cores(reach.y0, reach.y1, self.canvas.height, self.canvas.topology.wraps_y):
            for x0, x1 in self._cores(reach.x0, reach.x1, self.canvas.width, self.canvas.topology.wraps_x):
                core = Box(y0, y1, x0, x1)
                source, counts = (self.canvas.clip(core.expanded(by)) for by in (self.margin, self.ramp))
                found.append(DecodeTile(core, source, counts))
        return found

    def lay(self, under: Pixels, pixels: Pixels, tile: DecodeTile, part: Box) -> None:
        under += pixels * self.weights(tile.core, part)[..., None]

    def _cores(self, low: int, high: int, length: int, wraps: bool) -> list[tuple[int, int]]:
        """Cores along one axis that meet [low, high); a remnant of less than half a core joins the one before it."""
        last = length - max(1, self.stride // 2)
        cuts = range(self.stride // 2 if self.ramp else self.stride, last + 1, self.stride)
        turns = range(low // length, -(-high // length)) if wraps else [0]
        spans = [
            (a + t * length, b + t * length) for t in turns for a, b in self._near(cuts, low, high, length, t)
        ]
        return [(a, b) for a, b in spans if a < high and low < b]

    def _near(self, cuts: range, low: int, high: int, length: int, turn: int) -> Iterator[tuple[int, int]]:
        """Between a border, those cuts and the other border, what lies near [low, high) on a turn of the axis."""
        at, to = (bisect(cuts, end - turn * length) for end in (low, high))
        before, after = cuts[at - 1] if at else 0, cuts[to] if to < len(cuts) else length
        return pairwise([before, *cuts[at:to], after])

    def weights(self, core: Box, box: Box) -> NDArray[np.float32]:
        """(H, W) pixel weights of a tile over a latent box: a separable Hann partition of unity."""
        wraps = self.canvas.topology
        rows = self._profile(core.y0, core.y1, box.y0, box.y1, self.canvas.height, wraps.wraps_y)
        columns = self._profile(core.x0, core.x1, box.x0, box.x1, self.canvas.width, wraps.wraps_x)
        return np.multiply.outer(rows, columns).astype(np.float32)

    def _profile(self, a: int, b: int, low: int, high: int, length: int, wraps: bool) -> NDArray[np.float64]:
        """Weights along an axis: s(p - a) - s(p - b), with s a Hann step; borders of the canvas have no ramp."""
        pixels = np.arange(low * self.scale, high * self.scale) + 0.5
        rises = np.ones_like(pixels) if a == 0 and not wraps else self._step(pixels - a * self.scale)
        falls = np.zeros_like(pixels) if b == length and not wraps else self._step(pixels - b * self.scale)
        return rises - falls

    def _step(self, distance: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """0 to 1 across +-ramp: sin^2, the rising half of a Hann window."""
        if self.ramp == 0:
            return (distance > 0).astype(np.float64)
        phase = np.clip(distance / (2 * self.ramp * self.scale) + 0.5, 0.0, 1.0)
        return np.asarray(np.sin(np.pi / 2 * phase) ** 2)


def decode_box(
    codec: Codec, tiling: Blend, box: Box, read: ReadLatents, device: torch.device
) -> NDArray[np.float32]:
    """(H, W, 3) pixels in [0, 1] of a latent box. Raises NumericalError where the decoder returns none."""
    bands = list(decode_bands(codec, tiling, box, read, device))
    return bands[0] if len(bands) == 1 else np.concatenate(bands)


def decode_bands(
    codec: Codec, tiling: Blend, box: Box, read: ReadLatents, device: torch.device
) -> Iterator[NDArray[np.float32]]:
    """Decode a box in strips of few rows (h, W, 3), from the top, each as soon as no tile still to come reaches it.

    So a lattice of tiles is held row by row; a blend in several passes, as a whole until the last of them.
    """
    width = box.width * tiling.scale
    tiles = [(tile, part) for tile in tiling.tiles_over(box) if (part := box.intersection(tile.reach))]
    held, top = np.zeros((0, width, 3), np.float32), 0
    for (tile, part), settled in zip(tiles, _settled([part for _, part in tiles], box), strict=True):
        rows, columns = _pixel_slices(part, box, tiling.scale)
        missing = max(0, rows.stop - top - len(held))
        held = np.concatenate([held, np.zeros((missing, width, 3), np.float32)]) if missing else held
        pixels = _pixels_of(codec, tile, part, read, device)
        tiling.lay(held[rows.start - top : rows.stop - top, columns], pixels, tile, part)
        del pixels  # before the next is decoded
        if done := settled * tiling.scale - top:
            yield from (np.clip(held[strip], 0.0, 1.0) for strip in strips(done))
            held, top = held[done:].copy(), top + done


def _pixels_of(codec: Codec, tile: DecodeTile, part: Box, read: ReadLatents, device: torch.device) -> Pixels:
    """A tile's pixels of a latent box."""
    latents = read(tile.source)
    pixels = decode_tile(codec, latents, device)
    _check(pixels, tile.source)
    return pixels[_pixel_slices(part, tile.source, len(pixels) // latents.shape[1])]


def _settled(parts: Sequence[Box], box: Box) -> list[int]:
    """After each tile, how many rows of latents none of those to come will touch."""
    first, settled = box.height, []
    for part in reversed(parts):
        settled.append(first)
        first = min(first, part.y0 - box.y0)
    return settled[::-1]


def decode_tile(codec: Codec, latents: NDArray[np.float32], device: torch.device) -> NDArray[np.float32]:
    """(C, h, w) -> (h * scale, w * scale, 3) pixels in about [0, 1]."""
    import torch  # not above: plans have a tiling, and compute nothing

    with torch.inference_mode():
        with LOADING.together():
            decoded = codec.decode(torch.from_numpy(np.ascontiguousarray(latents))[None].to(device))
        return np.asarray((decoded[0].float() * 0.5 + 0.5).permute(1, 2, 0).cpu().numpy())


def _check(pixels: Pixels, source: Box) -> None:
    """NaN would be stored as any byte at all."""
    if not np.isfinite(pixels).all():
        broken = "NaN" if np.isnan(pixels).any() else "infinity"
        raise NumericalError(
            f"the decoder returned {broken} for the tile at latent (y {source.y0}, x {source.x0}) "
            f"of {source.shape[1]} x {source.shape[0]}: its weights are damaged, or the latents are far out of "
            "range; check the model, or begin again with a lower --guidance-scale"
        )


def _pixel_slices(box: Box, frame: Box, scale: int) -> tuple[slice, slice]:
    return box.scaled(scale).slices_in(frame.scaled(scale))
