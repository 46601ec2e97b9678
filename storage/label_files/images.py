"""Images that are read whole, through Pillow: interlaced PNG, GIF, BMP and the like, if they are small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from storage.label_files.chunks import HeldLabels
from storage.label_files.contract import NONE, LabelFileError, as_labels, check_single, check_upright

MOST_PIXELS = 64 * 2**20
ONE_BAND, BANDS = ("L", "P", "1", "I;16"), ("LA", "RGB", "RGBA")
LOSSY = ("JPEG", "MPO", "JPEG2000", "AVIF")
EXACT = ("PNG", "GIF", "BMP", "DIB", "PPM", "TGA", "PCX", "WEBP")
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
            _check_exact(image, path)
            check_single(getattr(image, "n_frames", 1), path)
            check_upright(image.getexif().get(ExifTags.Base.Orientation), path)
            hidden = _hidden(image)
            labels = as_labels(_values(image), path, hidden)
            nodata = NONE if hidden or image.mode in ("LA", "RGBA") else None
            return HeldLabels(path, labels, image.mode in ("RGB", "RGBA"), nodata)
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


def _check_exact(image: ImageFile, path: Path) -> None:
    """Refuse what does not give the values that were saved."""
    if image.format in LOSSY or (image.format == "WEBP" and not _is_lossless(path)):
        raise LabelFileError(
            f"{path} is a {image.format}, which blurs labels into others; save them without loss, as a PNG"
        )
    if image.format not in EXACT:
        raise LabelFileError(f"{path} is a {image.format}, of which labels are not read; save them as a PNG")
    if image.mode not in ONE_BAND + BANDS:
        raise LabelFileError(
            f"{path} is a {image.mode} image; save labels as greyscale or palette (L or P), or as RGB colours"
        )
    if image.format == "PPM" and not _reaches_to_255(image):
        raise LabelFileError(f"{path} is a PPM whose values do not reach to 255; save labels as a PNG")


def _reaches_to_255(image: ImageFile) -> bool:
    """Whether the values of a PPM, in bytes or as text, are those of bytes; Pillow stretches others to them."""
    codec, _, _, told = image.tile[0]
    return image.mode != "1" and (codec == "raw" or (isinstance(told, tuple) and told[1] == 255))


def _is_lossless(path: Path) -> bool:
    """Whether the picture of a WebP is a VP8L, and not a VP8. Of an animation, that of its first frame."""
    with path.open("rb") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            kind, length = head[:4], int.from_bytes(head[4:], "little")
            if kind in (b"VP8 ", b"VP8L"):
                return kind == b"VP8L"
            file.seek(16 if kind == b"ANMF" else length + length % 2, 1)
    return False


def _hidden(image: Image.Image) -> tuple[int, ...]:
    """The labels that are transparent, wholly so, in an image without alpha."""
    told = image.info.get("transparency")
    if told is None or image.mode in ("LA", "RGBA"):
        return ()
    if isinstance(told, bytes):
        return tuple(index for index, alpha in enumerate(told) if alpha == 0)
    if isinstance(told, tuple):
        red, green, blue = told
        return (red << 16 | green << 8 | blue,)
    return (int(told),)


def _values(image: ImageFile) -> NDArray[Any]:
    """The stored values; Pillow stretches greys of fewer than 8 bits to 255."""
    tiles = getattr(image, "tile", None)
    raw = str(tiles[0].args) if tiles else ""
    bits = next((int(part) for part in ("2", "4") if f"L;{part}" in raw), 8)
    values = np.asarray(image)
    return values // np.uint8(255 // (2**bits - 1)) if bits < 8 and image.mode == "L" else values
