"""Knows a user's own pictures as a source of crops: what is held out, what is skipped. Knows no file format of sets.

    shelf: pictures by number    ->    PictureCrops: any of them, at any pixel offset

Pictures are opened when a crop needs them and a few are kept decoded, so memory does not grow with their number.
A picture is held out by the hash of its name: it stays so when others come or go.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image, ImageOps

from generation.training.classes import Classes
from generation.training.crops import MARGIN, NO_CLASS, Crop, CropSets
from generation.training.earth import BLOCK, Bytes

LOG = logging.getLogger(__name__)
HELD_OUT_SHARE = 0.1
KEPT_BYTES = 256 * 2**20
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for files that are no picture, or half of one."""
SIDEWAYS = (5, 6, 7, 8)
ORIENTATION = 0x0112
CAMERAS = ("JPEG", "MPO", "WEBP")
"""Formats whose notes can be read without decoding the picture."""
NAMED = 5


class PictureError(ValueError):
    """Pictures or class maps that cannot be learned from; the message says which, why, and what to change."""


class PictureShelf(Protocol):
    """Pictures by number."""

    @property
    def names(self) -> Sequence[str]:
        """What each is called in messages; its hash decides whether it is held out."""

    def picture(self, index: int) -> Image.Image:
        """The picture, as Pillow opens it: not decoded yet."""

    def class_map(self, index: int) -> Image.Image | None:
        """The picture's class map, if it has one."""


@dataclass(frozen=True)
class Stock:
    """The pictures of a shelf that are large enough: their numbers, and whether any has a class map."""

    indices: tuple[int, ...]
    maps: bool


def size_of(picture: Image.Image) -> tuple[int, int]:
    """(height, width) as it is to be seen: cameras note when they were held sideways."""
    width, height = picture.size
    sideways = picture.format in CAMERAS and picture.getexif().get(ORIENTATION) in SIDEWAYS
    return (width, height) if sideways else (height, width)


def upright(picture: Image.Image) -> Image.Image:
    """A picture in colours, turned as it is to be seen."""
    turned = ImageOps.exif_transpose(picture) if picture.format in CAMERAS else picture
    return turned.convert("RGB")


def fault_of(shelf: PictureShelf, index: int, side: int) -> tuple[str, bool]:
    """(why a picture cannot be used, or "", whether it has a class map); reads headers alone."""
    try:
        with shelf.picture(index) as picture:
            height, width = size_of(picture)
        with shelf.class_map(index) or nullcontext() as drawn:
            mapped = None if drawn is None else drawn.size
        if min(height, width) < side:
            return f"{width} x {height} pixels, smaller than the crop of {side} x {side}", False
        if mapped is not None and mapped != (width, height):
            return f"its class map has {mapped[0]} x {mapped[1]} pixels, not {width} x {height}", True
        return "", mapped is not None
    except UNREADABLE as error:
        return f"cannot be read: {str(error).splitlines()[0]:.80}", False


def take_stock(shelf: PictureShelf, side: int) -> Stock:
    """The usable pictures; one warning names the others. Raises PictureError where none is left."""
    findings = [fault_of(shelf, index, side) for index in range(len(shelf.names))]
    usable = tuple(index for index, (fault, _) in enumerate(findings) if not fault)
    faults = [f"{shelf.names[index]} ({fault})" for index, (fault, _) in enumerate(findings) if fault]
    told = "; ".join(faults[:NAMED]) + (f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else "")
    if not usable:
        raise PictureError(
            f"no picture is left to learn from: {told or 'there is none'}; give larger ones or a smaller crop"
        )
    if faults:
        LOG.warning("skipped %d of %d pictures: %s", len(faults), len(findings), told)
    return Stock(usable, any(findings[index][1] for index in usable))


def is_held_out(name: str) -> bool:
    """A tenth of all names."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4]) < HELD_OUT_SHARE * 2**32


def split(names: Mapping[int, str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(training, held out); of two pictures and more each side gets one at least, a single one is on both."""
    if len(names) == 1:
        LOG.warning(
            "there is one picture only: nothing is held out, and held-out figures are those of training"
        )
        return tuple(names), tuple(names)
    held_out = [index for index, name in names.items() if is_held_out(name)]
    by_hash = sorted(names, key=lambda index: hashlib.sha256(names[index].encode()).digest())
    held_out = held_out or by_hash[:1]
    if len(held_out) == len(names):
        held_out = by_hash[:-1]
    return tuple(index for index in names if index not in set(held_out)), tuple(held_out)


def ids_of(drawn: Image.Image, classes: Classes) -> Bytes:
    """A class map's ids: of one channel (or palette) its values, of colours the class of each; 255 is no class."""
    if drawn.mode in ("RGB", "RGBA"):
        return ids_of_colours(np.asarray(drawn.convert("RGB")), classes)
    ids = np.asarray(drawn)
    wrong = ids[(ids >= len(classes)) & (ids != NO_CLASS)]
    if wrong.size:
        raise PictureError(f"its class map has the id {wrong.flat[0]}, and there are {len(classes)} classes")
    return ids.astype(np.uint8)


