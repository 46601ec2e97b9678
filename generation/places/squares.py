"""Ids of a class map, square by square; those read last are remembered. Knows boxes and ids; knows no file.

A worker meets the same places at every step, in patches that lie elsewhere each time: squares are the same each time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box, Canvas

Ids: TypeAlias = NDArray[np.integer[Any]]

SIDE = 64
REMEMBERED = 1024
"""Squares: 8 MB of ids."""


class ReadsIds(Protocol):
    """Where ids come from."""

    def ids(self, box: Box) -> Ids:
        """(h, w) ids of a box, which may wrap where the canvas does; -1 is no class."""


@dataclass(frozen=True)
class Remembered:
    """Ids of a source that is asked by squares on the canvas, each once. Satisfies ReadsIds."""

    source: ReadsIds
    canvas: Canvas
    side: int = SIDE

    def ids(self, box: Box) -> Ids:
        """(h, w) ids of a box, which may wrap."""
        out = np.empty(box.shape, np.int16)
        for piece, home in self.canvas.split_at_edges(box):
            out[piece.slices_in(box)] = self._at_home(home)
        return out

    def _at_home(self, home: Box) -> Ids:
        out = np.empty(home.shape, np.int16)
        cells = home.covering(self.side)
        for row in range(cells.y0, cells.y1):
            for column in range(cells.x0, cells.x1):
                square = Box(row, row + 1, column, column + 1).scaled(self.side).intersection(self.canvas.box)
                assert square is not None  # it meets a box on the canvas
                part = square.intersection(home)
                assert part is not None
                out[part.slices_in(home)] = self._square(square)[part.slices_in(square)]
        return out

    @cached_property
    def _square(self) -> Callable[[Box], Ids]:
        return lru_cache(maxsize=REMEMBERED)(lambda square: self.source.ids(square).astype(np.int16))
