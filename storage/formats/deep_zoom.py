"""Deep Zoom: `image.dzi` and a folder of small pictures. Knows tiles and encoders; knows nothing of who writes them.

    FOLDER/image.dzi                              written last: its presence says that every tile is there
    FOLDER/image_files/LEVEL/COLUMN_ROW.jpg       LEVEL 0 is 1 x 1, LEVEL N = ceil(log2(max(width, height))) is full

The schema has no room for a version of ours; it is Microsoft's of 2008.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.damage import DamagedData
from storage.files import replace_file
from storage.formats.contract import check_box
from storage.geometry import Box
from storage.pyramid import PyramidLayout

SCHEMA = "http://schemas.microsoft.com/deepzoom/2008"
INDEX = "image.dzi"
ENCODINGS: dict[str, dict[str, int | bool]] = {
    "jpg": {"quality": 90, "subsampling": 0, "optimize": False},
    "png": {"compress_level": 1},
    "webp": {"quality": 90, "method": 0},
}
PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}


@dataclass(frozen=True)
class DeepZoom:
    """The Deep Zoom tiles of the picture in a job folder. quality: 1 to 100, of lossy tiles; None is the usual one."""

    folder: Path
    layout: PyramidLayout
    encoding: str = "jpg"
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.encoding not in ENCODINGS:
            raise ValueError(
                f"no tile encoding is called {self.encoding!r}; there are {', '.join(ENCODINGS)}"
            )

    @property
    def index_path(self) -> Path:
        return self.folder / INDEX

    def level_folder(self, level: int) -> Path:
        return self.folder / "image_files" / str(deep_zoom_level(self.layout, level))

    def tile_path(self, level: int, row: int, column: int) -> Path:
        return self.level_folder(level) / f"{column}_{row}.{self.encoding}"

    def create(self) -> None:
        for level in range(self.layout.deep_levels):
            self.level_folder(level).mkdir(parents=True, exist_ok=True)

    def write_level(self, level: int, box: Box, pixels: NDArray[np.uint8]) -> None:
        check_box(self.layout, level, box, pixels)
        for row, column in self._cells(box):
            tile = tile_box(self.layout, level, row, column)
            encoded = encode(pixels[tile.slices_in(box)], self.encoding, self.quality)
            replace_file(self.tile_path(level, row, column), encoded, durable=False)

    def files(self, level: int, box: Box) -> list[Path]:
        return [self.tile_path(level, row, column) for row, column in self._cells(box)]

    def own_files(self) -> list[Path]:
        return [self.index_path]

    def _cells(self, box: Box) -> Iterator[tuple[int, int]]:
        """(row, column) of each tile that a box of whole tiles holds."""
        cells = box.covering(self.layout.tile)
        return product(range(cells.y0, cells.y1), range(cells.x0, cells.x1))

    def finish(self) -> None:
        for level in range(self.layout.deep_levels):
            self._check_complete(level)
        replace_file(self.index_path, self.index().encode())

    def _check_complete(self, level: int) -> None:
        present = {entry.name for entry in os.scandir(self.level_folder(level)) if entry.stat().st_size}
        for path in self.files(level, self.layout.whole(level).box):
            if path.name not in present:
                raise DamagedData(f"{path} was never written; resume the job to write it")

    def index(self) -> str:
        """What `image.dzi` holds."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f'<Image xmlns="{SCHEMA}" Format="{self.encoding}" Overlap="0" TileSize="{self.layout.tile}">\n'
            f'  <Size Width="{self.layout.width}" Height="{self.layout.height}"/>\n'
            "</Image>\n"
        )


def deep_zoom_level(layout: PyramidLayout, level: int) -> int:
    """Deep Zoom's number of a level, or the level of Deep Zoom's number: the same subtraction."""
    return layout.deep_levels - 1 - level


def tile_box(layout: PyramidLayout, level: int, row: int, column: int) -> Box:
    """Where a tile lies on its level; IndexError where there is none."""
    whole, edge = layout.whole(level).box, layout.tile
    tile = Box(row * edge, (row + 1) * edge, column * edge, (column + 1) * edge).intersection(whole)
    if tile is None or min(row, column) < 0:
        raise IndexError(
            f"level {level} ({whole.height} x {whole.width}) has no tile in row {row}, column {column}"
        )
    return tile


def encode(pixels: NDArray[np.uint8], encoding: str, quality: int | None = None) -> bytes:
    """The bytes of one tile; the same pixels give the same bytes."""
    encoded = BytesIO()
    settings = ENCODINGS[encoding] if quality is None else {**ENCODINGS[encoding], "quality": quality}
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, PILLOW_NAMES[encoding], **settings)
    return encoded.getvalue()
