"""Folders and archives of small pictures: Deep Zoom, SZI, IIIF. Knows where tiles lie; knows no encoder's inside.

    deep-zoom   PATH/image.dzi, PATH/image_files/LEVEL/COLUMN_ROW.jpg
    szi         a zip, nothing in it compressed: NAME/NAME.dzi, NAME/NAME_files/..., NAME/scan-properties.xml
    iiif        Image API 3.0, level 0: PATH/info.json, PATH/x,y,w,h/w,h/0/default.jpg, PATH/full/...

A whole picture's own Deep Zoom tiles are copied as they are; all others are encoded from the pixels.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from storage.exports import metadata
from storage.exports.contract import OnProgress, Wishes
from storage.exports.view import View
from storage.files import replace_file
from storage.formats.deep_zoom import DeepZoom, deep_zoom_level, encode, tile_box
from storage.geometry import Box
from storage.pyramid import PyramidLayout

SIDECAR = "image.xmp"
PIXELS_OF_FULL = 1024  # longest side of IIIF's full/max
SZI_SCHEMA = "http://www.pathozoom.com/szi"


@dataclass(frozen=True)
class Tile:
    """One tile: its Deep Zoom name and its bytes; on level `level` of the view, covering `box` there."""

    level: int
    row: int
    column: int
    box: Box


def tiles_of(layout: PyramidLayout, levels: int) -> Iterator[Tile]:
    """The tiles of the first `levels` levels, finest first, row by row."""
    for level in range(levels):
        cells = layout.whole(level).box.covering(layout.tile)
        for row in range(cells.y1):
            for column in range(cells.x1):
                yield Tile(level, row, column, tile_box(layout, level, row, column))


def count(layout: PyramidLayout, levels: int) -> int:
    """How many tiles the first so many levels have."""
    return sum(layout.whole(level).box.covering(layout.tile).area for level in range(levels))


@dataclass(frozen=True)
class Encoded:
    """The bytes of a view's tiles: the picture's own files, or pixels encoded now."""

    view: View
    own: DeepZoom | None
    encoding: str
    quality: int | None

    def read(self, tile: Tile) -> bytes:
        if self.own is not None:
            return self.own.tile_path(tile.level, tile.row, tile.column).read_bytes()
        return encode(self.view.read(tile.level, tile.box), self.encoding, self.quality)


def encoded(view: View, wishes: Wishes) -> Encoded:
    """The job's own tiles for a whole view at no other quality; else tiles encoded anew."""
    own = view.picture.tiles if view.whole and wishes.quality is None else None
    encoding = own.encoding if own is not None else "jpg"
    return Encoded(view, own, encoding, wishes.quality)


def write_deep_zoom(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    """A folder with image.dzi, image_files and a sidecar of metadata; `name` is not written."""
    del name
    tiles = encoded(view, wishes)
    folder = DeepZoom(path, view.layout, tiles.encoding, wishes.quality)
    folder.create()
    total = count(view.layout, view.layout.deep_levels)
    for done, tile in enumerate(tiles_of(view.layout, view.layout.deep_levels), 1):
        folder.tile_path(tile.level, tile.row, tile.column).write_bytes(tiles.read(tile))
        on_progress(done, total)
    folder.finish()
    (path / SIDECAR).write_bytes(metadata.xmp(view.picture.facts))


def write_szi(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    """Write Deep Zoom tiles in one file, in a folder called `name`."""
    tiles = encoded(view, wishes)
    index = DeepZoom(path, view.layout, tiles.encoding, wishes.quality)
    total = count(view.layout, view.layout.deep_levels)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for done, tile in enumerate(tiles_of(view.layout, view.layout.deep_levels), 1):
            level = deep_zoom_level(view.layout, tile.level)
            place = f"{name}/{name}_files/{level}/{tile.column}_{tile.row}.{tiles.encoding}"
            archive.writestr(place, tiles.read(tile))
            on_progress(done, total)
        archive.writestr(f"{name}/{name}.dzi", index.index())
        archive.writestr(f"{name}/scan-properties.xml", _scan_properties(view))
        archive.writestr(f"{name}/{SIDECAR}", metadata.xmp(view.picture.facts))


def _scan_properties(view: View) -> bytes:
    """What the SZI format asks for: the size as typed properties."""
    root = ElementTree.Element(
        "image", {"xmlns": SZI_SCHEMA, "date": datetime.now(UTC).isoformat(), "version": "1.0"}
    )
    properties = ElementTree.SubElement(root, "properties")
    for name, value in (("ImageWidth", view.width), ("ImageHeight", view.height)):
        entry = ElementTree.SubElement(properties, "property")
        ElementTree.SubElement(entry, "name").text = name
        ElementTree.SubElement(entry, "value", {"type": "gint"}).text = str(value)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written


# --- IIIF ------------------------------------------------------------------------------------------------------------


def write_iiif(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    """A folder that any web host serves as a IIIF image of level 0; called `name` where no address is known."""
    path.mkdir()
    layout = view.layout
    tiles = encoded(view, wishes)
    if tiles.encoding != "jpg":
        tiles = Encoded(view, None, "jpg", wishes.quality)
    total = count(layout, layout.levels)
    for done, tile in enumerate(tiles_of(layout, layout.levels), 1):
        _put(path, iiif_name(layout, tile.level, tile.box), tiles.read(tile))
        on_progress(done, total)
    sizes = _whole_sizes(layout)
    for level, (width, height) in sizes:
        content = encode(view.read(level, layout.whole(level).box), "jpg", wishes.quality)
        _put(path, f"full/{width},{height}/0/default.jpg", content)
        _put(path, "full/max/0/default.jpg", content)  # the largest comes last
    (path / SIDECAR).write_bytes(metadata.xmp(view.picture.facts))
    info = _info(layout, [size for _, size in sizes], wishes.iiif_id or name)
    replace_file(path / "info.json", json.dumps(info, indent=2).encode())


def iiif_name(layout: PyramidLayout, level: int, box: Box) -> str:
    """The canonical request of a tile: its region of the full size, then the size it has on its level."""
    height, width = layout.size(0)
    x, y = box.x0 << level, box.y0 << level
    region = f"{x},{y},{min(width, box.x1 << level) - x},{min(height, box.y1 << level) - y}"
    return f"{region}/{box.width},{box.height}/0/default.jpg"


def _whole_sizes(layout: PyramidLayout) -> list[tuple[int, tuple[int, int]]]:
    """(level, (width, height)) of the levels that are offered whole, smallest first."""
    found = []
    for level in range(layout.levels):
        height, width = layout.size(level)
        if max(height, width) <= max(PIXELS_OF_FULL, layout.tile):
            found.append((level, (width, height)))
    return found[::-1]


def _info(layout: PyramidLayout, sizes: list[tuple[int, int]], address: str) -> dict[str, Any]:
    width, height = sizes[-1]
    limits = (
        {} if (width, height) == (layout.width, layout.height) else {"maxWidth": width, "maxHeight": height}
    )
    return {
        "@context": "http://iiif.io/api/image/3/context.json",
        "id": address.rstrip("/"),
        "type": "ImageService3",
        "protocol": "http://iiif.io/api/image",
        "profile": "level0",
        "width": layout.width,
        "height": layout.height,
        **limits,
        "sizes": [{"width": each[0], "height": each[1]} for each in sizes],
        "tiles": [{"width": layout.tile, "scaleFactors": [1 << level for level in range(layout.levels)]}],
    }


def _put(folder: Path, name: str, content: bytes) -> None:
    place = folder / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
