"""The levels of a finished picture: which task writes what, and from which pixels. Knows no file format.

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

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np

from storage.geometry import Box

S = TypeVar("S", bound=np.generic)


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
        return 4 * self.superblock**2  # three bytes a pixel; each level a quarter of the one before

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
