"""The whole picture, small: thumbnails, and previews of jobs under way. Knows levels; knows no route's address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from storage.formats.ome_zarr import image_root
from viewer.files import is_within
from viewer.gate import Gate
from viewer.regions import source_of
from viewer.tiles import Cache, Masters, is_current, reading, stamp
from viewer.told import Preview, Teller

THUMBNAIL = 640
"""Longest side, in pixels."""


@dataclass(frozen=True)
class Smalls:
    """Answers for one folder; what was encoded is kept until it changes."""

    masters: Masters
    teller: Teller
    cache: Cache
    asking: Gate
    """Through which the teller is asked."""
    decoding: Gate

    @property
    def folder(self) -> Path:
        return self.masters.folder

    async def preview(self, request: Request) -> Response:
        """preview.png: the newest preview; 404 where there is none."""
        found = await self._preview()
        if found is None:
            raise HTTPException(404)
        version = f"preview-{found[1]}"
        return await self._answer(request, version, "image/png", lambda: _png(found[0]))

    async def thumbnail(self, request: Request) -> Response:
        """thumbnail.jpg: of the finished levels, else of the preview; 404 where there is neither."""
        version = await self.asking.run(lambda: drawn(self.folder))
        if version is not None:
            return await self._answer(request, version, "image/jpeg", lambda: _jpeg(_smallest(self.masters)))
        found = await self._preview()
        if found is None:
            raise HTTPException(404)
        return await self._answer(
            request, f"coarse-{found[1]}", "image/jpeg", lambda: _jpeg(Image.fromarray(found[0]))
        )

    async def _preview(self) -> Preview | None:
        return await self.asking.run(reading(lambda: self.teller.preview(self.folder)))

    async def _answer(
        self, request: Request, version: str, media_type: str, encoded: Callable[[], bytes]
    ) -> Response:
        headers = {"ETag": f'"{version}"'}
        if is_current(request, headers["ETag"]):
            return Response(status_code=304, headers=headers)
        content = self.cache.get((self.folder, version))
        if content is None:
            content = await self.decoding.run(reading(encoded))
            self.cache.put((self.folder, version), content)
        return Response(content, media_type=media_type, headers=headers)


def drawn(folder: Path) -> str | None:
    """A name for what the finished small levels show, which changes with them; None while they are not written."""
    for path in (image_root(folder) / "zarr.json", folder / "image.dzi"):
        if stamp(path) is None or not is_within(path, folder.resolve()):
            continue
        last = _last_shard(folder) if path.name == "zarr.json" else _last_tile(folder)
        written = stamp(last) if last is not None else None
        if written is not None:
            return f"drawn-{written[0]:x}-{written[1]:x}"
    return None


def _last_shard(folder: Path) -> Path | None:
    """The one shard of the smallest level, which is written after all others."""
    levels = [int(entry.name) for entry in image_root(folder).iterdir() if entry.name.isdecimal()]
    return image_root(folder) / str(max(levels)) / "c" / "0" / "0" / "0" if levels else None


def _last_tile(folder: Path) -> Path | None:
    """The tile of a single pixel, which is written after those of all larger levels, in whatever encoding."""
    return next((folder / "image_files" / "0").glob("0_0.*"), None)


def _smallest(masters: Masters) -> Image.Image:
    """The picture within THUMBNAIL pixels, from the first level that is not larger than twice that."""
    source = source_of(masters)
    layout = source.layout
    level = next(n for n in range(layout.deep_levels) if max(layout.size(n)) <= 2 * THUMBNAIL)
    whole = layout.whole(level).box
    if source.missing(level, whole) is not None:
        raise HTTPException(404, "the small levels of this picture are not written")
    return Image.fromarray(source.read(level, whole))


def _jpeg(image: Image.Image) -> bytes:
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    encoded = BytesIO()
    image.save(encoded, "JPEG", quality=85)
    return encoded.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    encoded = BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
    return encoded.getvalue()
