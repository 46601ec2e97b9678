"""A picture's page as the server shows it: the package's own scripts, and of the folder its facts alone. Runs nothing.

A folder may come from anywhere, and all pages of a server have one origin, so no script of a folder is ever served. Its
description is read out of its index.html and written into a fresh page; its class map and its panorama, which are
pictures inside scripts, are taken out and put into fresh ones.
"""

from __future__ import annotations

import hashlib
import json
import math
import mimetypes
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from storage.formats.deep_zoom import ENCODINGS
from storage.pyramid import PyramidLayout
from viewer.files import is_within
from viewer.gate import Gate
from viewer.page import COPIES, PANORAMA_COPIES, SOURCE, Page
from viewer.pages import description_of
from viewer.tiles import Cache, is_current, reading, stamp

LARGEST_SCRIPT = 32 * 2**20
"""Bytes of a picture inside a script; our own have at most 4096 x 4096 pixels of a byte each, in base64."""
MOST_FACTS, LONGEST_FACT = 64, 20_000
LARGEST_SIDE = 2**31
DATA = re.compile(r"data:image/(?:png|jpeg);base64,[A-Za-z0-9+/]*={0,2}")
COLOUR = re.compile(r"#[0-9a-f]{6}")
SCRIPTS: Mapping[str, tuple[str, str, tuple[str, ...]]] = {
    "classes.js": ("window.hypermosaicClasses = ", "png", ("width", "height")),
    "panorama.js": ("window.hypermosaicPanorama = ", "jpeg", ("width", "height", "degrees")),
}
"""How a script of a folder begins, which of its values is a picture, and which are numbers."""
WAITING = "waiting.html"
SERVED: Mapping[str, str] = {
    **COPIES,
    **PANORAMA_COPIES,
    **{name: name for name in ("waiting.css", "waiting.js")},
}
"""Files of the package by their names below viewer/."""


@dataclass(frozen=True)
class OwnPage:
    """Answers for the page of one folder."""

    folder: Path
    cache: Cache
    gate: Gate
    """Through which a script of the folder, which may be large, is read."""

    async def index(self, request: Request) -> Response:
        """index.html; before the job has written one, a page that waits for it."""
        return await self._page(request, Page.html)

    async def panorama(self, request: Request) -> Response:
        """panorama.html; 404 for pictures that are none."""
        return await self._page(request, Page.panorama_html)

    async def viewer(self, request: Request) -> Response:
        """viewer/NAME: a file of the package, or a picture of the folder inside a script."""
        name = request.path_params["name"]
        if name in SCRIPTS:
            return await self._script(request, name)
        source = SERVED.get(name)
        if source is None:
            raise HTTPException(404)
        headers = {"ETag": _etag_of(source)}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        return FileResponse(SOURCE / source, media_type=_type_of(name), headers=headers)

    async def _page(self, request: Request, made: Callable[[Page], str]) -> Response:
        page = await anyio.to_thread.run_sync(page_of, self.folder)
        if page is None and self.folder.is_dir() and made is Page.html:
            return _revalidated(request, (SOURCE / WAITING).read_bytes(), "text/html; charset=utf-8")
        if page is None or (made is Page.panorama_html and not page.panorama):
            raise HTTPException(404)
        return _revalidated(request, made(page).encode(errors="replace"), "text/html; charset=utf-8")

    async def _script(self, request: Request, name: str) -> Response:
        """Read once for as long as it stays as it is."""
        path = self.folder / "viewer" / name
        written = await anyio.to_thread.run_sync(self._stamp, path)
        if written is None or written[1] > LARGEST_SCRIPT:
            raise HTTPException(404)
        headers = {"ETag": f'"{written[0]:x}-{written[1]:x}"'}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        key = str(path), written
        content = self.cache.get(key)
        if content is None:
            content = await self.gate.run(reading(lambda: self.cache.get(key) or self._read(path), name))
            self.cache.put(key, content)
        return Response(content, media_type="text/javascript", headers=headers)

    def _stamp(self, path: Path) -> tuple[int, int] | None:
        inside = path.is_file() and is_within(path, self.folder.resolve())
        return stamp(path) if inside else None

    def _read(self, path: Path) -> bytes:
        with path.open("rb") as file:  # which may have grown since it was looked at
            script = file.read(LARGEST_SCRIPT + 1)
        if len(script) > LARGEST_SCRIPT:
            raise HTTPException(404)
        return rewritten(script.decode(errors="replace"), path.name)


