"""Levels of uint8 values as OME-Zarr 0.5 keeps them: one sharded Zarr v3 array each. Knows no value's meaning.

    ROOT/zarr.json               a group with the attributes that its owner gives it
    ROOT/LEVEL/zarr.json         one array a level, down to the first that fits in one tile
    ROOT/LEVEL/c/[0/]ROW/COL     one shard: what one task writes; inner chunks of tile x tile, zstd

Each shard has one writer and is written in one transaction, so it is there whole or not at all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from storage.arrays import METADATA, as_os_error
from storage.damage import DamagedData, is_damage
from storage.files import replace_file
from storage.geometry import Box
from storage.pyramid import PyramidLayout

OME_VERSION = "0.5"
ZSTD_LEVEL = 3


@dataclass(frozen=True)
class Multiscale:
    """Arrays (c, y, x) of so many channels, or (y, x) where `channels` is None, on the levels of a layout."""

    root: Path
    layout: PyramidLayout
    channels: int | None = None

    def create(self, attributes: Mapping[str, Any]) -> None:
        """Make the arrays, then the group that lists them; harmless when repeated, which mends damaged metadata."""
        for level in range(self.layout.levels):
            self._create_level(level)
        write_group(self.root, attributes)

    def _create_level(self, level: int) -> None:
        try:
            self._open_or_create(level)
        except OSError as error:  # its metadata is damaged, or another's
            if not is_damage(error):
                raise
            (self.root / str(level) / METADATA).unlink(missing_ok=True)
            self._open_or_create(level)

    def _open_or_create(self, level: int) -> None:
        try:
            ts.open(self._array(level), create=True, open=True).result()
        except ValueError as error:
            raise as_os_error(error, f"level {level} of {self.root.name}") from error

    def write(self, level: int, box: Box, values: NDArray[np.uint8]) -> None:
        """Store the values of whole shards. Raises OSError where the file system does."""
        try:
            self._write(level, box, values)
        except OSError as error:  # TensorStore reads what is there of a shard that reaches out of the picture
            if not is_damage(error):
                raise
            for shard in self.shards(level, box):
                shard.unlink(missing_ok=True)
            self._write(level, box, values)

    def _write(self, level: int, box: Box, values: NDArray[np.uint8]) -> None:
        try:
            with ts.Transaction() as transaction:
                store = open_array(self.root, level, writable=True).with_transaction(transaction)
                store[..., box.y0 : box.y1, box.x0 : box.x1] = values
        except ValueError as error:
            raise as_os_error(error, f"level {level} of {self.root.name}") from error

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """The values of a box. Raises DamagedData where a shard of it is missing, torn or rotten."""
        for shard in self.shards(level, box):
            if not shard.is_file():
                raise DamagedData(f"{shard} is missing")
        try:
            return read_box(open_array(self.root, level), box)
        except ValueError as error:
            raise as_os_error(error, f"level {level} of {self.root.name}") from error

    def shards(self, level: int, box: Box) -> list[Path]:
        """The files that hold a box of a level, written or not."""
        cells = box.covering(self.layout.write_edge(level))
        rows = (self.root / str(level) / "c").joinpath(*("0" for _ in self._lead))
        return [
            rows / str(row) / str(column)
            for row in range(cells.y0, cells.y1)
            for column in range(cells.x0, cells.x1)
        ]

    def check_complete(self) -> None:
        """Raises DamagedData, naming a shard that was never written."""
        for level in range(self.layout.levels):
            self._check_level(level)

    def metadata_files(self) -> list[Path]:
        """The files that `create` writes."""
        return [
            self.root / METADATA,
            *(self.root / str(level) / METADATA for level in range(self.layout.levels)),
        ]

    def description(self, name: str, how: str) -> dict[str, Any]:
        """The entry of `multiscales` in the group's attributes. how: in words, how a level follows from the last."""
        channel = [{"name": "c", "type": "channel"}] if self._lead else []
        space = [{"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
        datasets = [self._dataset(level) for level in range(self.layout.levels)]
        return {"name": name, "axes": [*channel, *space], "datasets": datasets, "type": how}

    @property
    def _lead(self) -> list[int]:
        """The lengths of the axes before y and x."""
        return [] if self.channels is None else [self.channels]

    def _check_level(self, level: int) -> None:
        present: dict[Path, set[str]] = {}
        for shard in self.shards(level, self.layout.whole(level).box):
            folder = shard.parent
            if folder not in present:
                present[folder] = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
            if shard.name not in present[folder]:
                raise DamagedData(f"shard {shard} was never written; resume the job to write it")

    def _array(self, level: int) -> dict[str, Any]:
        """The TensorStore description of a level's array, which becomes its zarr.json."""
        edge, tile = self.layout.write_edge(level), self.layout.tile
        inner: list[dict[str, Any]] = [
            {"name": "bytes"},
            {"name": "zstd", "configuration": {"level": ZSTD_LEVEL}},
            {"name": "crc32c"},
        ]
        sharding = {
            "chunk_shape": [*self._lead, tile, tile],
            "codecs": inner,
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
            "index_location": "end",
        }
        metadata = {
            "shape": [*self._lead, *self.layout.size(level)],
            "data_type": "uint8",
            "dimension_names": ["c", "y", "x"][1 - len(self._lead) :],
            "fill_value": 0,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [*self._lead, edge, edge]}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "codecs": [{"name": "sharding_indexed", "configuration": sharding}],
        }
        return {**_spec(self.root, level), "metadata": metadata}

    def _dataset(self, level: int) -> dict[str, Any]:
        """Where a level lies: its pixels are exactly 2^level wide, even where the last one is only partly covered.

        Coordinates name pixel centres, so the first pixel of a level lies (2^level - 1) / 2 from that of level 0.
        """
        scale, offset = float(2**level), (2**level - 1) / 2
        lead = len(self._lead)
        transforms: list[dict[str, Any]] = [{"type": "scale", "scale": [1.0] * lead + [scale, scale]}]
        if level:
            transforms.append({"type": "translation", "translation": [0.0] * lead + [offset, offset]})
        return {"path": str(level), "coordinateTransformations": transforms}


def write_group(folder: Path, attributes: Mapping[str, Any]) -> None:
    """The zarr.json of a group."""
    folder.mkdir(parents=True, exist_ok=True)
    group = {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes)}
    replace_file(folder / METADATA, json.dumps(group, indent=2).encode())


def open_array(
    root: Path, level: int, *, writable: bool = False, context: ts.Context | None = None
) -> ts.TensorStore:
    """A level's array; context: with what else it shares a cache. Raises ValueError where there is none."""
    return ts.open(_spec(root, level), open=True, read=True, write=writable, context=context).result()


def read_box(store: ts.TensorStore, box: Box) -> NDArray[np.uint8]:
    """The values of a box of an opened level, all channels."""
    return np.asarray(store[..., box.y0 : box.y1, box.x0 : box.x1].read().result())


def _spec(root: Path, level: int) -> dict[str, Any]:
    """Zeros are stored like any value, so that a missing shard always means an unwritten one."""
    return {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{(root / str(level)).absolute()}/"},
        "store_data_equal_to_fill_value": True,
    }
