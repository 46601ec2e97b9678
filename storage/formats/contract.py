"""What a pyramid format must do, and the table of those there are. Knows no format's bytes; imports each when asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from storage.fingerprint import FormatError
from storage.geometry import Box

if TYPE_CHECKING:
    from storage.pyramid import PyramidLayout

LARGEST_TILE = 4096
"""Side in pixels; a tile is decoded whole, and whoever reads a folder may not have made it."""


class PyramidFormat(Protocol):
    """One output of a picture. Built from a folder and a layout wherever it is needed; holds nothing else.

    Several processes write at once, each its own boxes; the same box written twice leaves the same bytes.
    """

    def create(self) -> None:
        """Make what all writers share. Called once before the first write; harmless when called again."""

    def write_level(self, level: int, box: Box, pixels: NDArray[np.uint8]) -> None:
        """Store (height, width, 3) sRGB pixels. The box starts on a tile border and ends on one or at the picture's."""

    def files(self, level: int, box: Box) -> list[Path]:
        """The files that `write_level` writes for this box, in a fixed order."""

    def finish(self) -> None:
        """Called once after the last write. Raises DamagedData, naming what is missing of an incomplete picture."""

    def own_files(self) -> list[Path]:
        """The files that `create` and `finish` write."""


def check_box(layout: PyramidLayout, level: int, box: Box, pixels: NDArray[np.uint8]) -> None:
    """The promise of `write_level`, checked at the door of every format."""
    height, width = layout.size(level)
    starts = box.y0 % layout.tile == 0 and box.x0 % layout.tile == 0
    ends = (box.y1 == height or box.y1 % layout.tile == 0) and (box.x1 == width or box.x1 % layout.tile == 0)
    inside = Box(0, height, 0, width).contains(box)
    if not (starts and ends and inside and box.area):
        raise ValueError(
            f"{box} is not made of whole {layout.tile}-pixel tiles of level {level} ({height} x {width})"
        )
    if pixels.dtype != np.uint8 or pixels.shape != (*box.shape, 3):
        raise ValueError(
            f"{box} takes uint8 pixels of shape {(*box.shape, 3)}, not {pixels.dtype} {pixels.shape}"
        )


def checked_tile(tile: object, told_by: Path) -> int:
    """The side of tiles that a file tells. Raises FormatError where it is no size of ours."""
    if type(tile) is not int or not 1 <= tile <= LARGEST_TILE:
        raise FormatError(f"{told_by} tells tiles of {tile!r} pixels; this program reads 1 to {LARGEST_TILE}")
    return tile
