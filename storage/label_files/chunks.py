"""Labels that are stored in chunks, or held in memory, as LabelFiles. Knows arrays and boxes; knows no file format.

A few chunks are remembered, those used last, so that neighbouring boxes do not unpack the same chunk again.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box
from storage.label_files.contract import LabelArray, LabelFacts, LabelFileError

REMEMBERED_BYTES = 64 * 2**20
LARGEST_CHUNK = 256 * 2**20
SMALLEST_BOX = 2**20
"""Pixels up to which `boxes` takes several chunks at once."""


class ChunkSource(LabelFacts, Protocol):
    """Where chunks come from. chunk: (rows, columns) of one; the last ones of a picture may be smaller."""

    @property
    def chunk(self) -> tuple[int, int]: ...
    @property
    def dtype(self) -> np.dtype[np.integer]: ...

    def read_chunk(self, row: int, column: int) -> LabelArray:
        """The labels of one chunk, cut at the picture's border. Raises LabelFileError."""


@dataclass(frozen=True)
class ChunkedLabels:
    """A ChunkSource as a LabelFile."""

    source: ChunkSource
    remembered_bytes: int = REMEMBERED_BYTES
    _kept: OrderedDict[tuple[int, int], LabelArray] = field(
        default_factory=OrderedDict, repr=False, compare=False
    )

    @property
    def path(self) -> Path:
        return self.source.path

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def colours(self) -> bool:
        return self.source.colours

    @property
    def nodata(self) -> int | None:
        return self.source.nodata

    @property
    def names(self) -> Mapping[int, str]:
        return self.source.names

    def read(self, box: Box) -> LabelArray:
        """(h, w) labels of a box inside the picture."""
        check_inside(box, self.height, self.width)
        out = np.empty(box.shape, self.source.dtype)
        rows, columns = self.source.chunk
        for row in range(box.y0 // rows, -(-box.y1 // rows)):
            for column in range(box.x0 // columns, -(-box.x1 // columns)):
                place = Box(row * rows, (row + 1) * rows, column * columns, (column + 1) * columns)
                part = place.intersection(box)
                if part is not None:
                    out[part.slices_in(box)] = self._chunk(row, column)[part.slices_in(place)]
        return out

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> LabelArray:
        """(len(rows), len(columns)) labels at the crossings."""
        out = np.empty((len(rows), len(columns)), self.source.dtype)
        high, wide = self.source.chunk
        across = [
            (column, np.flatnonzero(columns // wide == column)) for column in np.unique(columns // wide)
        ]
        for row in np.unique(rows // high):
            y = np.flatnonzero(rows // high == row)
            for column, x in across:
                chunk = self._chunk(int(row), int(column))
                out[np.ix_(y, x)] = chunk[np.ix_(rows[y] - row * high, columns[x] - column * wide)]
        return out

    def boxes(self) -> Iterator[Box]:
        """Whole chunks, several where they are small."""
        rows, columns = self.source.chunk
        wide = min(self.width, columns * max(1, SMALLEST_BOX // (rows * columns)))
        high = min(self.height, rows * max(1, SMALLEST_BOX // (rows * wide)))
        for y in range(0, self.height, high):
            for x in range(0, self.width, wide):
                yield Box(y, min(y + high, self.height), x, min(x + wide, self.width))

    def _chunk(self, row: int, column: int) -> LabelArray:
        kept = self._kept
        if (row, column) in kept:
            kept.move_to_end((row, column))
            return kept[row, column]
        chunk = self.source.read_chunk(row, column)
        kept[row, column] = chunk
        while len(kept) > 1 and sum(each.nbytes for each in kept.values()) > self.remembered_bytes:
            kept.popitem(last=False)
        return chunk


@dataclass(frozen=True)
class HeldLabels:
    """Labels in memory, of files that are small, as a LabelFile."""

    path: Path
    labels: LabelArray
    colours: bool = False
    nodata: int | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    @property
    def height(self) -> int:
        return int(self.labels.shape[0])

    @property
    def width(self) -> int:
        return int(self.labels.shape[1])

    def read(self, box: Box) -> LabelArray:
        """(h, w) labels of a box inside the picture."""
        check_inside(box, self.height, self.width)
        return self.labels[box.y0 : box.y1, box.x0 : box.x1]

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> LabelArray:
        """(len(rows), len(columns)) labels at the crossings."""
        return self.labels[np.ix_(rows, columns)]

    def boxes(self) -> Iterator[Box]:
        """Strips."""
        high = max(1, SMALLEST_BOX // self.width)
        for y in range(0, self.height, high):
            yield Box(y, min(y + high, self.height), 0, self.width)


def check_inside(box: Box, height: int, width: int) -> None:
    """Refuse boxes that leave a picture of so many pixels. Raises ValueError."""
    if not Box(0, height, 0, width).contains(box):
        raise ValueError(f"{box} leaves a picture of labels of {width} x {height}")


def check_chunk(path: Path, what: str, rows: int, columns: int, pixel_bytes: int) -> None:
    """Refuse chunks that could not be unpacked in little memory."""
    if rows * columns * pixel_bytes > LARGEST_CHUNK:
        raise LabelFileError(
            f"{path} is stored in {what} of {columns} x {rows} pixels, {rows * columns * pixel_bytes >> 20} MB each; "
            f"at most {LARGEST_CHUNK >> 20} MB can be unpacked: save it in smaller tiles"
        )
