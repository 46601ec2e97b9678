"""JPEG tiles cut out of a folder's OME-Zarr image when asked for. Knows levels, shards and a cache; knows no job."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from storage.formats.deep_zoom import deep_zoom_level, encode, tile_box
from storage.formats.ome_zarr import image_root, open_image, open_level, read_pixels
from storage.geometry import Box
from storage.pyramid import PyramidLayout, linear_to_srgb_u8, reduce_half_srgb
from storage.viewer.files import is_within
from storage.viewer.gate import Answer, Gate

CACHE_BYTES = 64 * 2**20


class Cache:
    """Encoded pictures, the least recently used dropped first once they are more than `limit` bytes together."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.bytes = 0
        self._held: OrderedDict[Hashable, bytes] = OrderedDict()
        self._lock = Lock()

    def get(self, key: Hashable) -> bytes | None:
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def put(self, key: Hashable, value: bytes) -> None:
        """Keep a value; one that is larger than the whole cache is not kept."""
        with self._lock:
            self.bytes += len(value) - len(self._held.pop(key, b""))
            self._held[key] = value
            while self.bytes > self.limit:
                self.bytes -= len(self._held.popitem(last=False)[1])


@dataclass(frozen=True)
class Master:
    """An opened OME-Zarr image: its layout, and its levels as they are first read."""

    folder: Path
    layout: PyramidLayout
    _levels: dict[int, Any] = field(default_factory=dict)

    def shard(self, level: int, row: int, column: int) -> Path:
        """The file that holds a pixel of a level, whatever else it holds."""
        edge = self.layout.write_edge(level)
        return image_root(self.folder) / str(level) / "c" / "0" / str(row // edge) / str(column // edge)

    def shards(self, level: int, box: Box) -> list[Path]:
        """All files under a box of a stored level."""
        edge = self.layout.write_edge(level)
        cells = box.covering(edge)
        return [
            self.shard(level, row * edge, column * edge)
            for row in range(cells.y0, cells.y1)
            for column in range(cells.x0, cells.x1)
        ]

    def read(self, level: int, box: Box) -> NDArray[np.uint8]:
        """(h, w, 3) pixels of any Deep Zoom level; those below the last OME-Zarr level are reduced from it, whole."""
        last = self.layout.levels - 1
        if level <= last:
            return read_pixels(self._level(level), box)
        pixels = read_pixels(self._level(last), self.layout.whole(last).box)
        for _ in range(level - last):
            pixels = linear_to_srgb_u8(reduce_half_srgb(pixels))
        return pixels[box.slices_in(self.layout.whole(level).box)]

    def _level(self, level: int) -> Any:
        if level not in self._levels:
            self._levels[level] = open_level(self.folder, level)
        return self._levels[level]


class Masters:
    """The OME-Zarr image of one folder, opened once, and again when it was written anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._opened: tuple[tuple[int, int], Master] | None = None

    def master(self) -> Master | None:
        """None where the folder holds no image. Raises ValueError or OSError where it cannot be read."""
        index = image_root(self.folder) / "zarr.json"
        identity = stamp(index)
        if identity is None or not is_within(index, self.folder):
            return None
        opened = self._opened
        if opened is None or opened[0] != identity:
            opened = identity, Master(self.folder, open_image(self.folder).layout)
            self._opened = opened
        return opened[1]


def stamp(path: Path) -> tuple[int, int] | None:
    """When a file was written (ns) and its size; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size


def is_current(request: Request, etag: str) -> bool:
    """Whether the asker holds this version already."""
    asked = request.headers.get("if-none-match", "")
    return asked.strip() == "*" or etag in [tag.strip().removeprefix("W/") for tag in asked.split(",")]


@dataclass(frozen=True)
class _Tile:
    """Where a tile is read from, and what identifies its content."""

    master: Master
    level: int
    box: Box
    key: Hashable
    etag: str


@dataclass(frozen=True)
class TilesOfImage:
    """Answers for tiles of one folder. What waits for the gate is decoding alone, not what the cache has."""

    masters: Masters
    cache: Cache
    gate: Gate

    async def answer(self, request: Request) -> Response:
        """A tile; 404 outside the picture and where nothing is written yet."""
        numbers = request.path_params
        tile = await anyio.to_thread.run_sync(self._find, numbers["level"], numbers["row"], numbers["column"])
        if tile is None:
            raise HTTPException(404)
        headers = {"ETag": tile.etag}
        if is_current(request, tile.etag):
            return Response(status_code=304, headers=headers)
        content = self.cache.get(tile.key)
        if content is None:
            content = await self.gate.run(
                reading(lambda: encode(tile.master.read(tile.level, tile.box), "jpg"))
            )
            self.cache.put(tile.key, content)
        return Response(content, media_type="image/jpeg", headers=headers)

    def _find(self, number: int, row: int, column: int) -> _Tile | None:
        master = reading(self.masters.master)()
        if master is None:
            return None
        layout = master.layout
        level = deep_zoom_level(layout, number)
        try:
            box = tile_box(layout, level, row, column)
        except IndexError:
            return None
        stored = min(level, layout.levels - 1)
        shard = master.shard(stored, *((box.y0, box.x0) if stored == level else (0, 0)))
        written = stamp(shard)
        if written is None or not is_within(shard, master.folder):
            return None
        etag = f'"{written[0]:x}-{written[1]:x}"'
        return _Tile(master, level, box, (str(master.folder), number, row, column, etag), etag)


def reading(work: Callable[[], Answer]) -> Callable[[], Answer]:
    """The same work; what cannot be read is told in one line."""

    def told() -> Answer:
        try:
            return work()
        except (OSError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise HTTPException(500, f"the image cannot be read: {reason}") from error

    return told
