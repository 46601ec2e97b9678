"""How long a tile takes from warm storage, for several clients at once, beside a plain file server in the same run.

    python benchmarks/tiles.py                       # 8 clients, a picture of 6144 x 6144
    python benchmarks/tiles.py --clients 1 --side 4096

    raw read        the file of a Deep Zoom tile, read and nothing else: what no server can be faster than
    plain server    the same files from Starlette's StaticFiles, the same uvicorn
    file            the same files from `hypermosaic view`
    cut, again      tiles cut out of the OME-Zarr image, asked for before
    cut, first      the same, asked for the first time: decoded and encoded
    cut, panned     the same by people who move: three tiles of the next column, and a pause of 0.1 s

Each client asks for the next tile when it has the last; a client is one keep-alive connection of one process that does
nothing else. Each server is a process of its own, and rounds alternate. The targets of the design are p50 <= 10 ms and
p99 <= 50 ms on two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from storage.containers import cores
from storage.formats.deep_zoom import DeepZoom, deep_zoom_level
from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.page import Page, write_page

OURS = """
import sys; from pathlib import Path; from viewer.server import serve
serve(Path(sys.argv[1]), 0, lambda address: print(address, flush=True))
"""
PLAIN = """
import socket, sys, uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from viewer.server import settings_of
with socket.create_server(("127.0.0.1", 0)) as listening:
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
    app = Starlette(routes=[Mount("/", StaticFiles(directory=sys.argv[1]))])
    uvicorn.Server(settings_of(app)).run(sockets=[listening])
"""


VIEW_ROWS, PAUSE = 3, 0.1
"""Tiles that a screen shows on top of each other, and seconds between two moves of who pans."""


@dataclass
class Measured:
    """Milliseconds of each answer, and the seconds and bytes of all."""

    milliseconds: list[float] = field(default_factory=list)
    seconds: float = 0.0
    bytes: int = 0

    def add(self, other: Measured) -> None:
        self.milliseconds += other.milliseconds
        self.seconds += other.seconds
        self.bytes += other.bytes

    def line(self) -> str:
        hundredths = statistics.quantiles(self.milliseconds, n=100)
        rate, kilobytes = len(self.milliseconds) / self.seconds, self.bytes / len(self.milliseconds) / 1000
        return (
            f"p50 {hundredths[49]:6.2f} ms   p99 {hundredths[98]:6.2f} ms   {rate:7.0f} tiles/s   "
            f"{kilobytes:4.0f} kB each   {len(self.milliseconds)} tiles"
        )


def draw(folder: Path, side: int) -> PyramidLayout:
    """A picture whose tiles are as large as those of the embedded model's: waves of all lengths."""
    layout = PyramidLayout(side, side)
    formats = [OmeZarr(folder, layout), DeepZoom(folder, layout)]
    for output in formats:
        output.create()
    chance = np.random.default_rng(0)
    for group in range(layout.groups):
        for task in layout.tasks(group):
            place = layout.reads(task)
            pixels = (
                formats[0].read_level(place.level, place.box) if group else waves(place.box.shape, chance)
            )
            write_superblock(formats, layout, task, pixels)
    write_page(folder, Page("waves", layout))
    return layout


def waves(shape: tuple[int, int], chance: np.random.Generator) -> NDArray[np.uint8]:
    total = np.full((*shape, 3), 128.0, np.float32)
    for length, height in ((1, 2.5), (4, 5), (16, 9), (64, 13), (256, 17)):
        rows, columns = -(-shape[0] // length), -(-shape[1] // length)
        coarse = chance.normal(0, height, (rows, columns, 3)).astype(np.float32)
        total += coarse.repeat(length, 0).repeat(length, 1)[: shape[0], : shape[1]]
    return np.clip(total, 0, 255).astype(np.uint8)


@contextmanager
def server(script: str, folder: Path) -> Iterator[int]:
    """The port of a server in a process of its own."""
    command = [sys.executable, "-c", script, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline().rsplit(":", 1)[1].strip("/\n"))
        finally:
            process.terminate()


async def client(port: int, targets: Iterator[str], into: Measured) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    await answers(port, reader, writer, targets, into)
    writer.close()


async def answers(
    port: int,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    targets: Iterator[str],
    into: Measured,
) -> None:
    for target in targets:
        began = time.perf_counter()
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), (target, head)
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        into.milliseconds.append(1000 * (time.perf_counter() - began))
        into.bytes += length


