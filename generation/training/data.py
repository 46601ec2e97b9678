"""Knows the Earth as a source of crops: strips of its picture, and what of them is held out. Knows no network.

The picture is cut into strips of latitude, each narrowed by the cosine of its middle latitude, so that shapes
are not stretched:

    +------------------------------------+
      +--------------------------------+        a strip near 60 N: half as wide
    +------------------------------------+
    |        a strip on the equator      |
    +------------------------------------+

There are no flips or rotations: the relief is lit from one side.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from generation.training.classes import CLASS_NAMES, EARTH, SEA_CLASSES
from generation.training.crops import MARGIN, Crop, CropSets
from generation.training.earth import BLOCK, HEIGHT, Bytes, build_earth, latitudes

Bools = npt.NDArray[np.bool_]
HELD_OUT_CELL = 38
STRIP_BLOCKS, STRIP_STEP = 48, 24
NORTH, SOUTH = 74.0, -59.0
SEA_WEIGHT = 0.6


@dataclass(frozen=True)
class Strip:
    """A picture, and the class and held-out flag of each of its 8 x 8 blocks."""

    pixels: Bytes
    classes: Bytes
    held_out: Bools

    def __post_init__(self) -> None:
        blocks = (self.pixels.shape[0] // BLOCK, self.pixels.shape[1] // BLOCK)
        if self.classes.shape != blocks or self.held_out.shape != blocks:
            raise ValueError(f"pixels {self.pixels.shape} need {blocks} blocks, found {self.classes.shape}")


@dataclass(frozen=True)
class Place:
    """Where a crop lies: the strip, its top left pixel, and its size in latents."""

    strip: int
    pixel_y: int
    pixel_x: int
    height: int
    width: int


def held_out_cells(height: int, width: int) -> Bools:
    """The rule: cells of 38 x 38 latents (10 degrees), (7 row + 3 column) mod 9 == 0."""
    row = np.arange(height)[:, None] // HELD_OUT_CELL
    column = np.arange(width)[None, :] // HELD_OUT_CELL
    flags: Bools = (row * 7 + column * 3) % 9 == 0
    return flags


def narrowed(picture: Bytes, classes: Bytes, held_out: Bools, latitude: float) -> Strip:
    """A strip with its columns resampled by cos(latitude), to a whole number of blocks."""
    blocks = round(classes.shape[1] * float(np.cos(np.radians(latitude))))
    size = (blocks * BLOCK, picture.shape[0])
    pixels = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    column = ((np.arange(blocks) + 0.5) * classes.shape[1] / blocks).astype(np.intp)
    return Strip(pixels, classes[:, column], held_out[:, column])


def strips_of_world(picture: Bytes, classes: Bytes) -> list[Strip]:
    """Overlapping strips from 74 N to 59 S."""
    degrees = latitudes(HEIGHT // BLOCK)
    inside = np.flatnonzero((degrees < NORTH) & (degrees > SOUTH))
    held_out = held_out_cells(*classes.shape)
    strips = []
    for top in range(int(inside[0]), int(inside[-1]) + 2 - STRIP_BLOCKS, STRIP_STEP):
        rows = slice(top, top + STRIP_BLOCKS)
        pixels = picture[top * BLOCK : (top + STRIP_BLOCKS) * BLOCK]
        strips.append(narrowed(pixels, classes[rows], held_out[rows], float(degrees[rows].mean())))
    return strips


def load_strips(cache: Path) -> list[Strip]:
    """The Earth as strips; the first call downloads and composes it."""
    return strips_of_world(*build_earth(cache))


def crop_sets(strips: Sequence[Strip]) -> CropSets:
    """Training and held-out crops of the strips."""
    return CropSets(StripCrops(strips), StripCrops(strips, held_out=True))


def blocks_touched(crop: Place) -> tuple[slice, slice]:
    """The blocks that the crop overlaps, wholly or in part."""
    bottom, right = crop.pixel_y + crop.height * BLOCK, crop.pixel_x + crop.width * BLOCK
    return slice(crop.pixel_y // BLOCK, -(-bottom // BLOCK)), slice(crop.pixel_x // BLOCK, -(-right // BLOCK))


class StripCrops:
    """Draws crops that touch no held-out block (or, for `held_out`, lie wholly in held-out blocks).

    A class is drawn with probability proportional to frequency ^ balance, then a block of that class, then a
    crop around the block: deserts are seen as often as the empty sea. The state is the generator's.
    """

    classes = EARTH

    def __init__(self, strips: Sequence[Strip], held_out: bool = False, balance: float = 0.5) -> None:
        self.strips, self.held_out = strips, held_out
        places = [np.argwhere(strip.held_out == held_out) for strip in strips]
        table = np.concatenate([np.insert(place, 0, index, axis=1) for index, place in enumerate(places)])
        classes = np.concatenate([s.classes[p[:, 0], p[:, 1]] for s, p in zip(strips, places, strict=True)])
        self.by_class = [table[classes == index] for index in range(len(CLASS_NAMES))]
        weights = np.array([len(rows) for rows in self.by_class], dtype=np.float64) ** balance
        weights[list(SEA_CLASSES)] *= SEA_WEIGHT
        self.probability = weights / weights.sum()

    def allowed(self, crop: Place) -> bool:
        """Whether the crop lies on the right side of the held-out border."""
        flags = self.strips[crop.strip].held_out[blocks_touched(crop)]
        return bool(flags.all()) if self.held_out else not flags.any()

    def propose(self, random: np.random.Generator, height: int, width: int) -> Place:
        """A crop around a block of a class drawn by weight, at any pixel offset, inside its strip."""
        rows = self.by_class[int(random.choice(len(self.by_class), p=self.probability))]
        index, block_y, block_x = (int(value) for value in rows[int(random.integers(len(rows)))])
        limit_y, limit_x = (
            size - extent * BLOCK
            for size, extent in zip(self.strips[index].pixels.shape, (height, width), strict=False)
        )
        y = block_y * BLOCK - int(random.integers((height - 1) * BLOCK + 1))
        x = block_x * BLOCK - int(random.integers((width - 1) * BLOCK + 1))
        return Place(index, min(max(y, 0), limit_y), min(max(x, 0), limit_x), height, width)

    def find(self, random: np.random.Generator, height: int, width: int) -> Place:
        """The first allowed proposal."""
        for _ in range(10_000):
            place = self.propose(random, height, width)
            if self.allowed(place):
                return place
        raise ValueError(
            f"no crop of {height} x {width} latents found in 10000 tries: use smaller crops or other strips"
        )

    def draw(self, random: np.random.Generator, height: int, width: int) -> Crop:
        """The crop at the first allowed proposal."""
        return crop_at(self.strips, self.find(random, height, width))


def crop_at(strips: Sequence[Strip], place: Place) -> Crop:
    """Pixels and classes of a place; beyond the strip's border its last classes go on."""
    strip, y, x = strips[place.strip], place.pixel_y, place.pixel_x
    pixels = strip.pixels[y : y + place.height * BLOCK, x : x + place.width * BLOCK]
    rows = round(y / BLOCK) + np.arange(-MARGIN, place.height + MARGIN)
    columns = round(x / BLOCK) + np.arange(-MARGIN, place.width + MARGIN)
    rows, columns = (
        np.clip(index, 0, side - 1) for index, side in zip((rows, columns), strip.classes.shape, strict=True)
    )
    return Crop(pixels, strip.classes[rows[:, None], columns[None, :]])
