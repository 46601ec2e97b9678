"""Knows what a training crop is, where crops come from, and how a class map loses its detail. Knows no source.

source.draw -> Crop   pixels (8 h, 8 w, 3), and the class of each of its 8 x 8 blocks and of those around it

+------------------+
|  margin, 8 blocks|       cells of a coarsened map hang over the crop's border, and are judged
|   +----------+   |       on all of their blocks
|   |  h x w   |   |
|   +----------+   |
+------------------+
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from generation.training.classes import Classes
from generation.training.earth import BLOCK, Bytes

MARGIN = 8
NO_CLASS = 255
COARSE_CELLS = (4, 8)


@dataclass(frozen=True)
class Crop:
    """h x w latents' worth of a picture; `classes` is (h + 16, w + 16), or None where there is no class map."""

    pixels: Bytes
    classes: Bytes | None

    def __post_init__(self) -> None:
        height, width = (side // BLOCK + 2 * MARGIN for side in self.pixels.shape[:2])
        if self.classes is not None and self.classes.shape != (height, width):
            raise ValueError(
                f"pixels {self.pixels.shape} need {(height, width)} classes, not {self.classes.shape}"
            )


class CropSource(Protocol):
    """Pictures to learn from, or those held out."""

    @property
    def classes(self) -> Classes:
        """The classes of their maps; no class at all where there are no maps."""

    def draw(self, random: np.random.Generator, height: int, width: int) -> Crop:
        """A crop of height x width latents, at any pixel offset."""


@dataclass(frozen=True)
class CropSets:
    """What a run learns from, and what it is judged by."""

    training: CropSource
    held_out: CropSource


@dataclass(frozen=True)
class Coarsening:
    """How a class map loses its detail: square cells of `cell` latents, displaced by (phase_y, phase_x).

    Each cell shows its majority class, or with `sampled` the class at one random place in it.
    """

    cell: int
    phase_y: int
    phase_x: int
    sampled: bool

    def __post_init__(self) -> None:
        if not (0 <= self.phase_y < self.cell and 0 <= self.phase_x < self.cell):
            raise ValueError(f"phases ({self.phase_y}, {self.phase_x}) must lie in [0, {self.cell})")
        if self.cell > MARGIN:
            raise ValueError(f"cells of {self.cell} latents need more than the margin of {MARGIN}")


CANONICAL = Coarsening(4, 0, 0, False)
"""As the finished model is used."""


def draw_coarsening(random: np.random.Generator) -> Coarsening:
    """Cells of 4 latents (70 %) or 8 (30 %) with any phase; 60 % show the majority."""
    cell = COARSE_CELLS[0] if random.random() < 0.7 else COARSE_CELLS[1]
    phase_y, phase_x = (int(value) for value in random.integers(cell, size=2))
    return Coarsening(cell, phase_y, phase_x, bool(random.random() < 0.4))


def coarsened(classes: Bytes, coarse: Coarsening, random: np.random.Generator) -> Bytes:
    """The coarsened class of each latent of a crop, from its classes with their margin.

     phase_x                      cell = 4, phase_x = 3: the first cell begins three latents
    ...A|BBBB|CCCC|DD..           left of the crop, and is judged on all its blocks
       ^ crop
    """
    height, width = (side - 2 * MARGIN for side in classes.shape)
    rows = cell_blocks(MARGIN - coarse.phase_y, height + coarse.phase_y, coarse.cell)
    columns = cell_blocks(MARGIN - coarse.phase_x, width + coarse.phase_x, coarse.cell)
    cells = classes[rows[:, :, None, None], columns[None, None]].swapaxes(1, 2)
    cells = cells.reshape(len(rows), len(columns), -1)
    chosen = one_of_each(cells, random) if coarse.sampled else majority(cells)
    full = chosen.repeat(coarse.cell, axis=0).repeat(coarse.cell, axis=1)
    return full[coarse.phase_y :, coarse.phase_x :][:height, :width]


def cell_blocks(start: int, extent: int, cell: int) -> npt.NDArray[np.intp]:
    """Indices (cells, cell) of the blocks of the cells that cover `extent` blocks from `start`."""
    count = -(-extent // cell)
    return (start + np.arange(count * cell)).reshape(count, cell)


def majority(cells: Bytes) -> Bytes:
    """The most frequent value along the last axis; the lowest id wins a tie."""
    present = np.unique(cells)
    votes = (cells[..., None, :] == present[:, None]).sum(axis=-1)
    winners: Bytes = present[votes.argmax(axis=-1)]
    return winners


def one_of_each(cells: Bytes, random: np.random.Generator) -> Bytes:
    """One random value along the last axis."""
    choice = random.integers(cells.shape[-1], size=(*cells.shape[:-1], 1))
    return np.take_along_axis(cells, choice, axis=-1)[..., 0]


def one_hot(classes: Bytes, number: int) -> npt.NDArray[np.float32]:
    """(number, height, width) planes of a class map; an id past the last class gives zeros, the null class."""
    ids = np.arange(number, dtype=np.uint8)[:, None, None]
    planes: npt.NDArray[np.float32] = (classes[None] == ids).astype(np.float32)
    return planes


def condition(
    crop: Crop, coarse: Coarsening, number: int, random: np.random.Generator
) -> npt.NDArray[np.float32]:
    """(number, h, w) one-hot planes of the crop's coarsened map; zeros where it has none."""
    if crop.classes is None or number == 0:
        height, width = crop.pixels.shape[0] // BLOCK, crop.pixels.shape[1] // BLOCK
        return np.zeros((number, height, width), np.float32)
    return one_hot(coarsened(crop.classes, coarse, random), number)
