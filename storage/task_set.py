"""A set of tasks, (stage, block) pairs, in a bit each. Knows numbers only.

A job of a terapixel has fifty million tasks; as a Python set they would take gigabytes, here a few megabytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Task = tuple[int, int]
"""(stage, block)."""


class TaskSet:
    """Tasks by stage: a bitmap of each stage's blocks, which grows with the highest of them."""

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._bits: dict[int, bytearray] = {}
        self._counts: dict[int, int] = {}
        self._changes: dict[int, int] = {}
        for task in tasks:
            self.add(task)

    def add(self, task: Task) -> None:
        """Nothing happens where it is there."""
        stage, block = task
        bits = self._bits.setdefault(stage, bytearray())
        byte, bit = block >> 3, 1 << (block & 7)
        if byte >= len(bits):
            bits.extend(bytes(max(byte + 1 - len(bits), len(bits))))
        if not bits[byte] & bit:
            bits[byte] |= bit
            self._count(stage, 1)

    def discard(self, task: Task) -> None:
        """Nothing happens where it is not there."""
        if task in self:
            stage, block = task
            self._bits[stage][block >> 3] &= ~(1 << (block & 7))
            self._count(stage, -1)

    def _count(self, stage: int, more: int) -> None:
        self._counts[stage] = self._counts.get(stage, 0) + more
        self._changes[stage] = self._changes.get(stage, 0) + 1

    def __contains__(self, task: Task) -> bool:
        stage, block = task
        bits = self._bits.get(stage, b"")
        byte = block >> 3
        return byte < len(bits) and bool(bits[byte] & 1 << (block & 7))

    def __len__(self) -> int:
        return sum(self._counts.values())

    def __iter__(self) -> Iterator[Task]:
        """Ascending."""
        return ((stage, int(block)) for stage in sorted(self._bits) for block in self.blocks(stage))

    def __eq__(self, other: object) -> bool:
        return set(self) == other if isinstance(other, set) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it changes

    def count(self, stage: int) -> int:
        """How many of a stage are there."""
        return self._counts.get(stage, 0)

    def changes(self, stage: int) -> int:
        """A number that grows whenever a task of a stage comes or goes."""
        return self._changes.get(stage, 0)

    @property
    def stages_seen(self) -> tuple[int, ...]:
        """Those that have, or had, a task, ascending."""
        return tuple(sorted(self._bits))

    def blocks(self, stage: int) -> NDArray[np.int64]:
        """Those of a stage, ascending."""
        bits = np.frombuffer(bytes(self._bits.get(stage, b"")), np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))
