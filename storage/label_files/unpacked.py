"""Large PNGs, unpacked once into a tiled TIFF that can be read at any place. Knows strips and where the copy lies.

FOLDER/KEY.tif         KEY is a hash of the PNG's content; it appears whole, so several processes may make it
FOLDER/KEY-none.tif    of one some of whose labels are transparent, which are NONE in the copy
"""

from __future__ import annotations

import getpass
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from storage.fingerprint import content_hash
from storage.label_files.chunks import ChunkedLabels
from storage.label_files.contract import LabelArray
from storage.label_files.png import Header, strips
from storage.label_files.tiff import tiff_chunks

TILE = 512


def unpacked(
    path: Path, header: Header, work: Path | None, colours: bool, nodata: int | None
) -> ChunkedLabels:
    """The copy in `work`, or in a folder for temporary files; made if there is none. Raises LabelFileError."""
    folder = work or Path(tempfile.gettempdir()) / f"hypermosaic-labels-{getpass.getuser()}"
    copy = folder / f"{content_hash(path)[:32]}{'-none' if header.transparent else ''}.tif"
    if not copy.is_file():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = copy.with_name(f".{copy.name}.{uuid4().hex}")
        try:
            _write(path, header, unfinished)
            unfinished.replace(copy)
        finally:
            unfinished.unlink(missing_ok=True)
    return ChunkedLabels(replace(tiff_chunks(copy), path=path, colours=colours, nodata=nodata))


def _write(path: Path, header: Header, copy: Path) -> None:
    import tifffile

    tiles = _tiles(_of_rows(strips(path, header), TILE), header.width)
    first = next(tiles)
    tifffile.imwrite(
        copy, _chained(first, tiles), shape=(header.height, header.width), dtype=first.dtype, tile=(TILE, TILE),
        compression="adobe_deflate", compressionargs={"level": 1}, bigtiff=True, metadata=None,
        photometric="minisblack", maxworkers=1,
    )  # fmt: skip


def _chained(first: LabelArray, others: Iterator[LabelArray]) -> Iterator[LabelArray]:
    yield first
    yield from others


def _of_rows(parts: Iterator[LabelArray], rows: int) -> Iterator[LabelArray]:
    """Rows in strips of so many, the last one filled up with zeros."""
    waiting: list[NDArray[np.integer]] = []
    for part in parts:
        waiting.append(part)
        joined = np.concatenate(waiting)
        while len(joined) >= rows:
            yield joined[:rows]
            joined = joined[rows:]
        waiting = [joined]
    if len(waiting[0]):
        yield np.pad(waiting[0], ((0, rows - len(waiting[0])), (0, 0)))


def _tiles(parts: Iterator[LabelArray], width: int) -> Iterator[LabelArray]:
    for part in parts:
        for x in range(0, width, TILE):
            tile = part[:, x : x + TILE]
            yield np.ascontiguousarray(np.pad(tile, ((0, 0), (0, TILE - tile.shape[1]))))
