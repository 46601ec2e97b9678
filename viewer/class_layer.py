"""The class map as a layer of the page: one picture of class ids inside a script. Knows labels; knows no page.

FOLDER/viewer/classes.js     window.hypermosaicClasses = {"width": w, "height": h, "png": "data:image/png;base64,..."};

The PNG has a palette: index = class id, in the colour of the class; 255 is no class, transparent. A script and a data:
URL, because a page that is opened from disk may read no pixels of a picture that lies in a file of its own.
"""

from __future__ import annotations

import base64
import json
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.files import replace_file
from storage.formats.labels import LabelPyramid, Legend
from storage.geometry import Box

LONGEST_SIDE = 4096
NO_CLASS = 255
STRIP_ROWS = 512


def write_class_layer(folder: Path, labels: LabelPyramid, grain: int) -> None:
    """Write the script from finished labels. grain: pixels, side of the squares on which a class is constant."""
    layout = labels.layout
    height, width = layer_size(layout.height, layout.width, grain)
    write_layer(folder, layer_ids(labels, height, width), labels.legend)


def write_layer(folder: Path, ids: NDArray[np.uint8], legend: Legend) -> None:
    """Write the script of (height, width) class ids, NO_CLASS where there is none."""
    height, width = ids.shape
    png = base64.b64encode(_png(ids, legend)).decode()
    layer = {"width": width, "height": height, "png": f"data:image/png;base64,{png}"}
    replace_file(layer_path(folder), f"window.hypermosaicClasses = {json.dumps(layer)};\n".encode())


def layer_path(folder: Path) -> Path:
    """Where the layer of a job's folder is, or will be."""
    return folder / "viewer" / "classes.js"


def layer_size(height: int, width: int, grain: int) -> tuple[int, int]:
    """(height, width) of the layer: a pixel for each square of classes where the picture is made of whole ones."""
    if height % grain == 0 and width % grain == 0:
        height, width = height // grain, width // grain
    shrink = max(1.0, max(height, width) / LONGEST_SIDE)
    return max(1, round(height / shrink)), max(1, round(width / shrink))


def layer_ids(labels: LabelPyramid, height: int, width: int) -> NDArray[np.uint8]:
    """(height, width) class ids, NO_CLASS where there is none: the label under the centre of each pixel.

    Read strip by strip from the coarsest level that has as many pixels, so memory is that of the layer.
    """
    layout = labels.layout
    level = min(min(layout.height // height, layout.width // width).bit_length(), layout.levels) - 1
    rows, columns = (
        _centres(length, full) >> level for length, full in ((height, layout.height), (width, layout.width))
    )
    ids = np.empty((height, width), np.uint8)
    whole = layout.whole(level).box
    for top in range(0, whole.height, STRIP_ROWS):
        strip = Box(top, min(top + STRIP_ROWS, whole.height), 0, whole.width)
        here = np.flatnonzero((rows >= strip.y0) & (rows < strip.y1))
        ids[here] = labels.read_level(level, strip)[np.ix_(rows[here] - top, columns)]
    return ids - np.uint8(1)  # 0 becomes 255


def _centres(length: int, full: int) -> NDArray[np.int64]:
    """The pixel of `full` under the centre of each of `length` equal parts."""
    return (2 * np.arange(length, dtype=np.int64) + 1) * full // (2 * length)


def _png(ids: NDArray[np.uint8], legend: Legend) -> bytes:
    """The bytes of the picture; the same ids give the same bytes."""
    image = Image.fromarray(ids).convert("L")
    colours = b"".join(bytes.fromhex(colour[1:]) for _, colour in legend)
    image.putpalette(colours.ljust(3 * 256, b"\0"))
    encoded = BytesIO()
    image.save(encoded, "PNG", transparency=b"\xff" * NO_CLASS + b"\0")
    return encoded.getvalue()
