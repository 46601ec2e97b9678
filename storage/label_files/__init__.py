"""Pictures of labels of any size, read box by box: PNG, TIFF, Zarr. Knows files and labels; knows no class, no canvas.

contract.py     what a picture of labels offers
chunks.py       chunks, of which a few are remembered
tiff.py         TIFF, BigTIFF, GeoTIFF
zarr_arrays.py  Zarr arrays and OME-Zarr
png.py          PNG, row by row
unpacked.py     large PNGs as tiled TIFFs beside a job, or in a folder for temporary files
images.py       other images, if they are small
"""

from __future__ import annotations

import os
from pathlib import Path

from storage.label_files.contract import NONE, LabelFile, LabelFileError

__all__ = ["NONE", "LabelFile", "LabelFileError", "open_labels"]

SMALL_BYTES = 64 * 2**20
"""PNGs of fewer bytes of labels are held in memory."""
TIFF_SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def open_labels(path: Path, work: Path | None = None) -> LabelFile:
    """The labels in a file, read where and when they are asked for. work: where large PNGs are unpacked to.

    Raises LabelFileError, in one line, for a file that is missing, damaged or of no such kind.
    """
    path = Path(path)
    try:
        return _opened(path, work)
    except FileNotFoundError:
        raise LabelFileError(f"{path} does not exist") from None
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error)
        raise LabelFileError(f"{path} cannot be read: {said}") from error


def _opened(path: Path, work: Path | None) -> LabelFile:
    if path.is_dir():
        from storage.label_files.zarr_arrays import open_zarr

        return open_zarr(path)
    with path.open("rb") as file:
        start = file.read(8)
    beside = path.with_name(f"{path.name}.msk")
    if beside.exists():
        raise LabelFileError(
            f"{path} has its mask in another file, {beside.name}, which is not read; save it with the mask inside"
        )
    if start[:4] in TIFF_SIGNATURES:
        from storage.label_files.tiff import open_tiff

        return open_tiff(path)
    from storage.label_files.png import SIGNATURE

    if start == SIGNATURE:
        return _png(path, work)
    from storage.label_files.images import open_image

    return open_image(path)


def _png(path: Path, work: Path | None) -> LabelFile:
    import numpy as np

    from storage.label_files.chunks import HeldLabels
    from storage.label_files.images import open_image
    from storage.label_files.png import GREY_ALPHA, RGB, RGBA, read_header, strips

    header = read_header(path)
    if header.interlaced:
        return open_image(path)
    colours = header.colour in (RGB, RGBA)
    nodata = NONE if header.colour in (GREY_ALPHA, RGBA) or header.transparent else None
    label_bytes = 4 if colours or nodata is not None else -(-header.depth // 8)
    if header.width * header.height * label_bytes < SMALL_BYTES:
        return HeldLabels(path, np.concatenate(list(strips(path, header))), colours, nodata)
    from storage.label_files.unpacked import unpacked

    return unpacked(path, header, work, colours, nodata)
