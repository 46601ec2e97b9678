"""The levels of a finished picture: which task writes what, and how pixels halve. Knows no file format.

    level 0   full size           +----+----+----+-      group 0: the decode task of one superblock writes its box
    level 1   ceil(size / 2)      |    |    |    |       of level 0 and of every level below it on which that box
    level 2   ceil(size / 4)      +----+----+----+-      still holds whole tiles (2048 / 512: levels 0, 1 and 2)
    ...                           |    |    |    |
    level n   1 x 1               +----+----+----+-      group g > 0: a reduction task reads a superblock of the
                                                         last level of group g - 1, and writes the levels after it

The last group is the first one with a single task; that task also writes every level that remains, down to 1 x 1.
Boxes are anchored at the origin, so each pixel of each level is written by exactly one task. Within a group the
pixels stay in linear light, unrounded; they are rounded to 8 bits where they are stored, hence between groups.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.formats.contract import PyramidFormat
from storage.geometry import Box

Pixels8 = NDArray[np.uint8]
Linear = NDArray[np.float32]
Pixels = NDArray[np.uint8] | NDArray[np.floating[Any]]

STRIP_ROWS = 64  # rows worked on at once: small enough to stay in a core's cache


@dataclass(frozen=True, order=True)
class PyramidTask:
    """One superblock-sized cell of a group. Group 0 is written while decoding, the others by reducing."""

    group: int
    row: int
    column: int


@dataclass(frozen=True)
class LevelBox:
    """A rectangle of one level, in that level's pixels."""

    level: int
    box: Box


