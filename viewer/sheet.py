"""The page of a batch: rows of its pictures, the pictures, what is missing. Knows Parquet rows; knows no batch.

    rows.json?from=0&count=60&text=&prompt=&class=    facts of pictures, from the first-th row on
    small/image/FILE/ROW.jpg, small/mask/FILE/ROW.png     within 320 pixels; small/view/...: within 1280
    images/FILE/ROW.png, masks/FILE/ROW.png               as they are stored
    missing.json?from=0&count=100                     requests without a picture
    thumbnail.jpg                                     a few of the pictures, for the gallery

A search looks at rows for a moment and then says where it stopped, so that no question takes long, however rare the
answer is. Of the pictures one row group is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from viewer.assets import filled, revalidated
from viewer.files import is_within
from viewer.gate import Gate
from viewer.parquet import Footer, Recent, Tables, class_bits, places
from viewer.tiles import Cache, is_current, reading, stamp
from viewer.told import Sheet, Teller

SMALL, SMALL_VIEW = 320, 1280
"""Longest side of a small picture, in pixels."""
ZOOMED = 1024
"""A picture with a longer side has a page of its own to zoom in."""
LARGEST_FILE = 2**22
"""Bytes of a picture that is sent as it is stored."""
LARGEST = 2**28
"""Pixels of a picture that is decoded."""
MOST_ROWS, LONGEST_TEXT = 120, 200
SEARCH_SECONDS = 0.4
REMEMBERED_SECONDS = 1.0
CARD = (640, 400)
GRIDS = ((4, 3), (3, 3), (4, 2), (3, 2), (2, 2), (3, 1), (2, 1), (1, 1))
"""Cells of a card, across and down: the first that there are pictures enough for."""
FACTS = (
    *("id", "prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale"),
    *("score", "fingerprint"),
)


@dataclass(frozen=True)
class Wanted:
    """Which rows are asked for: `count` from the first-th on that have a text, a prompt, a class."""

    first: int
    count: int
    text: str = ""
    prompt: str | None = None
    class_id: int | None = None

    def fits(self, row: Mapping[str, Any]) -> bool:
        """By what the row says of itself; the class is another matter."""
        if row.get("kind") is not None:
            return False
        if self.prompt is not None and row.get("prompt") != self.prompt:
            return False
        said = (str(row.get(name) or "") for name in ("id", "prompt", "negative_prompt"))
        return not self.text or any(self.text in words.casefold() for words in said)


@dataclass
class Sheets:
    """Answers for one folder; its files are listed at most once a second."""

    folder: Path
    teller: Teller
    cache: Cache
    asking: Gate
    reading: Gate
    tables: Tables
    gallery: str | None = None
    classes: Recent = field(default_factory=lambda: Recent(200_000))
    _listed: tuple[float, Sheet] | None = None

    # --- pages -------------------------------------------------------------------------------------------------------

    async def page(self, request: Request) -> Response:
        """The page; its rows are asked for by its script."""
        sheet = await self.sheet()
        told = {
            "legend": list(sheet.legend),
            "facts": dict(sheet.facts),
            "gallery": self.gallery,
            "zoomed": ZOOMED,
        }
        described = json.dumps(told).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
        return revalidated(request, filled("sheet.html", title=escape(sheet.title), description=described))

    async def rows(self, request: Request) -> Response:
        wanted = wanted_by(request.query_params)
        sheet = await self.sheet()
        found = await self.reading.run(reading(lambda: self._search(sheet, wanted)))
        indices = [row["index"] for row in found["rows"]]
        seconds = await self.asking.run(reading(lambda: self.teller.seconds(self.folder, indices)))
        for row, taken in zip(found["rows"], seconds, strict=True):
            row["seconds"] = taken
        return _json(found)

    async def missing(self, request: Request) -> Response:
        wanted = wanted_by(request.query_params)
        rows, total = await self.asking.run(
            reading(lambda: self.teller.missing(self.folder, wanted.first, wanted.count))
        )
        return _json({"rows": [_told(row, ("id", "index", "kind", "error")) for row in rows], "total": total})

    # --- pictures ----------------------------------------------------------------------------------------------------

    async def small(self, request: Request) -> Response:
        """A small picture or mask; 404 where the row has none."""
        column, ending = request.path_params["column"], request.path_params["ending"]
        if (column, ending) not in SMALL_ONES:
            raise HTTPException(404)
        stored, media_type, make = SMALL_ONES[column, ending]
        return await self._answer(request, stored, media_type, make)

    async def whole(self, request: Request) -> Response:
        """A picture or mask as it is stored; 413 where that is too much for one answer."""
        column = {"images": "image", "masks": "mask"}.get(request.path_params["column"])
        if column is None:
            raise HTTPException(404)
        return await self._answer(request, column, "image/png", _within_limit)

    async def thumbnail(self, request: Request) -> Response:
        """A few pictures side by side; 404 while there is none."""
        sheet = await self.sheet()
        key = tuple((name, stamp(path)) for name, path in list(sheet.files.items())[:4])
        headers = {"ETag": f'"{hashlib.sha256(repr(key).encode()).hexdigest()[:32]}"'}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        content = self.cache.get((self.folder, key))
        if content is None:
            content = await self.reading.run(reading(lambda: self._card(sheet)))
            self.cache.put((self.folder, key), content)
        return Response(content, media_type="image/jpeg", headers=headers)

    async def _answer(
        self, request: Request, column: str, media_type: str, make: Callable[[bytes], bytes]
    ) -> Response:
        name, row = request.path_params["file"], request.path_params["row"]
        path = await self.path_of(name)
        written = stamp(path) or (0, 0)
        key = self.folder, name, row, column, make.__name__, written
        headers = {"ETag": f'"{written[0]:x}-{written[1]:x}-{row}-{make.__name__}"'}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        content = self.cache.get(key)
        if content is None:
            content = await self.reading.run(reading(lambda: make(self.picture(path, row, column))))
            self.cache.put(key, content)
        return Response(content, media_type=media_type, headers=headers)

    # --- what they read ----------------------------------------------------------------------------------------------

    async def sheet(self) -> Sheet:
        """The folder's files as of a moment ago; 404 where the batch is gone."""
        now = time.monotonic()
        if self._listed is None or now - self._listed[0] > REMEMBERED_SECONDS:
            found = await self.asking.run(reading(lambda: self.teller.sheet(self.folder)))
            if found is None:
                raise HTTPException(404)
            self._listed = now, found
        return self._listed[1]

    async def path_of(self, name: str) -> Path:
        """The Parquet file of a name in an address; 404 where there is none, or a link out of the folder."""
        path = (await self.sheet()).files.get(name)
        if path is None or stamp(path) is None or not is_within(path, self.folder.resolve()):
            raise HTTPException(404)
        return path

    def picture(self, path: Path, row: int, column: str) -> bytes:
        """The bytes of a row's image or mask; 404 where there is none."""
        try:
            found = self.tables.picture(path, row, column)
        except IndexError:
            found = None
        if found is None:
            raise HTTPException(404)
        return found

    def facts(self, path: Path, row: int) -> Mapping[str, Any]:
        """What a row says of its picture; 404 where there is no such row."""
        try:
            group = self.tables.footer(path).group_at(row)
        except IndexError:
            raise HTTPException(404) from None
        return self.tables.facts(path, group)[row - group.first]

    def _footers(self, sheet: Sheet) -> dict[str, Footer]:
        """The footers of all files that are there; one that cannot be read is told of, not passed over."""
        whole = self.folder.resolve()
        return {
            name: self.tables.footer(path)
            for name, path in sheet.files.items()
            if stamp(path) is not None and is_within(path, whole)
        }

    def _search(self, sheet: Sheet, wanted: Wanted) -> dict[str, Any]:
        """{rows, next, looked, total}: rows that fit, where to go on, rows looked at, rows in all."""
        footers = self._footers(sheet)
        total = sum(footer.rows for footer in footers.values())
        until = time.monotonic() + SEARCH_SECONDS
        rows: list[dict[str, Any]] = []
        looked = 0
        for place, name, group, row in places(footers, wanted.first):
            if len(rows) == wanted.count or (looked and time.monotonic() > until):
                return {"rows": rows, "next": place, "looked": looked, "total": total}
            looked += 1
            facts = self.tables.facts(sheet.files[name], group)[row]
            if wanted.fits(facts) and self._shows(sheet.files[name], group.first + row, wanted.class_id):
                rows.append(_row(name, group.first + row, place, facts, "mask" in footers[name].columns))
        return {"rows": rows, "next": None, "looked": looked, "total": total}

    def _shows(self, path: Path, row: int, class_id: int | None) -> bool:
        if class_id is None:
            return True
        bits = self.classes.get((path, stamp(path), row), lambda: self._bits(path, row))
        return bool(bits >> class_id & 1)

    def _bits(self, path: Path, row: int) -> int:
        mask = self.tables.picture(path, row, "mask")
        return 0 if mask is None else class_bits(np.asarray(decoded(mask).convert("P"), dtype=np.uint8))

    def _card(self, sheet: Sheet) -> bytes:
        """The first pictures, cut to cells of one size that fill it."""
        found = self._search(sheet, Wanted(0, math.prod(GRIDS[0])))["rows"]
        if not found:
            raise HTTPException(404)
        card = Image.new("RGB", CARD)
        across, down = next(grid for grid in GRIDS if math.prod(grid) <= len(found))
        corners = [(column, row) for row in range(down) for column in range(across)]
        for (column, row), one in zip(corners, found, strict=False):
            left, top = column * CARD[0] // across, row * CARD[1] // down
            size = (column + 1) * CARD[0] // across - left, (row + 1) * CARD[1] // down - top
            image = decoded(self.picture(sheet.files[one["file"]], one["row"], "image")).convert("RGB")
            card.paste(ImageOps.fit(image, size), (left, top))
        return _jpeg(card)


