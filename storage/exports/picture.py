"""A finished picture as pixels, from whatever its folder kept. Knows the folder's formats; writes nothing.

FOLDER/image.zarr       read where it is there: lossless, every level down to one tile
FOLDER/image_files/     read otherwise: the Deep Zoom tiles, as they were encoded
FOLDER/job.yaml         what made the picture
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorstore as ts
from numpy.typing import NDArray
from PIL import Image

from storage.arrays import as_os_error
from storage.documents import DocumentError, parse_yaml, read_text
from storage.fingerprint import FormatError
from storage.formats.contract import checked_tile
from storage.formats.deep_zoom import SCHEMA, DeepZoom, tile_box
from storage.formats.ome_zarr import image_root, open_image, open_level, read_pixels
from storage.geometry import Box
from storage.light import linear_to_srgb_u8, reduce_half_srgb
from storage.pyramid import PyramidLayout

Pixels8: TypeAlias = NDArray[np.uint8]
ReadLevel: TypeAlias = Callable[[int, Box], Pixels8]


@dataclass(frozen=True)
class Picture:
    """A finished picture. facts: the settings that made it, and `fingerprint` and `version`; empty without job.yaml.

    tiles: the Deep Zoom files, where the folder has all of them; lossless: whether `read` gives the decoder's bytes.
    """

    folder: Path
    layout: PyramidLayout
    facts: Mapping[str, Any]
    tiles: DeepZoom | None
    lossless: bool
    _read: ReadLevel = field(repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> Picture:
        """Raises FileNotFoundError where the folder holds no finished picture, FormatError where it is damaged."""
        tiles = _finished_tiles(folder)
        if image_root(folder).joinpath("zarr.json").is_file():
            image = open_image(folder)
            image.finish()
            return cls(
                folder, image.layout, facts_of(folder), tiles, True, reader_of_master(folder, image.layout)
            )
        if tiles is None:
            raise FileNotFoundError(
                f"{folder} holds no finished picture (image.zarr or image.dzi); give the folder of a finished job"
            )
        return cls(
            folder, tiles.layout, facts_of(folder), tiles, tiles.encoding == "png", _reader_of_tiles(tiles)
        )

    @property
    def width(self) -> int:
        return self.layout.width

    @property
    def height(self) -> int:
        return self.layout.height

    @property
    def has_master(self) -> bool:
        """Whether `read` reads the OME-Zarr image."""
        return image_root(self.folder).joinpath("zarr.json").is_file()

    def as_tiles(self) -> Picture | None:
        """This picture, read from its Deep Zoom tiles, if it has them."""
        if self.tiles is None:
            return None
        tiles, lossless = self.tiles, self.tiles.encoding == "png"
        return Picture(self.folder, tiles.layout, self.facts, tiles, lossless, _reader_of_tiles(tiles))

    def read(self, level: int, box: Box) -> Pixels8:
        """(height, width, 3) sRGB pixels of a box of a level; level 0 is full size, `layout.deep_levels - 1` 1 x 1.

        Takes memory for the box and the tiles that it touches. Raises ValueError where the box leaves the level.
        """
        whole = self.layout.whole(level).box
        if not whole.contains(box) or not box.area:
            raise ValueError(f"{box} is no part of level {level}, which is {whole.width} x {whole.height}")
        return self._read(level, box)


def _finished_tiles(folder: Path) -> DeepZoom | None:
    """The Deep Zoom files that image.dzi tells of; it is written after the last of them."""
    path = folder / "image.dzi"
    if not path.is_file() or not (folder / "image_files").is_dir():
        return None
    try:
        root = ElementTree.parse(path).getroot()
        size = root.find(f"{{{SCHEMA}}}Size")
        if size is None or int(root.attrib["Overlap"]):
            raise FormatError(f"{path} is not one of hypermosaic's: it has no size, or tiles that overlap")
        tile = checked_tile(int(root.attrib["TileSize"]), path)
        layout = PyramidLayout(int(size.attrib["Width"]), int(size.attrib["Height"]), tile, 4 * tile)
        return DeepZoom(folder, layout, root.attrib["Format"])
    except (ElementTree.ParseError, KeyError) as error:
        raise FormatError(f"{path} is damaged ({error}); resume the job to write it again") from None


def reader_of_master(folder: Path, layout: PyramidLayout, context: ts.Context | None = None) -> ReadLevel:
    """Reads the OME-Zarr image, finished or not; levels smaller than its last are reduced from that, once.

    context: a cache of shards and chunks, each looked at anew before it is used; without one, nothing is kept.
    """
    opened: Callable[[int], ts.TensorStore] = cache(lambda level: open_level(folder, level, context))
    last = layout.levels - 1

    def stored(level: int, box: Box) -> Pixels8:
        try:
            return read_pixels(opened(level), box)
        except ValueError as error:
            raise as_os_error(error, f"level {level} of {image_root(folder)}") from error

    @cache
    def reduced(level: int) -> Pixels8:
        if level == last:
            return stored(last, layout.whole(last).box)
        return linear_to_srgb_u8(reduce_half_srgb(reduced(level - 1)))

    def read(level: int, box: Box) -> Pixels8:
        if level <= last:
            return stored(level, box)
        return reduced(level)[box.slices_in(layout.whole(level).box)]

    return read


def _reader_of_tiles(tiles: DeepZoom) -> ReadLevel:
    """Decodes the tiles that a box touches."""

    def read(level: int, box: Box) -> Pixels8:
        out = np.empty((*box.shape, 3), np.uint8)
        cells = box.covering(tiles.layout.tile)
        for row in range(cells.y0, cells.y1):
            for column in range(cells.x0, cells.x1):
                place = tile_box(tiles.layout, level, row, column)
                part = place.intersection(box)
                if part is not None:
                    pixels = _decoded(tiles.tile_path(level, row, column), place)
                    out[part.slices_in(box)] = pixels[part.slices_in(place)]
        return out

    return read


def _decoded(path: Path, place: Box) -> Pixels8:
    """Raises FormatError, before anything is decoded, for a tile of another size."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP")) as image:
            if image.size != (place.width, place.height):
                size = f"{image.width} x {image.height}"
                raise FormatError(f"{path} is {size} pixels, not {place.width} x {place.height}")
            return np.asarray(image.convert("RGB"))
    except Image.DecompressionBombError:
        raise FormatError(
            f"{path} is far more pixels than the {place.width} x {place.height} of its place"
        ) from None


def facts_of(folder: Path) -> Mapping[str, Any]:
    """job.yaml's settings, with the job's fingerprint and the version of hypermosaic that made it; {} without one."""
    path = folder / "job.yaml"
    if not path.is_file():
        return {}
    try:
        document = parse_yaml(read_text(path))
        made_by = {"fingerprint": document["fingerprint"], "version": document["versions"]["hypermosaic"]}
        return {**document["spec"], **made_by}
    except (DocumentError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path} is damaged ({str(error).splitlines()[0]}); export needs its settings"
        ) from None
