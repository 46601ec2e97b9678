"""Chunked Zarr v3 arrays of a job, through TensorStore. Knows names, shapes, chunks and boxes; knows no stage.

Chunks are written whole and atomically, each by one writer; values are stored raw (latents do not compress) with a
crc32c, so a torn or rotten chunk is an error and never a picture. A chunk may be a shard of smaller parts, which are
read one by one: neighbours look at the border of a chunk, and need not read all of it. A root is a local folder or a
URL that TensorStore opens (`file://`, `s3://`, `gs://`, `memory://`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from storage.geometry import Box, Canvas

CACHE_BYTES = 16 * 2**20


@lru_cache(maxsize=1)
def context() -> ts.Context:
    """Of all arrays that a process opens: one cache of bounded size."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CACHE_BYTES}})


@dataclass(frozen=True)
class ArraySpec:
    """One array: (channels, height, width) or, for blocks' sums, (block, channels, height, width).

    chunk: what one writer writes, a file. part: what is read at least, which divides the chunk; or the whole of it.
    """

    name: str
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    dimension_names: tuple[str, ...]
    part: tuple[int, ...] | None = None

    def codecs(self) -> list[dict[str, Any]]:
        """Zarr v3's: raw values and their checksum, in shards where a chunk has parts."""
        raw: list[dict[str, Any]] = [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "crc32c"},
        ]
        if self.part is None:
            return raw
        shard = {"chunk_shape": list(self.part), "codecs": raw, "index_codecs": raw, "index_location": "end"}
        return [{"name": "sharding_indexed", "configuration": shard}]


class ArrayStore:
    """The arrays under one root."""

    def __init__(self, root: str | Path) -> None:
        self.root = str(root)
        self._open: dict[str, ts.TensorStore] = {}

    def create(self, spec: ArraySpec, attributes: Mapping[str, Any] | None = None) -> None:
        """Create the array, or leave one of the same metadata as it is; in NAME.zarr/ARRAY the group, too."""
        metadata = {
            "shape": list(spec.shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "data_type": spec.dtype,
            "codecs": spec.codecs(),
            "fill_value": 0,
            "dimension_names": list(spec.dimension_names),
            "attributes": dict(attributes or {}),
        }
        document = self._document(spec.name) | {"metadata": metadata}
        _finished(spec.name, ts.open(document, create=True, open=True, context=context()))
        group = spec.name.rpartition("/")[0]
        if group.endswith(".zarr"):
            store = _finished(group, ts.KvStore.open(self._document(group)["kvstore"], context=context()))
            _finished(group, store.write("zarr.json", json.dumps({"zarr_format": 3, "node_type": "group"})))

    def begin_write(
        self, name: str, index: tuple[slice | int, ...], values: NDArray[Any]
    ) -> Callable[[], None]:
        """Write whole chunks in the background; calling what comes back waits until they are durable.

        The values must not change before that. Raises OSError, there, where they cannot be written.
        """
        pending = self._array(name)[index].write(np.ascontiguousarray(values))
        return lambda: _finished(name, pending)

    def read(self, name: str, index: tuple[slice | int, ...]) -> NDArray[Any]:
        """Raises OSError where a chunk is corrupt or cannot be read."""
        return self.begin_read(name, index)()

    def begin_read(self, name: str, index: tuple[slice | int, ...]) -> Callable[[], NDArray[Any]]:
        """Read in the background; calling what comes back waits for the values, and raises as `read` does."""
        pending = self._array(name)[index].read()
        return lambda: np.asarray(_finished(name, pending))

    def read_box(self, name: str, channels: slice, box: Box, canvas: Canvas) -> NDArray[Any]:
        """(C, h, w) values of a box that may wrap."""
        return self.begin_read_box(name, channels, box, canvas)()

    def begin_read_box(
        self, name: str, channels: slice, box: Box, canvas: Canvas
    ) -> Callable[[], NDArray[Any]]:
        """The same in the background."""
        pieces = [
            (piece, self.begin_read(name, box_index(channels, home))) for piece, home in canvas.pieces(box)
        ]
        if [piece for piece, _ in pieces] == [box]:
            return pieces[0][1]
        dtype = self._array(name).dtype.numpy_dtype

        def values() -> NDArray[Any]:
            out = np.empty((channels.stop - channels.start, *box.shape), dtype)
            for piece, read in pieces:
                out[(slice(None), *piece.slices_in(box))] = read()
            return out

        return values

    def delete(self, name: str) -> None:
        """Remove the array and its chunks; nothing happens where there is none."""
        self._open.pop(name, None)
        if "://" not in self.root:
            shutil.rmtree(Path(self.root) / name, ignore_errors=True)
        else:
            ts.KvStore.open(f"{self.root.rstrip('/')}/{name}/").result().delete_range(
                ts.KvStore.KeyRange()
            ).result()

    def _array(self, name: str) -> ts.TensorStore:
        array = self._open.get(name)
        if array is None:
            if len(self._open) > 16:  # arrays of steps long past
                self._open.clear()
            array = _finished(name, ts.open(self._document(name), open=True, context=context()))
            self._open[name] = array
        return array

    def _document(self, name: str) -> dict[str, Any]:
        if "://" in self.root:
            return {"driver": "zarr3", "kvstore": f"{self.root.rstrip('/')}/{name}/"}
        path = Path(self.root) / name
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}


def _finished(name: str, pending: Any) -> Any:
    """The result of a TensorStore operation; its errors as OSError."""
    try:
        return pending.result()
    except ValueError as error:
        raise as_os_error(error, name) from error


def as_os_error(error: ValueError, name: str) -> OSError:
    """TensorStore tells of full disks, missing files and bad checksums in one kind of error; this tells them apart."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])), name)
    said = str(error).splitlines()[0].partition(" [tensorstore_spec=")[0]
    return OSError(f"{name}: {said}")


def box_index(channels: slice, box: Box) -> tuple[slice, ...]:
    """(channels, rows, columns) of a box on the canvas."""
    return channels, slice(box.y0, box.y1), slice(box.x0, box.x1)