# --- what is asked ---------------------------------------------------------------------------------------------------


def wanted_by(query: Mapping[str, str]) -> Wanted:
    """The rows that a query names. Raises HTTPException 400, in one line."""
    text, prompt, class_id = query.get("text", ""), query.get("prompt"), query.get("class", "")
    if max(len(text), len(prompt or "")) > LONGEST_TEXT:
        raise HTTPException(400, f"a text of more than {LONGEST_TEXT} characters is not searched for")
    return Wanted(
        first=_whole_number(query, "from", 0, 10**9),
        count=max(1, _whole_number(query, "count", 60, MOST_ROWS)),
        text=text.casefold().strip(),
        prompt=prompt,
        class_id=_whole_number(query, "class", 0, 254) if class_id else None,
    )


def _whole_number(query: Mapping[str, str], name: str, usual: int, most: int) -> int:
    text = query.get(name, str(usual))
    if not re.fullmatch("[0-9]{1,10}", text) or int(text) > most:
        raise HTTPException(400, f"{name} must be a whole number up to {most:,}")
    return int(text)


# --- what is answered ------------------------------------------------------------------------------------------------


def _row(file: str, row: int, place: int, facts: Mapping[str, Any], masked: bool) -> dict[str, Any]:
    number = re.match(r"\d{1,18}", str(facts.get("path") or ""))
    own = {
        "place": place,
        "file": file,
        "row": row,
        "mask": masked,
        "index": int(number[0]) if number else -1,
    }
    return _told(facts, FACTS) | own


