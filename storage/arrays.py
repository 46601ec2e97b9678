"""Chunked Zarr v3 arrays of a job, through TensorStore. Knows names, shapes, chunks and boxes; knows no stage.

Chunks are written whole and atomically, each by one writer; values are stored raw (latents do not compress) with a
crc32c, so a torn or rotten chunk is an error and never a picture; and so is a chunk that is not there, for arrays are
filled with a value that nobody writes. A chunk may be a shard of smaller parts, which are
read one by one: neighbours look at the border of a chunk, and need not read all of it. A root is a local folder or a
URL that TensorStore opens (`file://`, `s3://`, `gs://`, `memory://`).
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray

from storage.damage import DamagedData, is_damage
from storage.geometry import Box, Canvas

CACHE_BYTES = 16 * 2**20

FILL: Mapping[str, tuple[int | str, np.dtype[Any], int]] = {
    "float32": ("0x7fc04d53", np.dtype(np.uint32), 0x7FC04D53),
    "int32": (-(2**31), np.dtype(np.int32), -(2**31)),
}
"""Of each type: the value of what was never written, as Zarr's metadata has it, and its bits as those of a whole
number. A NaN that arithmetic does not make, and the one number that sums never reach."""


METADATA = "zarr.json"
DAMAGE = ("DATA_LOSS", "NOT_FOUND", "FAILED_PRECONDITION", "INVALID_ARGUMENT")
"""How TensorStore's errors begin that are about what is stored, not about reaching it."""


