"""Stages that state what they read and write; what waits for what, and what is read no more, follow from that.

A stage works on places in the plane, latents or cells of a pyramid's level, cut into blocks: one task a block. A task
writes its block's places of some arrays, and reads boxes of arrays that other stages, or its own, write. A stage that
reads the array that it writes runs as a wavefront: a block follows those of its own stage that it reads.

    blur    writes b    reads a, grown by 2     a task waits for the blocks of a that its grown block touches
    paint   writes p    reads p, above and left     the block at (row, column) is in wave row + column
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from storage.geometry import Box, Grid

Task = tuple[int, int]
"""(stage, block)."""


@dataclass(frozen=True)
class Margin:
    """How far a block's reading reaches beyond it, in places."""

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    @classmethod
    def around(cls, width: int) -> Margin:
        """A margin of one width on all four sides."""
        return cls(width, width, width, width)

    def of(self, box: Box) -> Box:
        return Box(box.y0 - self.top, box.y1 + self.bottom, box.x0 - self.left, box.x1 + self.right)

    @property
    def mirrored(self) -> Margin:
        """From a box that is written to the blocks that read of it."""
        return Margin(self.bottom, self.top, self.right, self.left)


class ReadRegion(Protocol):
    """Which places of an array the tasks of a stage read."""

    def boxes(self, block: int) -> Iterable[Box]:
        """What one task reads; boxes may leave a canvas that wraps."""

    def readers(self, box: Box) -> Iterable[int] | None:
        """The tasks that read of a box; None where that is known from `boxes` of all tasks alone."""


@dataclass(frozen=True)
class Grown:
    """Each task reads its own block, grown by a margin. Satisfies ReadRegion."""

    grid: Grid
    margin: Margin

    def boxes(self, block: int) -> Iterable[Box]:
        return (self.margin.of(self.grid.box(block)),)

    def readers(self, box: Box) -> Iterable[int]:
        return self.grid.overlapping(self.margin.mirrored.of(box))


@dataclass(frozen=True)
class Listed:
    """A function says what each task reads. Satisfies ReadRegion."""

    of: Callable[[int], Iterable[Box]]

    def boxes(self, block: int) -> Iterable[Box]:
        return self.of(block)

    def readers(self, box: Box) -> None:
        del box


@dataclass(frozen=True)
class Read:
    """An array, and what of it the tasks of a stage read."""

    array: str
    region: ReadRegion


@dataclass(frozen=True)
class Stage:
    """Tasks of one kind.

    name: shown to people. kind: which of a worker's functions does it. number: of the step or of the pyramid's group.
    writes: arrays, or names of files of an output, of which each task writes its block. memory: bytes that a task
    takes at its fullest, of arrays.
    """

    name: str
    kind: str
    number: int
    grid: Grid
    reads: tuple[Read, ...]
    writes: tuple[str, ...]
    memory: int = 0

    @property
    def tasks(self) -> int:
        return len(self.grid)


@dataclass(frozen=True)
class StageGraph:
    """Stages in an order in which each reads what it or an earlier one writes.

    Raises ValueError where an array that is read is written by nobody, by two stages, or later.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        for index, stage in enumerate(self.stages):
            for name in stage.writes:
                if self.makers[name] != index:
                    raise ValueError(
                        f"{name} is written by {self.stages[self.makers[name]].name} and {stage.name}"
                    )
            for read in stage.reads:
                if self.makers.get(read.array, index + 1) > index:
                    raise ValueError(f"{stage.name} reads {read.array}, which no stage up to it writes")

    @cached_property
    def makers(self) -> Mapping[str, int]:
        """Array -> the stage that writes it."""
        return {name: index for index, stage in enumerate(self.stages) for name in stage.writes}

    @cached_property
    def readers(self) -> Mapping[str, tuple[tuple[int, Read], ...]]:
        """Array -> the stages that read it, ascending, and how."""
        found: dict[str, list[tuple[int, Read]]] = {name: [] for name in self.makers}
        for index, stage in enumerate(self.stages):
            for read in stage.reads:
                found[read.array].append((index, read))
        return {name: tuple(reads) for name, reads in found.items()}

    def before(self, stage: int) -> set[int]:
        """The other stages of whose arrays a stage reads."""
        return {self.makers[read.array] for read in self.stages[stage].reads} - {stage}

    def after(self, stage: int) -> set[int]:
        """The other stages that read of a stage's arrays."""
        return {reader for name in self.stages[stage].writes for reader, _ in self.readers[name]} - {stage}

    # --- tasks

    def dependencies(self, task: Task) -> list[Task]:
        """Tasks that must be done before this one, ascending."""
        index, block = task
        found: set[Task] = set()
        for read in self.stages[index].reads:
            maker = self.makers[read.array]
            grid = self.stages[maker].grid
            found.update(
                (maker, other) for box in read.region.boxes(block) for other in grid.overlapping(box)
            )
        return sorted(found - {task})

    def dependents(self, task: Task) -> list[Task]:
        """Tasks that wait for this one, ascending."""
        index, block = task
        found: set[Task] = set()
        for name in self.stages[index].writes:
            for reader, read in self.readers[name]:
                found.update((reader, other) for other in self._reading(reader, read, index, block))
        return sorted(found - {task})

    def _reading(self, reader: int, read: Read, maker: int, block: int) -> Iterable[int]:
        """The tasks of a stage that read a block of another stage's array."""
        known = read.region.readers(self.stages[maker].grid.box(block))
        return self._table(reader, read)[block] if known is None else known

    def _table(self, reader: int, read: Read) -> Mapping[int, list[int]]:
        """Blocks of an array -> the tasks of a stage that read them; by going through all of the stage's tasks."""
        key = reader, read.array
        if key not in self._tables:
            table: dict[int, list[int]] = defaultdict(list)
            grid = self.stages[self.makers[read.array]].grid
            for task in range(self.stages[reader].tasks):
                for block in {other for box in read.region.boxes(task) for other in grid.overlapping(box)}:
                    table[block].append(task)
            self._tables[key] = table
        return self._tables[key]

    @cached_property
    def _tables(self) -> dict[tuple[int, str], Mapping[int, list[int]]]:
        return {}

    # --- arrays

    def freed_by(self, stage: int) -> list[str]:
        """Arrays of which this stage is the last that reads."""
        return [name for name, reads in self.readers.items() if reads and reads[-1][0] == stage]

    def alive_during(self, stage: int) -> list[str]:
        """Arrays that are there while a stage runs: of it and the next, and of earlier ones what is still read."""
        return [
            name
            for name, maker in self.makers.items()
            if maker <= stage + 1 and (not self.readers[name] or self.readers[name][-1][0] >= stage)
        ]