def rewritten(script: str, name: str) -> bytes:
    """The script of a folder with its picture and its numbers, and nothing else. Raises HTTPException 404."""
    begins, picture, numbers = SCRIPTS[name]
    refusal = HTTPException(404, f"{name} is not one of hypermosaic's")
    try:
        told, end = json.JSONDecoder().raw_decode(script, len(begins))
        sides = {key: float(told[key]) for key in numbers}
        address = str(told[picture])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        raise refusal from None
    if not script.startswith(begins) or script[end : end + 9].strip() != ";" or len(script) > end + 9:
        raise refusal
    if not DATA.fullmatch(address) or not all(0 < side < LARGEST_SIDE for side in sides.values()):
        raise refusal
    facts = json.dumps(sides).removesuffix("}")
    return b"".join((f'{begins}{facts}, "{picture}": "'.encode(), address.encode(), b'"};\n'))


def page_of(folder: Path) -> Page | None:
    """The page that a folder's index.html describes; None where there is none, or one that is not ours."""
    if not is_within(folder / "index.html", folder.resolve()):
        return None
    told = description_of(folder)
    try:
        width, height, tile = (_length(told[key]) for key in ("width", "height", "tile"))
        layout = PyramidLayout(width, height, tile, 4 * tile)
        encoding = str(told["encoding"])
        deep_zoom = bool(told["opensFromDisk"])
    except (KeyError, TypeError, ValueError):
        return None
    return Page(
        title=str(told.get("title", ""))[:LONGEST_FACT],
        layout=layout,
        wraps_x=bool(told.get("wrapsX")),
        deep_zoom=deep_zoom,
        encoding=encoding if encoding in ENCODINGS else "jpg",
        about=_facts(told.get("about")),
        classes=_classes(told.get("classes")),
        panorama=bool(told.get("panorama")),
    )


def layout_of(folder: Path) -> PyramidLayout | None:
    """Where the tiles of a folder's picture lie; None where its page does not say."""
    page = page_of(folder)
    return None if page is None else page.layout


def _length(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < LARGEST_SIDE:
        raise ValueError(f"{value!r} is no length in pixels")
    return value


def _facts(told: Any) -> dict[str, str | int | float]:
    if not isinstance(told, dict):
        return {}
    plain = {
        key: value
        for key, value in told.items()
        if isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))
    }
    return {
        str(key): value[:LONGEST_FACT] if isinstance(value, str) else value
        for key, value in list(plain.items())[:MOST_FACTS]
    }


def _classes(told: Any) -> tuple[tuple[str, str], ...]:
    """(name, colour) of each class; none where one of them is not as we write them."""
    if not isinstance(told, dict):
        return ()
    names, colours = told.get("names"), told.get("colours")
    if (
        not isinstance(names, list)
        or not isinstance(colours, list)
        or not 0 < len(names) == len(colours) < 256
    ):
        return ()
    if not all(isinstance(colour, str) and COLOUR.fullmatch(colour) for colour in colours):
        return ()
    return tuple((str(name), colour) for name, colour in zip(names, colours, strict=True))


def _type_of(name: str) -> str:
    return {".js": "text/javascript", ".css": "text/css"}.get(Path(name).suffix) or (
        mimetypes.guess_type(name)[0] or "text/plain"
    )


@cache
def _etag_of(source: str) -> str:
    return f'"{hashlib.sha256((SOURCE / source).read_bytes()).hexdigest()[:32]}"'


def _revalidated(request: Request, content: bytes, media_type: str) -> Response:
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)
