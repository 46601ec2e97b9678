"""Pyramids in one TIFF file, tile by tile, through tifffile. Knows levels and tags by name; holds a few tiles.

    tiff        BigTIFF, a page a level, the smaller ones marked as reduced: libvips, OpenSlide, QuPath, GIS programs
    ome-tiff    BigTIFF, the smaller levels as SubIFDs of the first, OME-XML: Bio-Formats, QuPath, napari, tifffile

Lossless (deflate with the horizontal predictor) where no quality was given, else JPEG without chroma subsampling.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from storage.exports import metadata
from storage.exports.contract import OnProgress, Wishes
from storage.exports.flat import srgb_profile
from storage.exports.picture import Pixels8
from storage.exports.view import View
from storage.geometry import Box

TILE = 512
XMP_TAG, BYTES = 700, 1
REDUCED = 1  # NewSubfileType
DEFLATE_LEVEL = 4  # measured: twice as fast as 6, two in a hundred larger
THREADS = 2
BUFFER_BYTES = 16 * 2**20  # tiles compressed at once


def write_tiff(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    """A page a level; `name` is not written."""
    del name
    import tifffile

    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level in range(levels(view)):
            described = {"metadata": None, "description": _said(view).encode() if level == 0 else None}
            reduced = {"subfiletype": REDUCED if level else 0}
            _write_level(file, view, level, wishes, on_progress, described | reduced)


def write_ome_tiff(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    """The smaller levels below the first; `name` is what the image is called."""
    import tifffile

    image = {"axes": "YXS", "Name": name, "Description": _said(view)}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        below = levels(view) - 1
        _write_level(file, view, 0, wishes, on_progress, {"subifds": below, "metadata": image})
        for level in range(1, levels(view)):
            _write_level(file, view, level, wishes, on_progress, {"subfiletype": REDUCED, "metadata": None})


def levels(view: View) -> int:
    """Down to the first that fits in one tile."""
    return 1 + max(0, -(-max(view.width, view.height) // TILE) - 1).bit_length()


def _write_level(
    file: Any, view: View, level: int, wishes: Wishes, on_progress: OnProgress, settings: dict[str, Any]
) -> None:
    height, width = view.layout.size(level)
    tiles = tiles_of(view, level, on_progress)
    xmp = metadata.xmp(view.picture.facts)
    per_pixel = wishes.dpi * width / view.layout.size(0)[1]
    file.write(
        (_jpeg(tile, wishes.quality) for tile in tiles) if wishes.quality else tiles,
        shape=(height, width, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        resolution=(per_pixel, per_pixel),
        resolutionunit="INCH",
        software=f"hypermosaic {view.picture.facts.get('version', '')}".strip(),
        iccprofile=srgb_profile(),
        extratags=[(XMP_TAG, BYTES, len(xmp), xmp, True)] if level == 0 else [],
        **(_as_jpeg() if wishes.quality else _lossless()),
        **settings,
    )


def _lossless() -> dict[str, Any]:
    return {
        "photometric": "rgb",
        "compression": "adobe_deflate",  # tag 8; tifffile's "deflate" is 32946, which fewer programs know
        "compressionargs": {"level": DEFLATE_LEVEL},
        "predictor": True,
        "maxworkers": THREADS,
        "buffersize": BUFFER_BYTES,
    }


def _as_jpeg() -> dict[str, Any]:
    return {"photometric": "ycbcr", "compression": "jpeg", "subsampling": (1, 1)}


def _jpeg(tile: Pixels8, quality: int | None) -> bytes:
    encoded = BytesIO()
    Image.fromarray(tile).save(encoded, "JPEG", quality=quality or 90, subsampling=0)
    return encoded.getvalue()


def tiles_of(view: View, level: int, on_progress: OnProgress) -> Iterator[Pixels8]:
    """The tiles of a level, row by row, each (TILE, TILE, 3); the picture's border goes on in those that leave it."""
    whole = view.layout.whole(level).box
    before = sum(_count(view, above) for above in range(level))
    total = sum(_count(view, each) for each in range(levels(view)))
    for index, box in enumerate(_boxes(whole)):
        pixels = view.read(level, box)
        on_progress(before + index + 1, total)  # nobody asks for what follows the last
        beyond = ((0, TILE - box.height), (0, TILE - box.width), (0, 0))
        yield pixels if box.shape == (TILE, TILE) else np.pad(pixels, beyond, mode="edge")


def _boxes(whole: Box) -> Iterator[Box]:
    for y in range(0, whole.y1, TILE):
        for x in range(0, whole.x1, TILE):
            yield Box(y, min(y + TILE, whole.y1), x, min(x + TILE, whole.x1))


def _count(view: View, level: int) -> int:
    return view.layout.whole(level).box.covering(TILE).area


def _said(view: View) -> str:
    return metadata.parameters(view.picture.facts)
