"""Images that are read whole, through Pillow: interlaced PNG, GIF, BMP and the like, if they are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from storage.label_files.chunks import HeldLabels
from storage.label_files.contract import NONE, LabelFileError, as_labels

MOST_PIXELS = 64 * 2**20
ONE_BAND, BANDS = ("L", "P", "1", "I;16"), ("LA", "RGB", "RGBA")
LOSSY = ("JPEG", "MPO")
READ = "PNG, TIFF, Zarr"


def open_image(path: Path) -> HeldLabels:
    """Raises LabelFileError for what Pillow does not read, for large images and for those without labels."""
    try:
        with Image.open(path) as image:
            if image.width * image.height > MOST_PIXELS:
                raise LabelFileError(
                    f"{path} is a {image.format} of {image.width} x {image.height} pixels, too large to be read whole; "
                    "save it as a tiled TIFF"
                )
            if image.format in LOSSY:
                raise LabelFileError(
                    f"{path} is a {image.format}, which blurs labels into others; save them without loss, as a PNG"
                )
            if image.mode not in ONE_BAND + BANDS:
                raise LabelFileError(
                    f"{path} is a {image.mode} image; save labels as greyscale or palette (L or P), or as RGB colours"
                )
            pixels, nodata = _values(image), NONE if image.mode in ("LA", "RGBA") else None
            return HeldLabels(path, as_labels(pixels, path), image.mode in ("RGB", "RGBA"), nodata)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        raise LabelFileError(f"{path} is not an image of labels; {READ} are") from None
    except (SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, LabelFileError):
            raise
        raise LabelFileError(f"{path} is damaged ({error}); copy it again") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise LabelFileError(f"{path} is damaged ({error}); copy it again") from error


def _values(image: Image.Image) -> NDArray[Any]:
    """The stored values; Pillow stretches greys of fewer than 8 bits to 255."""
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0].args) if tiles else ""
    bits = next((int(part) for part in ("2", "4") if f"L;{part}" in raw), 8)
    values = np.asarray(image)
    return values // np.uint8(255 // (2**bits - 1)) if bits < 8 and image.mode == "L" else values
