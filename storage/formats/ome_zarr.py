"""OME-Zarr 0.5, the master copy: sharded Zarr v3 arrays c, y, x of uint8. Knows bytes and metadata, not tasks.

    FOLDER/image.zarr/zarr.json           multiscales, omero, and the layout this picture was written with
    FOLDER/image.zarr/LEVEL/zarr.json     one array a level, down to the first that fits in one tile
    FOLDER/image.zarr/LEVEL/c/0/ROW/COL   one shard: what one task writes; inner chunks 3 x tile x tile, zstd

Each shard has one writer and is written in one transaction, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from storage.arrays import as_os_error
from storage.formats.atomic import replace_file
from storage.formats.contract import check_box
from storage.geometry import Box
from storage.pyramid import PyramidLayout

FORMAT_VERSION = 1
ZSTD_LEVEL = 3
COLOURS = {"red": "FF0000", "green": "00FF00", "blue": "0000FF"}


@dataclass(frozen=True)
class OmeZarr:
    """The OME-Zarr image in a job folder."""

    folder: Path
    layout: PyramidLayout

    @property
    def root(self) -> Path:
        return image_root(self.folder)

    def create(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for level in range(self.layout.levels):
            ts.open(self._array(level), create=True, open=True).result()
        replace_file(self.root / "zarr.json", json.dumps(self._group(), indent=2).encode())

    def write_level(self, level: int, box: Box, pixels: NDArray[np.uint8]) -> None:
        """Levels that OME-Zarr does not keep (below one tile) are passed over."""
        check_box(self.layout, level, box, pixels)
        if level >= self.layout.levels:
            return
        try:
            with ts.Transaction() as transaction:
                store = open_level(self.folder, level, writable=True).with_transaction(transaction)
                store[:, box.y0 : box.y1, box.x0 : box.x1] = np.moveaxis(pixels, 2, 0)
        except ValueError as error:
            raise as_os_error(error, f"level {level} of {self.root.name}") from error

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """(height, width, 3) pixels of a box; black where nothing was written yet."""
        return read_pixels(open_level(self.folder, level), box)

    def finish(self) -> None:
        for level in range(self.layout.levels):
            self._check_complete(level)

    def _check_complete(self, level: int) -> None:
        shards = self.layout.whole(level).box.covering(self.layout.write_edge(level))
        rows = self.root / str(level) / "c" / "0"
        for row in range(shards.y1):
            present = (
                {entry.name for entry in os.scandir(rows / str(row))} if (rows / str(row)).is_dir() else set()
            )
            for column in range(shards.x1):
                if str(column) not in present:
                    missing = rows / str(row) / str(column)
                    raise FileNotFoundError(f"shard {missing} was never written; resume the job to write it")

    def _array(self, level: int) -> dict[str, Any]:
        """The TensorStore description of a level's array, which becomes its zarr.json."""
        edge, tile = self.layout.write_edge(level), self.layout.tile
        inner: list[dict[str, Any]] = [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}},
            {"name": "crc32c"},
        ]
        sharding = {
            "chunk_shape": [3, tile, tile],
            "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        metadata = {
            "shape": [3, *self.layout.size(level)],
            "data_type": "uint8",
            "dimension_names": ["c", "y", "x"],
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, edge, edge]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }
        return {**_spec(self.folder, level), "metadata": metadata}

    def _group(self) -> dict[str, Any]:
        layout = self.layout
        written_with = {
            "format_version": FORMAT_VERSION,
            "tile": layout.tile,
            "superblock": layout.superblock,
        }
        ome = {"version": "0.5", "multiscales": [self._multiscale()], "omero": _rendering()}
        return {
            "zarr_format": 3,
            "node_type": "group",
            "attributes": {"ome": ome, "hypermosaic": written_with},
        }

    def _multiscale(self) -> dict[str, Any]:
        return {
            "name": "image",
            "axes": [
                {"name": "c", "type": "channel"},
                {"name": "y", "type": "space"},
                {"name": "x", "type": "space"},
            ],
            "datasets": [_dataset(level) for level in range(self.layout.levels)],
            "type": "2x2 mean in linear light",
        }


def _dataset(level: int) -> dict[str, Any]:
    """Where a level lies: its pixels are exactly 2^level wide, even where the last one is only partly covered.

    Coordinates name pixel centres, so the first pixel of a level lies (2^level - 1) / 2 from that of level 0.
    """
    scale, offset = float(2**level), (2**level - 1) / 2
    transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0, scale, scale]}]
    if level:
        transforms.append({"type": "translation", "translation": [0.0, offset, offset]})
    return {"path": str(level), "coordinateTransformations": transforms}


def _rendering() -> dict[str, Any]:
    window = {"min": 0, "max": 255, "start": 0, "end": 255}
    channels = [
        {"label": name, "color": colour, "active": True, "window": window} for name, colour in COLOURS.items()
    ]
    return {"channels": channels, "rdefs": {"model": "color", "defaultZ": 0, "defaultT": 0}}


def image_root(folder: Path) -> Path:
    return folder / "image.zarr"


def open_image(folder: Path) -> OmeZarr:
    """The image that a job folder holds, with the layout it was written with."""
    attributes = json.loads((image_root(folder) / "zarr.json").read_text())["attributes"]
    written_with = attributes.get("hypermosaic", {})
    if written_with.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{image_root(folder)} has format version {written_with.get('format_version')}; "
            f"this program reads {FORMAT_VERSION}"
        )
    _, height, width = open_level(folder, 0).shape
    return OmeZarr(folder, PyramidLayout(width, height, written_with["tile"], written_with["superblock"]))


def open_level(folder: Path, level: int, *, writable: bool = False) -> ts.TensorStore:
    """A level of a job folder's image as a TensorStore array c, y, x."""
    return ts.open(_spec(folder, level), open=True, read=True, write=writable).result()


def read_pixels(store: ts.TensorStore, box: Box) -> NDArray[np.uint8]:
    """(height, width, 3) pixels of a box of an opened level."""
    planes = store[:, box.y0 : box.y1, box.x0 : box.x1].read().result()
    return np.ascontiguousarray(np.moveaxis(np.asarray(planes), 0, 2))


def _spec(folder: Path, level: int) -> dict[str, Any]:
    """Black is stored like any colour, so that a missing shard always means an unwritten one."""
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{(image_root(folder) / str(level)).absolute()}/"},
        "store_data_equal_to_fill_value": True,
    }
