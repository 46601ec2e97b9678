"""JPEG tiles cut out of a folder's OME-Zarr image when asked for. Knows levels, shards and a cache; knows no job."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from threading import Lock

import anyio.to_thread
import tensorstore as ts
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from storage.exports.picture import ReadLevel, reader_of_master
from storage.formats.deep_zoom import encode
from storage.formats.ome_zarr import image_root, open_image
from storage.geometry import Box
from storage.pyramid import PyramidLayout
from viewer.files import is_within, tile_place
from viewer.gate import Answer, Gate
from viewer.safety import sendable
from viewer.told import reason_of

LOG = logging.getLogger(__name__)

CACHE_BYTES = 64 * 2**20
CHUNK_BYTES = 32 * 2**20
MOST_SEEN = 4096
"""Places of tiles, for each folder, that tell where people are going."""


@cache
def chunk_cache() -> ts.Context:
    """The cache of all images of a server: shards' indices, and chunks that were read, so that neighbours cost less."""
    return ts.Context({"cache_pool": {"total_bytes_limit": CHUNK_BYTES}})


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
            self.bytes -= len(self._held.pop(key, b""))
            if len(value) > self.limit:  # nothing else would stay
                return
            self.bytes += len(value)
            self._held[key] = value
            while self.bytes > self.limit:
                self.bytes -= len(self._held.popitem(last=False)[1])


@dataclass(frozen=True)
class Master:
    """An opened OME-Zarr image. read(level, box): (h, w, 3) pixels of any Deep Zoom level."""

    folder: Path
    layout: PyramidLayout
    read: ReadLevel = field(repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Master:
        """Raises ValueError or OSError where the image cannot be read."""
        layout = open_image(folder).layout
        return cls(folder, layout, reader_of_master(folder, layout, chunk_cache()))

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
            opened = identity, Master.open(self.folder)
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
    """Answers for tiles of one folder. What waits for the gate is decoding alone, not what the cache has.

    Whoever has seen a tile and now asks for the next one is moving that way: the one after it is cut ahead, where
    nobody waits meanwhile.
    """

    masters: Masters
    cache: Cache
    gate: Gate
    _seen: OrderedDict[tuple[int, int, int], None] = field(default_factory=OrderedDict)

    async def answer(self, request: Request) -> Response:
        """A tile; 404 outside the picture, 204 where nothing is written yet."""
        numbers = request.path_params
        tile = await anyio.to_thread.run_sync(self._find, numbers["level"], numbers["row"], numbers["column"])
        if tile is None:
            return Response(status_code=204)  # no error: browsers would tell of each tile of a running job
        headers = {"ETag": tile.etag}
        if is_current(request, tile.etag):
            return Response(status_code=304, headers=headers)
        content = self.cache.get(tile.key) or await self._cut(tile)
        ahead = BackgroundTask(self._cut_ahead, numbers["level"], numbers["row"], numbers["column"])
        return Response(content, media_type="image/jpeg", headers=headers, background=ahead)

    async def _cut(self, tile: _Tile) -> bytes:
        content = await self.gate.run(reading(lambda: encode(tile.master.read(tile.level, tile.box), "jpg")))
        self.cache.put(tile.key, content)
        return content

    async def _cut_ahead(self, number: int, row: int, column: int) -> None:
        """Nobody asked for these, so nobody is told where they cannot be read."""
        for place in self._on_the_way(number, row, column):
            if self.gate.has_room:
                with suppress(HTTPException):  # beyond an edge, or not to be read
                    tile = await anyio.to_thread.run_sync(self._find, *place)
                    if tile is not None and self.cache.get(tile.key) is None:
                        await self._cut(tile)
                self._note(place)

    def _on_the_way(self, number: int, row: int, column: int) -> list[tuple[int, int, int]]:
        """Neighbours of a tile that nobody has seen, opposite to one that somebody has; from now on it is seen."""
        self._note((number, row, column))
        steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
        pairs = [((number, row - y, column - x), (number, row + y, column + x)) for y, x in steps]
        return [ahead for behind, ahead in pairs if behind in self._seen and ahead not in self._seen]

    def _note(self, place: tuple[int, int, int]) -> None:
        self._seen[place] = None
        while len(self._seen) > MOST_SEEN:
            self._seen.popitem(last=False)

    def _find(self, number: int, row: int, column: int) -> _Tile | None:
        """None where it is not written yet. Raises HTTPException 404 outside the picture."""
        master = reading(self.masters.master)()
        if master is None:
            raise HTTPException(404)
        layout = master.layout
        level, box = tile_place(layout, number, row, column)
        stored = min(level, layout.levels - 1)
        shard = master.shard(stored, *((box.y0, box.x0) if stored == level else (0, 0)))
        written = stamp(shard)
        if written is None or not is_within(shard, master.folder):
            return None
        etag = f'"{written[0]:x}-{written[1]:x}"'
        return _Tile(master, level, box, (str(master.folder), number, row, column, etag), etag)


def reading(work: Callable[[], Answer], what: str = "the image") -> Callable[[], Answer]:
    """Work that reads; what cannot be read is told in one line, and logged where nobody foresaw it."""

    def told() -> Answer:
        try:
            return work()
        except HTTPException:
            raise
        except Exception as error:  # folders come from anywhere, and so does what is wrong with them
            if not isinstance(error, OSError | ValueError | KeyError):
                LOG.warning("%s cannot be read", what, exc_info=True)
            raise HTTPException(500, f"{what} cannot be read: {sendable(reason_of(error))}") from error

    return told