def ask(port: int, targets: list[str], clients: int) -> Measured:
    """All targets, each once, by clients that take the next from one list."""

    async def crowd() -> Measured:
        into, left, began = Measured(), iter(targets), time.perf_counter()
        await asyncio.gather(*(client(port, left, into) for _ in range(clients)))
        into.seconds = time.perf_counter() - began
        return into

    return asyncio.run(crowd())


async def walker(port: int, rows: range, columns: range, level: int, into: Measured) -> None:
    """Moves to the right or left over rows of tiles, each tile for the first time; its pauses are nobody's time."""
    reader_writer = await asyncio.open_connection("127.0.0.1", port)
    for column in columns:
        targets = iter([f"/tiles/{level}/{column}_{row}.jpg" for row in rows])
        await answers(port, *reader_writer, targets, into)
        await asyncio.sleep(PAUSE)
    reader_writer[1].close()


def panned(port: int, layout: PyramidLayout, clients: int) -> Measured:
    """By so many people at once, on the largest level: half of the columns each, three rows."""
    whole = layout.whole(0).box.covering(layout.tile)
    level, into = deep_zoom_level(layout, 0), Measured()
    halves = range(whole.x1 // 2 - 1, -1, -1), range(whole.x1 // 2, whole.x1)
    bands = [range(top, min(top + VIEW_ROWS, whole.y1)) for top in range(0, whole.y1, VIEW_ROWS)]
    places = [(band, half) for band in bands for half in halves][:clients]

    async def crowd() -> None:
        await asyncio.gather(*(walker(port, band, half, level, into) for band, half in places))

    began = time.perf_counter()
    asyncio.run(crowd())
    into.seconds = time.perf_counter() - began
    return into


def read(folder: Path, targets: list[str]) -> Measured:
    into, began = Measured(), time.perf_counter()
    for target in targets:
        start = time.perf_counter()
        into.bytes += len((folder / target.lstrip("/")).read_bytes())
        into.milliseconds.append(1000 * (time.perf_counter() - start))
    into.seconds = time.perf_counter() - began
    return into


def tiles_of(layout: PyramidLayout) -> list[str]:
    """LEVEL/COLUMN_ROW of every tile of the larger levels."""
    found = []
    for level in range(layout.levels):
        cells = layout.whole(level).box.covering(layout.tile)
        found += [
            f"{deep_zoom_level(layout, level)}/{column}_{row}"
            for row in range(cells.y1)
            for column in range(cells.x1)
        ]
    return found


def rounds(folder: Path, layout: PyramidLayout, chosen: argparse.Namespace) -> dict[str, Measured]:
    names = tiles_of(layout)
    found = {
        name: Measured()
        for name in ("raw read", "plain server", "file", "cut, again", "cut, first", "cut, panned")
    }
    chance = random.Random(0)
    for _ in range(chosen.rounds):
        chance.shuffle(names)
        files = [f"/image_files/{name}.jpg" for name in names] * chosen.repeat
        cuts = [f"/tiles/{name}.jpg" for name in names]
        found["raw read"].add(read(folder, files))
        with server(PLAIN, folder) as port:
            ask(port, files[: len(names)], chosen.clients)
            found["plain server"].add(ask(port, files, chosen.clients))
        with server(OURS, folder) as port:
            ask(port, files[: len(names)], chosen.clients)
            found["file"].add(ask(port, files, chosen.clients))
            found["cut, first"].add(ask(port, cuts, chosen.clients))
            found["cut, again"].add(ask(port, cuts * chosen.repeat, chosen.clients))
        with server(OURS, folder) as port:
            found["cut, panned"].add(panned(port, layout, chosen.clients))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", type=int, default=6144)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeat", type=int, default=4, help="how often each tile is asked for in a round")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        layout = draw(Path(scratch), chosen.side)
        load = os.getloadavg()[0]
        found = rounds(Path(scratch), layout, chosen)
    print(
        f"{chosen.side} x {chosen.side} pixels, tiles of {layout.tile}, {chosen.clients} clients, "
        f"{cores()} cores, load {load:.1f} before"
    )
    for name, measured in found.items():
        print(f"{name:>13}   {measured.line()}")


if __name__ == "__main__":
    main()
