"""The picture to look around in: one equirectangular JPEG inside a script. Knows levels and a reader; knows no page.

FOLDER/viewer/panorama.js      window.hypermosaicPanorama = {"width": w, "height": h, "degrees": d, "jpeg": "data:..."};

A script and no .jpg, because WebGL refuses pictures that a page opened from disk loads from its own folder.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from storage.files import replace_file
from storage.geometry import Box
from storage.pyramid import PyramidLayout

ReadLevel = Callable[[int, Box], NDArray[np.uint8]]

LARGEST = (2048, 4096)
"""(height, width) that every WebGL device can hold as a texture, its two halves side by side."""
QUALITY = 88


def write_panorama(folder: Path, layout: PyramidLayout, read: ReadLevel) -> None:
    """Write the finest level that fits into 4096 x 2048 pixels; never more than that is in memory.

    `read(level, box)` gives (height, width, 3) pixels of a Deep Zoom level, counted from full size = 0. The width is
    one turn of 360 degrees; the height is what the aspect ratio leaves of 180, centred on the horizon.
    """
    level = panorama_level(layout)
    pixels = read(level, layout.whole(level).box)
    height, width, _ = pixels.shape
    encoded = BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(encoded, "JPEG", quality=QUALITY)
    written = {
        "width": width,
        "height": height,
        "degrees": round(min(180.0, 360 * layout.height / layout.width), 3),
        "jpeg": "data:image/jpeg;base64," + base64.b64encode(encoded.getvalue()).decode(),
    }
    replace_file(panorama_path(folder), f"window.hypermosaicPanorama = {json.dumps(written)};\n".encode())


def panorama_path(folder: Path) -> Path:
    """Where the picture to look around in of a job's folder is, or will be."""
    return folder / "viewer" / "panorama.js"


def panorama_level(layout: PyramidLayout) -> int:
    """The finest level within `LARGEST`."""
    sizes = (layout.size(level) for level in range(layout.deep_levels))
    return next(level for level, (h, w) in enumerate(sizes) if h <= LARGEST[0] and w <= LARGEST[1])
