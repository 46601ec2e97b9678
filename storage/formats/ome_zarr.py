"""OME-Zarr 0.5, the master copy: levels c, y, x of uint8 sRGB. Knows an image's metadata, not tasks.

FOLDER/image.zarr/zarr.json        multiscales, omero, and the layout this picture was written with
FOLDER/image.zarr/LEVEL/...        a Multiscale of three channels
FOLDER/image.zarr/labels/...       where the model knows classes: storage.formats.labels
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from storage.fingerprint import FormatError
from storage.formats.contract import LARGEST_TILE, check_box, checked_tile
from storage.formats.multiscale import OME_VERSION, Multiscale, open_array, read_box
from storage.geometry import Box
from storage.pyramid import PyramidLayout

FORMAT_VERSION = 1
COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


@dataclass(frozen=True)
class OmeZarr:
    """The OME-Zarr image in a job folder."""

    folder: Path
    layout: PyramidLayout

    @property
    def root(self) -> Path:
        return image_root(self.folder)

    @property
    def levels(self) -> Multiscale:
        return Multiscale(self.root, self.layout, channels=len(COLOURS))

    def create(self) -> None:
        self.levels.create(self._attributes())

    def write_level(self, level: int, box: Box, pixels: NDArray[np.uint8]) -> None:
        """Levels that OME-Zarr does not keep (below one tile) are passed over."""
        check_box(self.layout, level, box, pixels)
        if level < self.layout.levels:
            self.levels.write(level, box, np.moveaxis(pixels, 2, 0))

    def files(self, level: int, box: Box) -> list[Path]:
        return self.levels.shards(level, box) if level < self.layout.levels else []

    def own_files(self) -> list[Path]:
        return self.levels.metadata_files()

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """(height, width, 3) pixels of a box. Raises DamagedData where some of them are missing."""
        return _pixels(self.levels.read(level, box))

    def finish(self) -> None:
        self.levels.check_complete()

    def _attributes(self) -> dict[str, Any]:
        multiscale = self.levels.description("image", "2x2 mean in linear light")
        written_with = {
            "format_version": FORMAT_VERSION,
            "tile": self.layout.tile,
            "superblock": self.layout.superblock,
        }
        ome = {"version": OME_VERSION, "multiscales": [multiscale], "omero": _rendering()}
        return {"ome": ome, "hypermosaic": written_with}


def _rendering() -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": name, "color": colour, "active": True, "window": window} for name, colour in COLOURS.items()
    ]
    return {"channels": channels, "rdefs": {"model": "color", "defaultZ": 0, "defaultT": 0}}


def image_root(folder: Path) -> Path:
    """Where the image of a job's folder is, or will be."""
    return folder / "image.zarr"


def open_image(folder: Path) -> OmeZarr:
    """The image that a job folder holds, with the layout it was written with. Raises FormatError for any other."""
    index = image_root(folder) / "zarr.json"
    written_with = json.loads(index.read_text())["attributes"].get("hypermosaic", {})
    if written_with.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{image_root(folder)} has format version {written_with.get('format_version')}; "
            f"this program reads {FORMAT_VERSION}"
        )
    tile, superblock = checked_tile(written_with.get("tile"), index), written_with.get("superblock")
    if type(superblock) is not int:
        raise FormatError(f"{index} tells a superblock of {superblock!r}; resume the job to write it again")
    _, height, width = open_level(folder, 0).shape
    return OmeZarr(folder, PyramidLayout(width, height, tile, superblock))


def open_level(folder: Path, level: int, context: ts.Context | None = None) -> ts.TensorStore:
    """A level of a job folder's image as a TensorStore array c, y, x; context: with what it shares a cache.

    Raises FormatError where what is decoded at once is larger than any tile.
    """
    store = open_array(image_root(folder), level, context=context)
    chunk = [side or 0 for side in store.chunk_layout.read_chunk.shape or ()]
    if max(chunk, default=0) > LARGEST_TILE:
        raise FormatError(
            f"level {level} of {image_root(folder)} has chunks of {' x '.join(map(str, chunk))}; "
            f"this program reads {LARGEST_TILE} at most"
        )
    return store


def read_pixels(store: ts.TensorStore, box: Box) -> NDArray[np.uint8]:
    """(height, width, 3) pixels of a box of an opened level."""
    return _pixels(read_box(store, box))


def _pixels(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack(tuple(planes), axis=2)  # a quarter of the time of moving the axis and copying
