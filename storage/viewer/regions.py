"""Rectangles of a picture at full size or smaller, as one PNG or JPEG. Knows pixels and limits; knows no job.

    region.png?x=100&y=200&w=2048&h=1024&scale=0.5

Memory is that of the answer's pixels and a strip of the source: rows are read and scaled strip by strip, and what
was encoded waits in a file on disk for clients that read slowly.
"""

from __future__ import annotations

import math
import re
import shlex
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeAlias, cast

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from storage.exports.picture import Picture
from storage.geometry import Box
from storage.pyramid import PyramidLayout
from storage.viewer.files import is_within
from storage.viewer.gate import Gate
from storage.viewer.pages import description_of
from storage.viewer.tiles import Master, Masters, reading, stamp

LARGEST = 2**24
"""Pixels of one answer; in memory they take four bytes each."""
SMALLEST_SCALE = 1 / 4096
LONGEST = 65_500
"""Of a side; JPEG knows no longer ones."""
STRIP_PIXELS, LEAST_ROWS = 2**21, 64
MARGIN = 8  # rows of source beyond a strip that the filter may look at: 3 lobes, and less than halving
PIECE = 2**18
KINDS: Mapping[str, tuple[str, str, Mapping[str, int]]] = {
    "png": ("PNG", "image/png", {"compress_level": 2}),
    "jpg": ("JPEG", "image/jpeg", {"quality": 92, "subsampling": 0}),
}
ReadLevel: TypeAlias = Callable[[int, Box], NDArray[np.uint8]]


