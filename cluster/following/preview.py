"""The coarse picture of a job under way, in its folder: one small file a block. Knows files; no latents, no model.

    work/preview/layout.json    {"format_version": 1, "height": 512, "width": 1024}, pixels of the whole preview
    work/preview/Y_X_K.png      what one block showed after K steps; its upper left pixel is (Y, X) of the whole

A block writes its file of a later step, whole or not at all, before it removes its earlier ones, so a reader always
finds one, and a late write of a worker believed dead is older than what is there. Nothing else reads these files:
a job is resumed without them, and they go with work/ when it is done.
"""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.files import replace_file
from storage.fingerprint import FormatError

FORMAT_VERSION = 1
FOLDER = "work/preview"
LAYOUT = "layout.json"
ENTRY = re.compile(r"(\d+)_(\d+)_(\d+)\.png")
LARGEST = 2048
"""Of a side, in pixels: what generation.decoding.preview draws at most; not asked here, for that brings PyTorch."""
EMPTY = 72
"""Grey of blocks that have shown nothing yet."""

Picture = NDArray[np.uint8]
"""(h, w, 3)."""
Corner = tuple[int, int]


def read_preview(folder: Path) -> tuple[Picture, int] | None:
    """The newest preview of a job's folder and a version that grows whenever it changes; None where there is none.

    The array is not to be written to. What was read before is kept, for a few folders, so asking again costs a look
    into the folder. Raises FormatError for a preview of another version of this program.
    """
    return _reader(folder.absolute()).read()


@lru_cache(maxsize=4)
def _reader(folder: Path) -> PreviewReader:
    return PreviewReader(folder / FOLDER)


@dataclass(frozen=True)
class Layout:
    """Pixels of the whole preview, and when, in nanoseconds, the file that says so was written: once a job."""

    height: int
    width: int
    written: int


NO_LAYOUT = Layout(0, 0, 0)


class PreviewReader:
    """Composes the blocks' files into one picture, reading each file once. Safe to share between threads."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = Lock()
        self._begin(NO_LAYOUT)

    def read(self) -> tuple[Picture, int] | None:
        with self._lock:
            layout = _read_layout(self._folder / LAYOUT)
            if layout != self._layout:
                self._begin(layout)
            newest = _newest(self._folder) if layout.written else {}
            self._add({at: step for at, step in newest.items() if step > self._steps.get(at, 0)})
            return (self._picture, sum(self._steps.values())) if self._steps else None

    def _begin(self, layout: Layout) -> None:
        """Another job's preview, or none."""
        self._layout = layout
        self._picture: Picture = np.full((layout.height, layout.width, 3), EMPTY, np.uint8)
        self._steps: dict[Corner, int] = {}

    def _add(self, changed: dict[Corner, int]) -> None:
        """Into a copy: the picture handed out before stays as it was."""
        picture = self._picture.copy() if changed else self._picture
        for (y, x), step in changed.items():
            room = self._layout.height - y, self._layout.width - x
            pixels = _read_entry(self._folder / _name((y, x), step), room)
            if pixels is None:
                continue
            height, width = pixels.shape[:2]
            picture[y : y + height, x : x + width] = pixels
            self._steps[y, x] = step
        picture.setflags(write=False)
        self._picture = picture


class PreviewWriter:
    """Writes a job's preview, block by block. shape: (height, width) of the whole, in pixels."""

    def __init__(self, folder: Path, shape: tuple[int, int]) -> None:
        self._folder = folder / FOLDER
        self._shape = shape

    def write(self, corner: Corner, step: int, pixels: Picture) -> None:
        """What the block whose upper left pixel is `corner` shows after `step` steps, counted from 1."""
        if not (self._folder / LAYOUT).exists():
            self._begin()
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG", compress_level=1)
        replace_file(self._folder / _name(corner, step), encoded.getvalue(), durable=False)
        for earlier in range(1, step):
            (self._folder / _name(corner, earlier)).unlink(missing_ok=True)

    def _begin(self) -> None:
        height, width = self._shape
        layout = {"format_version": FORMAT_VERSION, "height": height, "width": width}
        replace_file(self._folder / LAYOUT, json.dumps(layout).encode(), durable=False)


def _name(corner: Corner, step: int) -> str:
    return f"{corner[0]}_{corner[1]}_{step}.png"


def _newest(folder: Path) -> dict[Corner, int]:
    """The latest step of each block, by the names of its files."""
    steps: dict[Corner, int] = {}
    for name in os.listdir(folder) if folder.is_dir() else ():
        if found := ENTRY.fullmatch(name):
            y, x, step = map(int, found.groups())
            steps[y, x] = max(step, steps.get((y, x), 0))
    return steps


def _read_layout(path: Path) -> Layout:
    """NO_LAYOUT where there is no preview. Raises FormatError."""
    try:
        written = path.stat().st_mtime_ns
        layout = json.loads(path.read_bytes())
    except FileNotFoundError:
        return NO_LAYOUT
    except (ValueError, RecursionError):
        raise FormatError(f"{path} is damaged: it is no JSON") from None
    if not isinstance(layout, dict):
        raise FormatError(f"{path} is damaged: it holds {str(layout)[:40]}")
    if layout.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {layout.get('format_version')!r}; this program reads {FORMAT_VERSION}"
        )
    height, width = layout.get("height", 0), layout.get("width", 0)
    if not all(type(side) is int and 0 < side <= LARGEST for side in (height, width)):
        raise FormatError(
            f"{path} is damaged: {height!r:.40} x {width!r:.40} pixels; a preview has at most {LARGEST} a side"
        )
    return Layout(height, width, written)


def _read_entry(path: Path, room: tuple[int, int]) -> Picture | None:
    """Pixels, (h, w) of them within the room. None where a file went while we looked, for a later one or with the job,
    where a power cut tore it, where it is larger than there is room, or a link to elsewhere.
    """
    if path.is_symlink():
        return None
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.height > room[0] or image.width > room[1]:
                return None
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError):  # Pillow raises the second for broken chunks
        return None
