"""TIFF, BigTIFF and GeoTIFF as chunks of labels, segment by segment through tifffile. Knows one page and its mask.

Pages that are smaller copies of the first are left aside; a page that is its mask hides what it does not show.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from storage.geometry import Box
from storage.label_files.chunks import ChunkedLabels, check_chunk
from storage.label_files.contract import (
    NONE,
    LabelArray,
    LabelFileError,
    as_labels,
    check_upright,
    no_data_label,
    no_data_values,
    with_none,
)

ORIENTATION_TAG, NODATA_TAG = 274, 42113
LOSSLESS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "packbits",
    32946: "deflate",
    34925: "LZMA",
    50000: "zstd",
}
REDUCED, MASK = 1, 4
"""Bits of NewSubfileType."""
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE = 0, 1, 2, 3
KINDS = {1: (BLACK_IS_ZERO, PALETTE), 2: (BLACK_IS_ZERO,), 3: (RGB,), 4: (RGB,)}
"""PhotometricInterpretation of so many bands."""
ALPHA = (1, 2)
"""ExtraSamples that are transparency."""
SPLIT_BYTES = 2**20
"""Uncompressed strips are read so many bytes at a time, for some files are one strip."""


@dataclass(frozen=True)
class TiffChunks:
    """Tiles or strips of a page. file: where they lie; path: the file, as messages call it.

    split: whether rows are read at their place in an uncompressed file, so many at a time. fill: the value of segments
    that the file leaves out. hidden: labels that are NONE. mask: 0 where a pixel is none.
    """

    path: Path
    file: Path
    page: Any
    height: int
    width: int
    chunk: tuple[int, int]
    dtype: np.dtype[Any]
    colours: bool
    nodata: int | None
    split: bool
    fill: int = 0
    names: Mapping[int, str] = field(default_factory=dict)
    hidden: tuple[int, ...] = ()
    mask: ChunkedLabels | None = None

    def read_chunk(self, row: int, column: int) -> LabelArray:
        """The labels of one segment."""
        high, wide = (min(self.chunk[0], self.height - row * self.chunk[0]),
                      min(self.chunk[1], self.width - column * self.chunk[1]))  # fmt: skip
        pixels = self._rows(row * self.chunk[0], high) if self.split else self._segment(row, column)
        if pixels is None:
            pixels = np.full((high, wide, self.page.samplesperpixel), self.fill, self.page.dtype)
        shown = None
        if self.mask is not None:
            y, x = row * self.chunk[0], column * self.chunk[1]
            shown = self.mask.read(Box(y, y + high, x, x + wide)) != 0
        return as_labels(pixels[:high, :wide], self.path, self.hidden, shown)

    def _segment(self, row: int, column: int) -> Any:
        """(h, w, bands), or None where the file leaves the segment out."""
        index = row * -(-self.width // self.chunk[1]) + column
        if index >= min(len(self.page.dataoffsets), len(self.page.databytecounts)):
            raise LabelFileError(f"{self.path} is damaged: it lists no segment {index}")
        offset, count = self.page.dataoffsets[index], self.page.databytecounts[index]
        if not offset or not count:
            return None
        try:
            decoded = self.page.decode(self._bytes(offset, count), index)[0]
        except LabelFileError:
            raise
        except Exception as error:
            raise _undecoded(self.path, index, error) from error
        return decoded[0]

    def _rows(self, first: int, number: int) -> Any:
        stored = self.page.dtype.newbyteorder(self.page.parent.byteorder)
        bands = self.page.samplesperpixel
        row_bytes = self.width * bands * stored.itemsize
        data = self._bytes(self.page.dataoffsets[0] + first * row_bytes, number * row_bytes)
        return np.frombuffer(data, stored).reshape(number, self.width, bands).astype(self.page.dtype)

    def _bytes(self, offset: int, count: int) -> bytes:
        with self.file.open("rb") as file:
            file.seek(offset)
            data = file.read(count)
        if len(data) < count:
            raise LabelFileError(
                f"{self.path} is cut off: {count} bytes at {offset} are not all there; copy it again"
            )
        return data


def open_tiff(path: Path) -> ChunkedLabels:
    """Raises LabelFileError for a file that is damaged, lossy, or holds no whole numbers."""
    return ChunkedLabels(tiff_chunks(path))


def tiff_chunks(path: Path) -> TiffChunks:
    """The chunks of a TIFF, before anything remembers them."""
    import tifffile

    try:
        with path.open("rb") as opened, tifffile.TiffFile(opened) as file:
            page, mask = _pages(file, path)
            for each in (page, mask) if mask is not None else (page,):
                each.decode, each.dataoffsets, each.databytecounts  # noqa: B018  (read before the file is closed)
            tag = page.tags.get(NODATA_TAG)
            nodata = None if tag is None else tag.value
            check_upright(page.tags.valueof(ORIENTATION_TAG), path)
    except (OSError, LabelFileError):
        raise
    except (ValueError, IndexError, KeyError, TypeError, struct.error, zlib.error) as error:
        said = _first_line(error) if isinstance(error, ValueError) else "it has no page that can be read"
        raise LabelFileError(f"{path} is a damaged TIFF: {said}; copy it again") from error
    for each in (page, mask) if mask is not None else (page,):
        if not each.dataoffsets or len(each.databytecounts) != len(each.dataoffsets):
            raise LabelFileError(
                f"{path} is a damaged TIFF: it does not say where its pixels lie; copy it again"
            )
    labels = _chunks(path, page, nodata)
    _check_kind(path, page)
    return labels if mask is None else _masked(labels, ChunkedLabels(_chunks(path, mask, None)))


def _pages(file: Any, path: Path) -> tuple[Any, Any | None]:
    """The first page and its mask, if there is one. Raises LabelFileError where others are neither that nor copies."""
    page, masks = file.pages.first, []
    for number, other in enumerate(file.pages[1:], 2):
        kind = int(other.subfiletype)
        if not kind & (REDUCED | MASK):
            raise LabelFileError(
                f"{path} holds several pictures (page {number} is no smaller copy); save the one with the labels"
            )
        if kind == MASK:
            masks.append(other)
    if masks and (
        len(masks) > 1 or (masks[0].imagelength, masks[0].imagewidth) != (page.imagelength, page.imagewidth)
    ):
        raise LabelFileError(
            f"{path} has masks that do not fit its picture; save labels with a value for no data"
        )
    return page, masks[0] if masks else None


def _check_kind(path: Path, page: Any) -> None:
    """Refuse numbers that are neither labels nor colours: other colour spaces, channels that are no transparency."""
    bands, kind = page.samplesperpixel, page.photometric
    if kind is not None and int(kind) not in KINDS[bands]:
        said = f"{getattr(kind, 'name', kind)} with {bands} {'bands' if bands > 1 else 'band'}"
        raise LabelFileError(
            f"{path} is {said}; save labels as one band that counts from black, or as RGB colours"
        )
    extra = tuple(int(each) for each in page.extrasamples)
    if bands in (2, 4) and extra not in [(each,) for each in ALPHA]:
        raise LabelFileError(
            f"{path} has a band {bands} that is not said to be transparency; save one band of labels, or RGB colours"
        )


def _masked(labels: TiffChunks, mask: ChunkedLabels) -> TiffChunks:
    """Labels with NONE where the mask is 0; what the file says is no data is none there, too."""
    hidden = labels.hidden if labels.nodata is None else (*labels.hidden, labels.nodata)
    return replace(labels, mask=mask, nodata=NONE, hidden=hidden, dtype=with_none(labels.dtype))


def _chunks(path: Path, page: Any, told: object) -> TiffChunks:
    if page.dtype is None or page.dtype.kind not in "iub":
        raise LabelFileError(
            f"{path} holds {page.dtype} values; labels are whole numbers: save it as integers"
        )
    if int(page.compression) not in LOSSLESS:
        kind = getattr(page.compression, "name", page.compression)
        raise LabelFileError(f"{path} is compressed with {kind}; save it with deflate, LZW, zstd or packbits")
    bands = page.samplesperpixel
    if page.imagedepth > 1:
        raise LabelFileError(f"{path} is a volume of {page.imagedepth} slices; save one of them")
    if bands > 1 and int(page.planarconfig) == 2:
        raise LabelFileError(f"{path} stores bands apart; save them pixel by pixel (PLANARCONFIG_CONTIG)")
    if page.imagelength < 1 or page.imagewidth < 1:
        raise LabelFileError(f"{path} is empty: {page.imagewidth} x {page.imagelength} pixels")
    split = _is_plain(page)
    rows, columns = page.imagelength, page.imagewidth
    if split:
        rows = max(1, min(rows, SPLIT_BYTES // (columns * bands * page.dtype.itemsize)))
    elif page.is_tiled:
        rows, columns = page.tilelength, page.tilewidth
    else:
        rows = min(rows, page.rowsperstrip)
    check_chunk(path, "tiles" if page.is_tiled else "strips", rows, columns, bands * page.dtype.itemsize)
    values = () if told is None else no_data_values(told, page.dtype, path)
    nodata, hidden = no_data_label(values, bands)
    dtype = as_labels(np.zeros((1, 1, bands), page.dtype), path, hidden).dtype
    return TiffChunks(
        path,
        path,
        page,
        page.imagelength,
        page.imagewidth,
        (rows, columns),
        dtype,
        bands > 2,
        nodata,
        split,
        next(iter(values), 0),
        hidden=hidden,
    )


def _is_plain(page: Any) -> bool:
    """Whether all rows follow each other in the file as they are."""
    return (
        not page.is_tiled and int(page.compression) == 1 and int(page.predictor) == 1 and int(page.fillorder) == 1
        and page.bitspersample == 8 * page.dtype.itemsize and bool(page.is_contiguous)
    )  # fmt: skip


def _undecoded(path: Path, index: int, error: Exception) -> LabelFileError:
    if "imagecodecs" in str(error):
        return LabelFileError(
            f"{path} is compressed in a way that needs imagecodecs; pip install 'hypermosaic[export]', or save it "
            "with deflate"
        )
    return LabelFileError(f"{path} is damaged: segment {index} cannot be unpacked ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