@lru_cache(maxsize=1)
def context() -> ts.Context:
    """TensorStore's context of all arrays that a process opens: one cache of bounded size."""
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

    @property
    def nbytes(self) -> int:
        """Bytes of all values; what is on disk is as much, for nothing is compressed."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

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
        """Create the array, or leave one of the same metadata as it is; in NAME.zarr/ARRAY the group, too.

        Metadata that is damaged, or cannot be read, is written anew; the chunks stay. Raises OSError.
        """
        metadata = {
            "shape": list(spec.shape),
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(spec.chunk)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "data_type": spec.dtype,
            "codecs": spec.codecs(),
            "fill_value": FILL[spec.dtype][0],
            "dimension_names": list(spec.dimension_names),
            "attributes": dict(attributes or {}),
        }
        document = self._document(spec.name) | {"metadata": metadata}
        try:
            _finished(spec.name, ts.open(document, create=True, open=True, context=context()))
        except OSError as error:
            if not is_damage(error):
                raise
            _finished(spec.name, self._keys(spec.name).write(METADATA, None))  # removes it
            _finished(spec.name, ts.open(document, create=True, open=True, context=context()))
        group = spec.name.rpartition("/")[0]
        if group.endswith(".zarr"):
            told = json.dumps({"zarr_format": 3, "node_type": "group"})
            _finished(group, self._keys(group).write(METADATA, told.encode()))

    def begin_write(
        self, name: str, index: tuple[slice | int, ...], values: NDArray[Any]
    ) -> Callable[[], None]:
        """Write whole chunks in the background; calling what comes back waits until they are durable.

        The values must not change before that. Raises OSError, there, where they cannot be written.
        """
        array, values = self._array(name), np.ascontiguousarray(values)
        pending = array[index].write(values)

        def finish() -> None:
            try:
                _finished(name, pending)
            except (
                OSError
            ) as error:  # TensorStore reads what is there of a chunk that reaches out of the array
                if not is_damage(error):
                    raise
                self._remove_chunks(name, array, index)
                _finished(name, array[index].write(values))

        return finish

    def read(self, name: str, index: tuple[slice | int, ...]) -> NDArray[Any]:
        """Raises DamagedData where a chunk is missing, torn or rotten, OSError where it cannot be read."""
        return self.begin_read(name, index)()

    def begin_read(self, name: str, index: tuple[slice | int, ...]) -> Callable[[], NDArray[Any]]:
        """Read in the background; calling what comes back waits for the values, and raises as `read` does."""
        pending = self._array(name)[index].read()
        return lambda: _written(name, np.asarray(_finished(name, pending)))

    def bytes_of(self, spec: ArraySpec, chunk: tuple[int, ...]) -> int | None:
        """Bytes of one chunk as it lies there, by its place in the grid of chunks; None where it is missing.

        A look at the file's length where there is a file. Raises OSError.
        """
        key = ".".join(("c", *map(str, chunk)))
        if "://" not in self.root:
            try:
                return (Path(self.root) / spec.name / key).stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        found = _finished(spec.name, self._keys(spec.name).read(key))
        return None if found.state == "missing" else len(found.value)

    def read_chunk(self, spec: ArraySpec, chunk: tuple[int, ...]) -> NDArray[Any]:
        """The values of one chunk, as far as they lie in the array, from the disk and from nowhere nearer."""
        index = tuple(
            slice(place * side, min((place + 1) * side, whole))
            for place, side, whole in zip(chunk, spec.chunk, spec.shape, strict=True)
        )
        array = _finished(spec.name, ts.open(self._document(spec.name), open=True, context=ts.Context()))
        return _written(spec.name, np.asarray(_finished(spec.name, array[index].read())))

    def read_box(self, name: str, channels: slice, box: Box, canvas: Canvas) -> NDArray[Any]:
        """(C, h, w) values of a box that may wrap."""
        return self.begin_read_box(name, channels, box, canvas)()

    def begin_read_box(
        self, name: str, channels: slice, box: Box, canvas: Canvas
    ) -> Callable[[], NDArray[Any]]:
        """Begin to read a box, in the background; calling what comes back waits for it."""
        pieces = [
            (piece, self.begin_read(name, box_index(channels, home)))
            for piece, home in canvas.split_at_edges(box)
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
            _finished(name, self._keys(name).delete_range(ts.KvStore.KeyRange()))

    def set_aside(self, name: str) -> Callable[[], None]:
        """Take the array's name away at once; calling what comes back, in any thread, removes its chunks."""
        self._open.pop(name, None)
        path = Path(self.root) / name
        if "://" in self.root or not path.exists():
            return partial(self.delete, name)
        aside = path.with_name(f".{path.name}.{uuid4().hex}")
        path.rename(aside)
        return partial(shutil.rmtree, aside, ignore_errors=True)

    def _remove_chunks(self, name: str, array: ts.TensorStore, index: tuple[slice | int, ...]) -> None:
        """The chunks under an index, of which all values are about to be written."""
        sides: Any = array.chunk_layout.write_chunk.shape
        keys = self._keys(name)
        ranges = [
            range(place, place + 1)
            if isinstance(place, int)
            else range((place.start or 0) // side, -(-(whole if place.stop is None else place.stop) // side))
            for place, side, whole in zip(index, sides, array.shape, strict=True)
        ]
        for chunk in product(*ranges):
            _finished(name, keys.write(".".join(("c", *map(str, chunk))), None))

    def _array(self, name: str) -> ts.TensorStore:
        array = self._open.get(name)
        if array is None:
            if len(self._open) > 16:  # arrays of steps long past
                self._open.clear()
            array = _finished(name, ts.open(self._document(name), open=True, context=context()))
            self._open[name] = array
        return array

    def _keys(self, name: str) -> Any:
        """The key-value store under an array or group."""
        return _finished(name, ts.KvStore.open(self._document(name)["kvstore"], context=context()))

    def _document(self, name: str) -> dict[str, Any]:
        if "://" in self.root:
            return {"driver": "zarr3", "kvstore": f"{self.root.rstrip('/')}/{name}/"}
        path = Path(self.root) / name
        return {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{path}/"}}


def _written(name: str, values: NDArray[Any]) -> NDArray[Any]:
    """Values that were written. Raises DamagedData where one of them is the filling of what was never written."""
    if values.dtype.name in FILL:
        _, bits, fill = FILL[values.dtype.name]
        if (values.view(bits) == fill).any():
            raise DamagedData(f"{name}: a chunk is missing")
    return values


def _finished(name: str, pending: Any) -> Any:
    """The result of a TensorStore operation; its errors as OSError."""
    try:
        return pending.result()
    except ValueError as error:
        raise as_os_error(error, name) from error


def as_os_error(error: ValueError, name: str) -> OSError:
    """TensorStore tells of full disks, missing files and bad checksums in one kind of error; this tells them apart."""
    text = str(error)
    code = re.search(r"os_error_code='(\d+)'", text)
    if code:
        return OSError(int(code[1]), os.strerror(int(code[1])), name)
    said = text.splitlines()[0].partition(" [tensorstore_spec=")[0]
    return (DamagedData if text.startswith(DAMAGE) else OSError)(f"{name}: {said}")


def box_index(channels: slice, box: Box) -> tuple[slice, ...]:
    """(channels, rows, columns) of a box on the canvas."""
    return channels, slice(box.y0, box.y1), slice(box.x0, box.x1)
