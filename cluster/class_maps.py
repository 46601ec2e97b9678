"""Class maps that lie in files: an image of class ids that users bring, and maps that a map model invented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from cluster.plan import LATENTS
from cluster.spec import SpecError
from generation.models.maps import Legend
from storage.geometry import Box, Canvas


@dataclass(frozen=True)
class ImageMap:
    """(H, W) class ids, stretched over the canvas by nearest neighbour. Satisfies ClassMap."""

    ids: NDArray[np.uint8]
    canvas: Canvas

    @classmethod
    def open(cls, path: Path, canvas: Canvas, classes: int) -> ImageMap:
        """Raises SpecError where the file is no single-channel 8-bit image of ids below `classes`."""
        ids = read_ids(path)
        if ids.max() >= classes:
            rows, columns = np.nonzero(ids >= classes)
            raise SpecError(
                f"class map {path} holds class {ids.max()} (the first bad value at x {columns[0]}, y {rows[0]} "
                f"is {ids[rows[0], columns[0]]}); the model knows 0 to {classes - 1}: paint with those"
            )
        return cls(ids, canvas)

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64: the map's pixel under each latent's centre."""
        rows = _nearest(box.y0, box.y1, self.canvas.height, self.ids.shape[0])
        columns = _nearest(box.x0, box.x1, self.canvas.width, self.ids.shape[1])
        return torch.from_numpy(self.ids[np.ix_(rows, columns)].astype(np.int64))


class ReadsLatents(Protocol):
    """Where a map's planes are. ArrayStore is one."""

    def read_box(self, name: str, channels: slice, box: Box, canvas: Canvas) -> NDArray[Any]:
        """(C, h, w) of a box that may wrap."""


@dataclass(frozen=True)
class InventedMap:
    """The classes of a finished map job: planes of cells, each `cell` x `cell` latents. Satisfies ClassMap."""

    store: ReadsLatents
    cells: Canvas
    canvas: Canvas
    cell: int
    legend: Legend

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64: the class of each latent's cell."""
        rows = self._cells(box.y0, box.y1, self.canvas.height, self.canvas.topology.wraps_y)
        columns = self._cells(box.x0, box.x1, self.canvas.width, self.canvas.topology.wraps_x)
        ids = np.empty(box.shape, np.int64)
        for y, row in _runs(rows):
            for x, column in _runs(columns):
                home = Box(int(row[0]), int(row[-1]) + 1, int(column[0]), int(column[-1]) + 1)
                ids[np.ix_(y, x)] = self._ids(home)[np.ix_(row - home.y0, column - home.x0)]
        return torch.from_numpy(ids)

    def _cells(self, low: int, high: int, length: int, wraps: bool) -> NDArray[np.int64]:
        places = np.arange(low, high)
        return (places % length if wraps else places) // self.cell

    def _ids(self, home: Box) -> NDArray[np.uint8]:
        """Of a box of cells; its neighbours are read too, as the legend's votes need them."""
        seen = self.cells.clip(home.expanded(1))
        planes = self.store.read_box(LATENTS, slice(0, len(self.legend.names)), seen, self.cells)
        return self.legend.ids(planes)[home.slices_in(seen)]


def _runs(cells: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(places, their cells) of each stretch in which cells ascend: one, unless the box wraps."""
    starts = np.flatnonzero(np.diff(cells) < 0) + 1
    for places in np.split(np.arange(len(cells)), starts):
        yield places, cells[places]


def _nearest(low: int, high: int, length: int, pixels: int) -> NDArray[np.int64]:
    return ((np.arange(low, high) % length) * 2 + 1) * pixels // (2 * length)


def read_ids(path: Path) -> NDArray[np.uint8]:
    """The ids of a greyscale or palette image (a palette's colours are for people; its indices are the ids)."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("L", "P", "1"):
                raise SpecError(
                    f"class map {path} is a {image.mode} image; save class ids as 8-bit greyscale or palette (L or P)"
                )
            return np.asarray(image.convert("L") if image.mode == "1" else image, np.uint8)
    except FileNotFoundError:
        raise SpecError(f"class map {path} does not exist") from None
    except UnidentifiedImageError:
        raise SpecError(f"class map {path} is not an image that Pillow reads; PNG and TIFF are") from None