@dataclass(frozen=True)
class Region:
    """A rectangle in pixels of the full picture, and how many pixels of the answer there are for each of them."""

    x: int
    y: int
    width: int
    height: int
    scale: float

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the answer."""
        return max(1, round(self.width * self.scale)), max(1, round(self.height * self.scale))

    @property
    def level(self) -> int:
        """The smallest level of the pyramid that is no coarser than the answer."""
        return math.floor(math.log2(1 / self.scale))


@dataclass(frozen=True)
class Source:
    """A picture that can be cut: `missing` says which file under a box of a level is not written yet, if any is."""

    layout: PyramidLayout
    wraps_x: bool
    read: ReadLevel
    missing: Callable[[int, Box], Path | None]


@dataclass(frozen=True)
class Regions:
    """Answers for regions of one folder."""

    masters: Masters
    gate: Gate

    async def answer(self, request: Request) -> Response:
        """The region as a file; 400 where it is wrong, 413 where it is too large, 409 where it is not drawn yet."""
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise HTTPException(404)
        found = await anyio.to_thread.run_sync(reading(self._source))
        region = checked(asked_for(request.query_params), found.layout, found.wraps_x, self.masters.folder)
        name = f"region-{region.x}-{region.y}-{region.width}x{region.height}.{kind}"
        headers = {"Content-Disposition": f'inline; filename="{name}"'}
        if request.method == "HEAD":
            return Response(media_type=KINDS[kind][1], headers=headers)
        file = await self.gate.run(reading(lambda: _encoded(found, region, kind)))
        headers["Content-Length"] = str(file.seek(0, 2))
        file.seek(0)
        return StreamingResponse(_pieces(file), media_type=KINDS[kind][1], headers=headers)

    def _source(self) -> Source:
        wraps_x = bool(description_of(self.masters.folder).get("wrapsX"))
        master = self.masters.master()
        if master is not None:
            return Source(master.layout, wraps_x, master.read, _missing_of(master))
        if not is_within(self.masters.folder / "image_files", self.masters.folder):
            raise HTTPException(404)
        try:
            picture = Picture.open(self.masters.folder)
        except FileNotFoundError:
            raise HTTPException(404, "this folder holds no picture to cut from yet") from None
        return Source(picture.layout, wraps_x, picture.read, lambda level, box: None)


def _missing_of(master: Master) -> Callable[[int, Box], Path | None]:
    last = master.layout.levels - 1

    def missing(level: int, box: Box) -> Path | None:
        stored = (last, master.layout.whole(last).box) if level > last else (level, box)
        return next((shard for shard in master.shards(*stored) if stamp(shard) is None), None)

    return missing


# --- what is asked ---------------------------------------------------------------------------------------------------


def asked_for(query: Mapping[str, str]) -> Region:
    """The region that a query names. Raises HTTPException 400, in one line."""
    x, y, width, height = (_whole_number(query, name) for name in ("x", "y", "w", "h"))
    return Region(x, y, width, height, _scale(query.get("scale", "1")))


def _whole_number(query: Mapping[str, str], name: str) -> int:
    text = query.get(name)
    if text is None:
        raise HTTPException(400, f"{name} is missing; give x, y, w and h, as in ?x=0&y=0&w=2048&h=1024")
    if not re.fullmatch("-?[0-9]{1,9}", text):
        raise HTTPException(400, f"{name} {_short(text)} is not a whole number of pixels")
    return int(text)


def _scale(text: str) -> float:
    if not re.fullmatch(r"[0-9]{0,4}\.?[0-9]{0,12}", text) or not any(
        character.isdigit() for character in text
    ):
        raise HTTPException(400, f"scale {_short(text)} is not a number; 0.5 halves both sides")
    if not SMALLEST_SCALE <= float(text) <= 1:
        raise HTTPException(400, f"scale {_short(text)} is not between 1/{round(1 / SMALLEST_SCALE)} and 1")
    return float(text)


def _short(text: str) -> str:
    return repr(text if len(text) <= 24 else f"{text[:21]}...")


def checked(region: Region, layout: PyramidLayout, wraps_x: bool, folder: Path) -> Region:
    """The region, its x within the picture. Raises HTTPException 400 or 413, in one line."""
    if region.width < 1 or region.height < 1:
        raise HTTPException(400, f"a region of {region.width} x {region.height} pixels is empty")
    starts = 0 <= region.x < layout.width or wraps_x
    ends = region.width <= layout.width if wraps_x else region.x + region.width <= layout.width
    if not (starts and ends and region.y >= 0 and region.y + region.height <= layout.height):
        raise HTTPException(
            400,
            f"{region.width} x {region.height} pixels at ({region.x}, {region.y}) leave the picture of "
            f"{layout.width} x {layout.height}",
        )
    _check_size(region, folder)
    return Region(region.x % layout.width, region.y, region.width, region.height, region.scale)


def _check_size(region: Region, folder: Path) -> None:
    width, height = region.size
    if width * height > LARGEST or max(width, height) > LONGEST:
        by_area = math.sqrt(LARGEST / (region.width * region.height))
        fitting = min(by_area, LONGEST / max(region.width, region.height))
        raise HTTPException(
            413,
            f"{width} x {height} pixels are too many: one answer holds {LARGEST:,}, at most {LONGEST:,} on a side; "
            f"take less, add scale={math.floor(10_000 * fitting) / 10_000}, or write the picture to a file: "
            f"hypermosaic export {shlex.quote(str(folder))} --format png "
            f"--region {region.x},{region.y},{region.width},{region.height}",
        )


# --- pixels ----------------------------------------------------------------------------------------------------------


def _encoded(source: Source, region: Region, kind: str) -> IO[bytes]:
    """The region in a file that is gone when it is closed."""
    image = cut(source, region)
    encoder, _, settings = KINDS[kind]
    file = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 - whoever sends it closes it
    try:
        image.save(file, encoder, **settings)
    except BaseException:
        file.close()
        raise
    return file


def cut(source: Source, region: Region) -> Image.Image:
    """The region's pixels. Raises HTTPException 409 where some of them are not written yet."""
    level = min(region.level, source.layout.deep_levels - 1)
    height, width = source.layout.size(level)
    left, top = region.x / 2**level, region.y / 2**level
    right, bottom = left + region.width / 2**level, top + region.height / 2**level
    columns = math.floor(left), max(math.floor(left) + 1, math.ceil(right))
    out = Image.new("RGB", region.size)
    step = (bottom - top) / out.height
    margin = MARGIN if step > 1 else 0
    strip_rows = max(LEAST_ROWS, STRIP_PIXELS // out.width)
    for row in range(0, out.height, strip_rows):
        end = min(row + strip_rows, out.height)
        begins, ends = top + row * step, top + end * step
        rows = max(0, math.floor(begins) - margin), min(height, math.ceil(ends) + margin)
        strip = Image.fromarray(_strip(source, level, rows, columns, width))
        place = (
            left - columns[0],
            begins - rows[0],
            min(right - columns[0], strip.width),
            min(ends, height) - rows[0],
        )
        out.paste(_scaled(strip, (out.width, end - row), place), (0, row))
    return out


def _scaled(
    strip: Image.Image, size: tuple[int, int], place: tuple[float, float, float, float]
) -> Image.Image:
    """Whole pixels are copied, all others interpolated."""
    left, top, right, bottom = (int(edge) for edge in place)
    if (right - left, bottom - top) == size and place == (left, top, right, bottom):
        return strip.crop((left, top, right, bottom))
    return strip.resize(size, Image.Resampling.LANCZOS, box=place)


def _strip(
    source: Source, level: int, rows: tuple[int, int], columns: tuple[int, int], width: int
) -> NDArray[np.uint8]:
    """Rows of a level from one column to another, which on a ring may lie beyond the right edge."""
    boxes = [Box(*rows, columns[0], min(columns[1], width))]
    if columns[1] > width and source.wraps_x:
        boxes.append(Box(*rows, 0, columns[1] - width))
    for box in boxes:
        if source.missing(level, box) is not None:
            raise HTTPException(
                409, "this part of the picture is not drawn yet; try again when the job is further"
            )
    return np.ascontiguousarray(np.concatenate([source.read(level, box) for box in boxes], axis=1))


async def _pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    """The file, and then the end of it, whether it was read to the end or not."""
    try:
        while piece := await anyio.to_thread.run_sync(file.read, PIECE):
            yield piece
    finally:
        file.close()
