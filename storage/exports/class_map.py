"""The class map of a finished picture as one TIFF: a palette of the classes' colours, 255 where there is no class.

Index = class id, so that the file is itself a class map that can be drawn again; 255 is declared to be no data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.exports.contract import ExportError, OnProgress, appearing
from storage.formats.labels import NAME, labels_root
from storage.geometry import Box
from storage.label_files import LabelFile, open_labels
from storage.label_files.tiff import NODATA_TAG

TILE = 512
NO_CLASS = 255
ASCII = 2


def write_class_map(folder: Path, path: Path, on_progress: OnProgress) -> None:
    """Tiled BigTIFF. Raises ExportError where the folder keeps no labels."""
    import tifffile

    root = labels_root(folder) / NAME
    if not root.is_dir():
        raise ExportError(f"{folder} keeps no class map; draw with a class-map model and --output ome-zarr")
    labels = open_labels(root)
    with appearing(path) as unfinished, tifffile.TiffWriter(unfinished, bigtiff=True) as file:
        file.write(
            _tiles(labels, on_progress), shape=(labels.height, labels.width), dtype=np.uint8, tile=(TILE, TILE),
            photometric="palette", colormap=_palette(root), compression="adobe_deflate", metadata=None, maxworkers=1,
            extratags=[(NODATA_TAG, ASCII, 4, str(NO_CLASS), True)],
        )  # fmt: skip


def _tiles(labels: LabelFile, on_progress: OnProgress) -> Iterator[NDArray[np.uint8]]:
    """Class ids, tile by tile; what lies beyond the picture is no class."""
    cells = Box(0, labels.height, 0, labels.width).covering(TILE)
    for number in range(cells.area):
        row, column = divmod(number, cells.width)
        place = Box(row * TILE, (row + 1) * TILE, column * TILE, (column + 1) * TILE)
        part = Box(place.y0, min(place.y1, labels.height), place.x0, min(place.x1, labels.width))
        tile = np.full((TILE, TILE), NO_CLASS, np.uint8)
        tile[part.slices_in(place)] = labels.read(part).astype(np.uint8) - np.uint8(1)  # 0 becomes 255
        on_progress(number + 1, cells.area)
        yield tile


def _palette(root: Path) -> NDArray[np.uint16]:
    """(3, 256) in the 16 bits of TIFF's colour maps, from what the labels say of their colours."""
    about = json.loads((root / "zarr.json").read_text(encoding="utf-8"))["attributes"]["ome"]["image-label"]
    colours = np.zeros((3, 256), np.uint16)
    for row in about["colors"]:
        colours[:, row["label-value"] - 1] = np.array(row["rgba"][:3], np.uint16) * 257
    return colours