@dataclass(frozen=True)
class PyramidLayout:
    """Every level, group, task and box of a picture, computed from four numbers; nothing is enumerated up front."""

    width: int
    height: int
    tile: int = 512
    superblock: int = 2048

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(
                f"a picture of {self.width} x {self.height} pixels is empty; both must be at least 1"
            )
        if self.tile < 1:
            raise ValueError(f"tile size {self.tile} must be at least 1")
        tiles, rest = divmod(self.superblock, self.tile)
        if rest or tiles < 2 or tiles & (tiles - 1):
            raise ValueError(
                f"superblock {self.superblock} must be 2, 4, 8, ... times the tile size {self.tile}; "
                f"try {4 * self.tile}"
            )

    @property
    def levels_per_group(self) -> int:
        """How often a superblock halves before it is one tile: log2(superblock / tile)."""
        return (self.superblock // self.tile).bit_length() - 1

    @property
    def deep_levels(self) -> int:
        """Levels down to 1 x 1, as Deep Zoom counts them."""
        return (max(self.width, self.height) - 1).bit_length() + 1

    @property
    def levels(self) -> int:
        """Levels down to the first that fits in one tile, as OME-Zarr stores them."""
        return 1 + self._halvings_until_within(self.tile)

    @cached_property
    def groups(self) -> int:
        """Stages of the pyramid: decoding, then reductions until one task sees the whole picture."""
        return 1 - (-self._halvings_until_within(self.superblock) // self.levels_per_group)

    def size(self, level: int) -> tuple[int, int]:
        """(height, width) of a level."""
        self._check_level(level)
        return -(-self.height >> level), -(-self.width >> level)

    def whole(self, level: int) -> LevelBox:
        height, width = self.size(level)
        return LevelBox(level, Box(0, height, 0, width))

    def group_of(self, level: int) -> int:
        """The group that writes a level."""
        self._check_level(level)
        return min(max(level - 1, 0) // self.levels_per_group, self.groups - 1)

    def write_edge(self, level: int) -> int:
        """Edge of the square that one task writes on a level: the natural shard."""
        halvings = level - self.group_of(level) * self.levels_per_group
        return max(self.tile, self.superblock >> halvings)

    def written_levels(self, group: int) -> range:
        """The levels that the tasks of a group write."""
        self._check_group(group)
        first = group * self.levels_per_group + (1 if group else 0)
        after = self.deep_levels if group == self.groups - 1 else (group + 1) * self.levels_per_group + 1
        return range(first, after)

    def read_level(self, group: int) -> int:
        """The level whose pixels the tasks of a group start from; for group 0 these come from the decoder."""
        self._check_group(group)
        return group * self.levels_per_group

    def cells(self, group: int) -> tuple[int, int]:
        """(rows, columns) of a group's tasks."""
        height, width = self.size(self.read_level(group))
        return -(-height // self.superblock), -(-width // self.superblock)

    def task_count(self, group: int) -> int:
        rows, columns = self.cells(group)
        return rows * columns

    def task(self, group: int, index: int) -> PyramidTask:
        """Task number `index` of a group, row by row: for group 0 the number of the superblock."""
        rows, columns = self.cells(group)
        if not 0 <= index < rows * columns:
            raise IndexError(f"task {index} of the {rows * columns} of group {group}")
        return PyramidTask(group, *divmod(index, columns))

    def tasks(self, group: int) -> Iterator[PyramidTask]:
        return (self.task(group, index) for index in range(self.task_count(group)))

    def reads(self, task: PyramidTask) -> LevelBox:
        """What a task starts from: its superblock, cut at the right and bottom borders."""
        return self._cell(self.read_level(task.group), task, self.superblock)

    def writes(self, task: PyramidTask) -> list[LevelBox]:
        """What a task writes, finest level first; no other task writes any of it."""
        return [self._cell(level, task, self.write_edge(level)) for level in self.written_levels(task.group)]

    def dependencies(self, task: PyramidTask) -> list[PyramidTask]:
        """The tasks of the group before whose pixels a reduction task reads; none for group 0."""
        if task.group == 0:
            return []
        cells = self.reads(task).box.covering(self.tile)  # the group before ended with one tile a task
        return [
            PyramidTask(task.group - 1, row, column)
            for row in range(cells.y0, cells.y1)
            for column in range(cells.x0, cells.x1)
        ]

    def peak_bytes(self) -> int:
        """Memory that `write_bands` takes on top of the bands it is given."""
        stored, halves = 3 * self.superblock**2, 4 * 3 * self.superblock**2 // 4
        return stored + 2 * halves

    def _halvings_until_within(self, limit: int) -> int:
        return (-(-max(self.width, self.height) // limit) - 1).bit_length()

    def _cell(self, level: int, task: PyramidTask, edge: int) -> LevelBox:
        box = Box(task.row * edge, (task.row + 1) * edge, task.column * edge, (task.column + 1) * edge)
        cut = box.intersection(self.whole(level).box)
        if cut is None or min(task.row, task.column) < 0:
            raise IndexError(f"{task} lies outside the {self.cells(task.group)} tasks of its group")
        return LevelBox(level, cut)

    def _check_level(self, level: int) -> None:
        if not 0 <= level < self.deep_levels:
            raise IndexError(f"level {level} of a picture with levels 0 to {self.deep_levels - 1}")

    def _check_group(self, group: int) -> None:
        if not 0 <= group < self.groups:
            raise IndexError(f"group {group} of a pyramid with groups 0 to {self.groups - 1}")


def write_superblock(
    outputs: Sequence[PyramidFormat], layout: PyramidLayout, task: PyramidTask, pixels: Pixels
) -> None:
    """Write every box of a task, from the pixels of `layout.reads(task)`, into every output, in one pass.

    Pixels are (height, width, 3) sRGB: uint8, or floating point in [0, 1]. A task that is run again writes the same
    bytes again.
    """
    write_bands(outputs, layout, task, [pixels])


def write_bands(
    outputs: Sequence[PyramidFormat], layout: PyramidLayout, task: PyramidTask, bands: Iterable[Pixels]
) -> None:
    """The same from bands of rows, from the top: of any heights, and none is needed once the next is asked for."""
    expected = (*layout.reads(task).box.shape, 3)
    stored, linear = _joined(layout, task, bands, expected)
    for place, pixels in zip(layout.writes(task), _stored_levels(layout, task, stored, linear), strict=True):
        for output in outputs:
            output.write_level(place.level, place.box, pixels)


def _joined(
    layout: PyramidLayout, task: PyramidTask, bands: Iterable[Pixels], expected: tuple[int, int, int]
) -> tuple[Pixels8, Linear]:
    """A task's pixels as they are stored, where it stores them, and their halves in linear light."""
    height, width, _ = expected
    stored = np.empty(expected if task.group == 0 else (0, 0, 3), np.uint8)
    half = np.empty((-(-height // 2), -(-width // 2), 3), np.float32)
    top = 0
    for band in _even(bands):
        bottom = top + len(band)
        if band.shape[1:] != expected[1:] or bottom > height:
            raise ValueError(f"{task} writes from pixels of shape {expected}; rows {top} on are {band.shape}")
        if task.group == 0:
            stored[top:bottom] = to_u8(band)
        half[top // 2 : -(-bottom // 2)] = reduce_half_srgb(band)
        top = bottom
    if top < height:
        raise ValueError(f"{task} writes from pixels of shape {expected}; there are {top} rows")
    return stored, half


def _even(bands: Iterable[Pixels]) -> Iterator[Pixels]:
    """The same rows in bands of even heights, for two make one of the next level; but for the last."""
    over: Pixels | None = None
    for fresh in bands:
        band = fresh if over is None else np.concatenate([over, fresh])
        even = len(band) - len(band) % 2
        if even:
            yield band[:even]
        over = band[even:] if even < len(band) else None
    if over is not None:
        yield over


def cut(bands: Iterable[Pixels], rows: slice, columns: slice) -> Iterator[Pixels]:
    """The part of bands of rows that lies in a rectangle of the whole."""
    top = 0
    for band in bands:
        part = band[max(0, rows.start - top) : max(0, rows.stop - top), columns]
        top += len(band)
        if len(part):
            yield part


def _stored_levels(
    layout: PyramidLayout, task: PyramidTask, stored: Pixels8, linear: Linear
) -> Iterator[Pixels8]:
    """The 8-bit pixels of each level that a task writes, finest first."""
    if task.group == 0:
        yield stored
    levels = layout.written_levels(task.group)
    for halving in range(len(levels) - (1 if task.group == 0 else 0)):
        if halving:
            linear = reduce_half(linear)
        yield linear_to_srgb_u8(linear)


def to_u8(pixels: Pixels) -> Pixels8:
    """sRGB pixels as they are stored: floating point in [0, 1] is clipped and rounded."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    stored = np.empty(pixels.shape, np.uint8)
    for rows in _strips(len(pixels)):
        stored[rows] = _grid(pixels[rows], 255).astype(np.uint8)
    return stored


def reduce_half(linear: Linear) -> Linear:
    """2 x 2 box mean of (height, width, 3) in linear light, ceil halves.

    An odd border is replicated, so that its last pixel is the mean of what exists there:

        a b | c        (a + b + d + e) / 4    (c + f) / 2
        d e | f   ->
        ----+--        (g + h) / 2             i
        g h | i
    """
    height = len(linear)
    rows = linear[0 : height - 1 : 2] + linear[1::2]
    if height % 2:
        rows = np.concatenate([rows, 2 * linear[-1:]])
    return _half_of_row_sums(rows)


def _half_of_row_sums(rows: Linear) -> Linear:
    """Quarters of the sums of two columns each, where a row already is the sum of two."""
    height, width, _ = rows.shape
    half = np.empty((height, -(-width // 2), 3), np.float32)
    whole_columns = width // 2
    for channel in range(3):  # long strided loops: several times faster than one over (..., 2, 3)
        left, right = rows[:, 0 : width - 1 : 2, channel], rows[:, 1::2, channel]
        np.add(left, right, out=half[:, :whole_columns, channel])
    if width % 2:
        half[:, -1] = 2 * rows[:, -1]
    half *= np.float32(0.25)
    return half


def reduce_half_srgb(pixels: Pixels) -> Linear:
    """`reduce_half(srgb_to_linear(pixels))`, strip by strip: the same bytes, without the full-size linear copy."""
    height, width, _ = pixels.shape
    half = np.empty((-(-height // 2), -(-width // 2), 3), np.float32)
    for rows in _strips(height):
        strip = pixels[rows]
        reduced = half[rows.start // 2 : -(-rows.stop // 2)]
        if strip.dtype == np.uint8:
            reduced[:] = _half_of_row_sums(_row_sums_of_u8(strip.astype(np.uint8, copy=False)))
        else:
            reduced[:] = reduce_half(srgb_to_linear(strip))
    return half


def _row_sums_of_u8(pixels: Pixels8) -> Linear:
    """Two rows each in linear light, added by looking up the pair of bytes; a last odd row is added to itself."""
    upper, lower = pixels[0::2], pixels[1::2]
    if len(lower) < len(upper):
        lower = np.concatenate([lower, pixels[-1:]])
    return np.take(_sums_of_u8_pairs(), (upper.astype(np.uint16) << 8) | lower)


def srgb_to_linear(pixels: Pixels) -> Linear:
    """Linear light in [0, 1] of sRGB pixels: uint8, or floating point in [0, 1]."""
    if pixels.dtype == np.uint8:
        return np.take(_linear_of_u8(), pixels.astype(np.uint8, copy=False))  # half the time of indexing
    return np.take(_linear_of_u16(), _grid(pixels, 65535).astype(np.uint16))


def linear_to_srgb_u8(linear: Linear) -> Pixels8:
    """The sRGB bytes of linear light, clipped to [0, 1] and rounded; the inverse of `srgb_to_linear` on every byte."""
    stored = np.empty(linear.shape, np.uint8)
    lookup = _u8_of_linear()
    for rows in _strips(len(linear)):
        stored[rows] = np.take(lookup, _grid(linear[rows], 65535).astype(np.uint16))
    return stored


def _grid(values: Pixels, steps: int) -> Linear:
    """Values in [0, 1] on a scale of 0 to `steps`, moved up by half a step so that cutting the fraction rounds."""
    scaled = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return scaled * np.float32(steps) + np.float32(0.5)


def _strips(height: int) -> Iterator[slice]:
    return (slice(top, min(top + STRIP_ROWS, height)) for top in range(0, height, STRIP_ROWS))


@cache
def _linear_of_u16() -> Linear:
    """IEC 61966-2-1: V <= 0.04045: V / 12.92, else ((V + 0.055) / 1.055) ** 2.4."""
    encoded = np.arange(65536) / 65535
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


@cache
def _linear_of_u8() -> Linear:
    return np.ascontiguousarray(_linear_of_u16()[::257])  # 65535 = 257 * 255


@cache
def _sums_of_u8_pairs() -> Linear:
    """At 256 a + b: the linear light of byte a and of byte b, added."""
    linear = _linear_of_u8()
    return np.ascontiguousarray(linear[:, None] + linear[None, :]).ravel()


@cache
def _u8_of_linear() -> Pixels8:
    """One step of linear light is at most 0.05 of a byte, even where the curve is steepest."""
    linear = np.arange(65536) / 65535
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    stored: Pixels8 = np.rint(encoded * 255).astype(np.uint8)
    return stored