def ids_of_colours(colours: Bytes, classes: Classes) -> Bytes:
    """The class of each pixel's colour; other colours are no class."""
    weights = np.array([65536, 256, 1])
    codes, known = colours @ weights, classes.palette()[:-1] @ weights
    ids = np.full(codes.shape, NO_CLASS, np.uint8)
    for index, code in enumerate(known):
        ids[codes == code] = index
    if (ids == NO_CLASS).all():
        red, green, blue = colours[0, 0]
        raise PictureError(f"its class map has no class's colour, but #{red:02x}{green:02x}{blue:02x}")
    return ids


class PictureCrops:
    """Crops of some pictures of a shelf, each as often as the others, at any pixel offset."""

    def __init__(self, shelf: PictureShelf, indices: Sequence[int], classes: Classes) -> None:
        self.shelf, self.indices, self.classes = shelf, tuple(indices), classes
        self.bad: set[int] = set()
        self.kept: OrderedDict[int, tuple[Bytes, Bytes | None]] = OrderedDict()

    def draw(self, random: np.random.Generator, height: int, width: int) -> Crop:
        """A crop of height x width latents; a picture that proves broken is named once and drawn no more."""
        while len(self.bad) < len(self.indices):
            index = self.indices[int(random.integers(len(self.indices)))]
            found = None if index in self.bad else self.opened(index)
            if found is not None:
                return cut(*found, random, height, width)
        raise PictureError(f"none of the {len(self.indices)} pictures can be read; see the warnings above")

    def opened(self, index: int) -> tuple[Bytes, Bytes | None] | None:
        """Pixels and class ids of a picture, None where it is broken."""
        if index not in self.kept:
            try:
                self.kept[index] = self.decoded(index)
            except UNREADABLE as error:
                self.bad.add(index)
                LOG.warning("skipped %s: %s", self.shelf.names[index], str(error).splitlines()[0])
                return None
            self.forget()
        self.kept.move_to_end(index)
        return self.kept[index]

    def decoded(self, index: int) -> tuple[Bytes, Bytes | None]:
        """All of a picture, and of its class map where there are classes."""
        with self.shelf.picture(index) as picture:
            pixels = np.asarray(upright(picture))
        if not len(self.classes):
            return pixels, None
        with self.shelf.class_map(index) or nullcontext() as drawn:
            if drawn is None:
                return pixels, np.full(pixels.shape[:2], NO_CLASS, np.uint8)
            return pixels, ids_of(drawn, self.classes)

    def forget(self) -> None:
        """Drop what was used longest ago, beyond a number of bytes; the newest stays."""
        while len(self.kept) > 1 and sum(size(*pair) for pair in self.kept.values()) > KEPT_BYTES:
            self.kept.popitem(last=False)


def size(pixels: Bytes, ids: Bytes | None) -> int:
    """Bytes of a decoded picture."""
    return pixels.nbytes + (0 if ids is None else ids.nbytes)


def cut(pixels: Bytes, ids: Bytes | None, random: np.random.Generator, height: int, width: int) -> Crop:
    """A crop anywhere inside; a block's class is that of its middle pixel, and goes on beyond the border."""
    if pixels.shape[0] < height * BLOCK or pixels.shape[1] < width * BLOCK:
        raise PictureError(f"a crop of {height} x {width} latents is larger than a picture of {pixels.shape}")
    y = int(random.integers(pixels.shape[0] - height * BLOCK + 1))
    x = int(random.integers(pixels.shape[1] - width * BLOCK + 1))
    cropped = pixels[y : y + height * BLOCK, x : x + width * BLOCK]
    if ids is None:
        return Crop(cropped, None)
    rows = y + BLOCK // 2 + BLOCK * np.arange(-MARGIN, height + MARGIN)
    columns = x + BLOCK // 2 + BLOCK * np.arange(-MARGIN, width + MARGIN)
    rows, columns = np.clip(rows, 0, ids.shape[0] - 1), np.clip(columns, 0, ids.shape[1] - 1)
    return Crop(cropped, ids[rows[:, None], columns[None, :]])


def picture_sets(shelf: PictureShelf, classes: Classes, side: int) -> CropSets:
    """Training and held-out crops of a shelf; `side` is that of the largest crop, in pixels."""
    stock = take_stock(shelf, side)
    if len(classes) and not stock.maps:
        raise PictureError(
            f"{len(classes)} classes are named, but no picture has a class map: "
            "put NAME.png under maps/ (or NAME.classes.png beside the picture), or leave out classes"
        )
    if stock.maps and not len(classes):
        LOG.warning("there are class maps, but no classes are named: training without them")
    training, held_out = split({index: shelf.names[index] for index in stock.indices})
    return CropSets(PictureCrops(shelf, training, classes), PictureCrops(shelf, held_out, classes))