def _told(facts: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Values as JSON has them; numbers that JavaScript would round are text."""
    told: dict[str, Any] = {}
    for name in names:
        value = facts.get(name)
        plain = value is None or (isinstance(value, int | float) and abs(value) < 2**53)
        told[name] = value if plain else str(value)
    return told


def _json(value: Any) -> Response:
    return Response(json.dumps(value, separators=(",", ":")), media_type="application/json")


def decoded(content: bytes) -> Image.Image:
    """A PNG, and nothing else that calls itself a picture. Raises HTTPException 413, ValueError or OSError."""
    try:
        image = PngImageFile(BytesIO(content))
        if image.width * image.height <= LARGEST:
            image.load()
            return image
    except SyntaxError as error:  # Pillow's word for what is no PNG
        raise ValueError(f"this is no PNG: {error}") from None
    raise HTTPException(
        413, f"{image.width} x {image.height} pixels are too many to show; {LARGEST:,} are not"
    )


def small_view(content: bytes) -> bytes:
    """A small view of a picture that is too large to be sent as it is stored."""
    return small_jpeg(content, SMALL_VIEW)


def small_jpeg(content: bytes, side: int = SMALL) -> bytes:
    """A PNG's picture as JPEG, at most `side` pixels wide and high."""
    image = decoded(content).convert("RGB")
    much_larger = max(image.size) > 4 * side
    image.thumbnail((side, side), Image.Resampling.BOX if much_larger else Image.Resampling.LANCZOS)
    return _jpeg(image)


def small_mask(content: bytes) -> bytes:
    """No class is made up between two: pixels are left out, not averaged."""
    image = decoded(content)
    image.thumbnail((SMALL, SMALL), Image.Resampling.NEAREST)
    encoded = BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()


def _within_limit(content: bytes) -> bytes:
    if len(content) > LARGEST_FILE:
        raise HTTPException(
            413, f"{len(content):,} bytes are sent piece by piece only; open its page to zoom in"
        )
    return content


def _jpeg(image: Image.Image) -> bytes:
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=87)
    return encoded.getvalue()


SMALL_ONES: Mapping[tuple[str, str], tuple[str, str, Callable[[bytes], bytes]]] = {
    ("image", "jpg"): ("image", "image/jpeg", small_jpeg),
    ("view", "jpg"): ("image", "image/jpeg", small_view),
    ("mask", "png"): ("mask", "image/png", small_mask),
}
"""(name, ending) in an address: the column, the kind of answer, and what makes it."""
