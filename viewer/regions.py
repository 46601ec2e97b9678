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

from storage.damage import DamagedData
from storage.exports import metadata
from storage.exports.picture import Picture, facts_of
from storage.formats.deep_zoom import INDEX, DeepZoom
from storage.formats.ome_zarr import image_root
from storage.geometry import Box
from storage.pyramid import PyramidLayout
from viewer.files import is_within
from viewer.gate import Gate
from viewer.pages import description_of
from viewer.safety import sendable
from viewer.shelf import Shelf
from viewer.tiles import Master, Masters, reading, stamp

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
class RegionQuery:
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
class PixelSource:
    """A picture that can be cut.

    missing: which file under a box of a level is not written yet, if any is; raises HTTPException 404 for links out.
    """

    layout: PyramidLayout
    wraps_x: bool
    read: ReadLevel
    missing: Callable[[int, Box], Path | None]


@dataclass(frozen=True)
class RegionAnswers:
    """Answers for regions of one folder."""

    masters: Masters
    gate: Gate
    shelf: Shelf

    async def answer(self, request: Request) -> Response:
        """The region as a file; 400 where it is wrong, 413 where it is too large, 409 where it is not drawn yet."""
        kind = request.path_params["kind"]
        if kind not in KINDS:
            raise HTTPException(404)
        found = await anyio.to_thread.run_sync(reading(lambda: source_of(self.masters)))
        region = checked(asked_for(request.query_params), found.layout, found.wraps_x, self.masters.folder)
        name = f"region-{region.x}-{region.y}-{region.width}x{region.height}.{kind}"
        headers = {"Content-Disposition": f'inline; filename="{name}"'}
        if request.method == "HEAD":
            return Response(media_type=KINDS[kind][1], headers=headers)
        self.shelf.check_room()
        file = await self.gate.run(reading(lambda: _encoded(found, region, kind, self.masters.folder)))
        headers["Content-Length"] = str(self.shelf.put(file))
        return StreamingResponse(_pieces(file), media_type=KINDS[kind][1], headers=headers)


def source_of(masters: Masters) -> PixelSource:
    """The picture of a folder. Raises HTTPException 404 where there is none, or links lead out of the folder."""
    folder = masters.folder
    wraps_x = bool(description_of(folder).get("wrapsX"))
    master = masters.master()
    if master is not None:
        return PixelSource(master.layout, wraps_x, master.read, _missing_of(master))
    _check_inside(folder, folder / INDEX, folder / "image_files")
    try:
        picture = Picture.open(folder)
    except (FileNotFoundError, DamagedData):
        raise HTTPException(404, "this folder holds no picture to cut from yet") from None
    assert picture.tiles is not None  # without a master it is read from its tiles
    return PixelSource(picture.layout, wraps_x, picture.read, _missing_tile_of(picture.tiles))


def _missing_of(master: Master) -> Callable[[int, Box], Path | None]:
    last = master.layout.levels - 1

    def missing(level: int, box: Box) -> Path | None:
        stored, part = (last, master.layout.whole(last).box) if level > last else (level, box)
        shards = master.shards(stored, part)
        _check_inside(master.folder, image_root(master.folder) / str(stored) / "zarr.json", *shards)
        return next((shard for shard in shards if stamp(shard) is None), None)

    return missing


def _missing_tile_of(tiles: DeepZoom) -> Callable[[int, Box], Path | None]:
    """Tiles of a finished picture are all there, or reading them says which is not."""

    def missing(level: int, box: Box) -> Path | None:
        cells = box.covering(tiles.layout.tile)
        for row in range(cells.y0, cells.y1):
            places = (tiles.tile_path(level, row, column) for column in range(cells.x0, cells.x1))
            _check_inside(tiles.folder / "image_files", *places)
        return None

    return missing


def _check_inside(folder: Path, *paths: Path) -> None:
    if not all(is_within(path, folder) for path in paths):
        raise HTTPException(
            404, "a link leads out of this picture's folder; put what it leads to in its place"
        )


# --- what is asked ---------------------------------------------------------------------------------------------------


def asked_for(query: Mapping[str, str]) -> RegionQuery:
    """The region that a query names. Raises HTTPException 400, in one line."""
    x, y, width, height = (_whole_number(query, name) for name in ("x", "y", "w", "h"))
    return RegionQuery(x, y, width, height, _scale(query.get("scale", "1")))


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


def checked(region: RegionQuery, layout: PyramidLayout, wraps_x: bool, folder: Path) -> RegionQuery:
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
    inside = RegionQuery(region.x % layout.width, region.y, region.width, region.height, region.scale)
    _check_size(inside, layout, folder)
    return inside


def _check_size(region: RegionQuery, layout: PyramidLayout, folder: Path) -> None:
    width, height = region.size
    if width * height > LARGEST or max(width, height) > LONGEST:
        by_area = math.sqrt(LARGEST / (region.width * region.height))
        fitting = min(by_area, LONGEST / max(region.width, region.height))
        export = (
            f"write the picture to a file: hypermosaic export {shlex.quote(sendable(str(folder)))} --format png "
            f"--region {region.x},{region.y},{region.width},{region.height}"
            if region.x + region.width <= layout.width
            else "save what lies on either side of the seam by itself"  # which exports do not cross
        )
        raise HTTPException(
            413,
            f"{width} x {height} pixels are too many: one answer holds {LARGEST:,}, at most {LONGEST:,} on a side; "
            f"take less, add scale={math.floor(10_000 * fitting) / 10_000}, or {export}",
        )


# --- pixels ----------------------------------------------------------------------------------------------------------


def _encoded(source: PixelSource, region: RegionQuery, kind: str, folder: Path) -> IO[bytes]:
    """The region in a file that is gone when it is closed; it says what an export of the folder would say."""
    image = cut(source, region)
    encoder, _, settings = KINDS[kind]
    facts = facts_of(folder) if is_within(folder / "job.yaml", folder) else {}
    said = {"pnginfo": metadata.png_info(facts)} if kind == "png" else {"xmp": metadata.xmp(facts)}
    file = cast(IO[bytes], tempfile.TemporaryFile())  # noqa: SIM115 - whoever sends it closes it
    try:
        image.save(file, encoder, icc_profile=metadata.srgb_profile(), **settings, **said)
    except BaseException:
        file.close()
        raise
    return file


def cut(source: PixelSource, region: RegionQuery) -> Image.Image:
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
    source: PixelSource, level: int, rows: tuple[int, int], columns: tuple[int, int], width: int
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
