"""PNG as strips of labels, unpacked row by row: no part of a PNG can be read alone. Knows bytes; holds one strip.

Rows are inflated here and unfiltered by Pillow, in C: a strip, led by the row before it, is itself a small PNG. Every
strip is shown to Pillow as an image of bytes with as many channels as a pixel has bytes, so nothing else is changed.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from storage.label_files.contract import (
    LabelArray,
    LabelFileError,
    as_labels,
    check_single,
    check_upright,
)

SIGNATURE = b"\x89PNG\r\n\x1a\n"
STRIP_BYTES = 8 * 2**20
READ_BYTES = 2**20
LONGEST_ROW = 64 * 2**20
MOST_STRIP_ROWS = 512
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GREY: 1, RGB: 3, PALETTE: 1, GREY_ALPHA: 2, RGBA: 4}
COLOUR_OF_BYTES = {1: GREY, 2: GREY_ALPHA, 3: RGB, 4: RGBA}
CHUNKS_OF_EXIF = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")
"""Chunks that may say that a picture is turned: EXIF, XMP, and EXIF as text, as ImageMagick writes it."""
MOST_TOLD = 256


@dataclass(frozen=True)
class Header:
    """IHDR. depth: bits a sample; colour: the kind of pixel; interlaced: in seven passes.

    transparent: the labels that tRNS says are transparent, wholly so: of a palette several, else one at most.
    """

    width: int
    height: int
    depth: int
    colour: int
    interlaced: bool
    transparent: tuple[int, ...] = ()

    @property
    def channels(self) -> int:
        return CHANNELS[self.colour]

    @property
    def row_bytes(self) -> int:
        return -(-self.width * self.channels * self.depth // 8)

    @property
    def pixel_bytes(self) -> int:
        """The distance to the pixel before, as filters count it."""
        return max(1, self.channels * self.depth // 8)

    @property
    def strip_rows(self) -> int:
        return max(1, min(MOST_STRIP_ROWS, self.height, STRIP_BYTES // self.row_bytes))


def read_header(path: Path) -> Header:
    """Raises LabelFileError for damaged headers, colours of 16 bits, animations and pictures that are turned."""
    with path.open("rb") as file:
        start = file.read(33)
    if (
        len(start) < 33
        or start[12:16] != b"IHDR"
        or zlib.crc32(start[12:29]) != int.from_bytes(start[29:33], "big")
    ):
        raise LabelFileError(f"{path} is a damaged PNG: its header is not whole; copy it again")
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", start[16:29])
    if not width or not height or colour not in CHANNELS or depth not in (1, 2, 4, 8, 16):
        raise LabelFileError(f"{path} is a damaged PNG: its header makes no sense; copy it again")
    header = Header(width, height, depth, colour, bool(interlaced))
    if depth == 16 and colour != GREY:
        raise LabelFileError(f"{path} has colours of 16 bits; save colours of 8 bits, or labels as grey")
    if header.row_bytes > LONGEST_ROW:
        raise LabelFileError(
            f"{path} is {width} pixels wide, too many for a PNG of labels; save it as a tiled TIFF"
        )
    told = _told(path)
    check_single(
        max((int.from_bytes(data[:4], "big") for kind, data in told if kind == b"acTL"), default=1), path
    )
    check_upright(_orientation(told), path)
    return replace(header, transparent=_transparent(header, dict(told).get(b"tRNS", b"")))


def _told(path: Path) -> list[tuple[bytes, bytes]]:
    """The chunks, (kind, data), that say how the pixels are to be shown. Raises LabelFileError."""
    found: list[tuple[bytes, bytes]] = []
    with path.open("rb") as file:
        file.seek(len(SIGNATURE))
        while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
            length, kind = int.from_bytes(head[:4], "big"), head[4:]
            if (
                kind not in (b"tRNS", b"acTL", *CHUNKS_OF_EXIF)
                or length > READ_BYTES
                or len(found) == MOST_TOLD
            ):
                file.seek(length + 4, 1)
                continue
            data = file.read(length)
            if file.read(4) != zlib.crc32(kind + data).to_bytes(4, "big"):
                raise LabelFileError(f"{path} is a damaged PNG: a sum does not match; copy it again")
            found.append((kind, data))
    return found


def _orientation(told: list[tuple[bytes, bytes]]) -> object:
    """What Pillow reads of it in a small PNG with the same chunks."""
    chunks = [_chunk(kind, data) for kind, data in told if kind in CHUNKS_OF_EXIF]
    if not chunks:
        return None
    try:
        with Image.open(BytesIO(_png(1, 1, GREY, zlib.compress(b"\0\0"), chunks)), formats=("PNG",)) as image:
            return image.getexif().get(ExifTags.Base.Orientation)
    except (OSError, SyntaxError, ValueError, struct.error):  # text that says nothing that could be read
        return None


def _transparent(header: Header, data: bytes) -> tuple[int, ...]:
    if header.colour == PALETTE:
        return tuple(index for index, alpha in enumerate(data) if alpha == 0)
    samples = {GREY: 1, RGB: 3}.get(header.colour, 0)
    if not samples or len(data) < 2 * samples:
        return ()
    values = [value & (2**header.depth - 1) for value in struct.unpack(f">{samples}H", data[: 2 * samples])]
    return (values[0] if samples == 1 else values[0] << 16 | values[1] << 8 | values[2],)


def strips(path: Path, header: Header) -> Iterator[LabelArray]:
    """Labels of `header.strip_rows` rows after each other, the last strip may have fewer. Raises LabelFileError."""
    before, line = bytes(header.row_bytes), header.row_bytes + 1
    with path.open("rb") as file:
        rows = _inflated(file, path)
        buffered, left = bytearray(), header.height
        while left:
            number = min(header.strip_rows, left)
            while len(buffered) < number * line:
                piece = next(rows, None)
                if piece is None:
                    raise LabelFileError(
                        f"{path} is cut off after {header.height - left} rows; copy it again"
                    )
                buffered += piece
            raw = _unfiltered(bytes(buffered[: number * line]), before, header, path)
            del buffered[: number * line]
            before, left = raw[-1].tobytes(), left - number
            yield as_labels(_samples(raw, header), path, header.transparent)
        for _ in rows:  # to the last sum
            pass


def _inflated(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """What the IDAT chunks hold, piece by piece."""
    inflater = zlib.decompressobj()
    try:
        for data in _idat(file, path):
            while data:
                yield inflater.decompress(data, STRIP_BYTES)
                data = inflater.unconsumed_tail
        yield inflater.flush()
    except zlib.error as error:
        raise LabelFileError(f"{path} is a damaged PNG ({error}); copy it again") from error


def _idat(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The IDAT chunks' bytes, in pieces of bounded size, checked against their sums."""
    file.seek(len(SIGNATURE))
    while len(head := file.read(8)) == 8 and head[4:] != b"IEND":
        length = int.from_bytes(head[:4], "big")
        if head[4:] != b"IDAT":
            file.seek(length + 4, 1)
            continue
        check = zlib.crc32(head[4:])
        while length:
            data = file.read(min(length, READ_BYTES))
            if not data:
                return
            check, length = zlib.crc32(data, check), length - len(data)
            yield data
        if file.read(4) != check.to_bytes(4, "big"):
            raise LabelFileError(f"{path} is a damaged PNG: a sum does not match; copy it again")


def _unfiltered(filtered: bytes, before: bytes, header: Header, path: Path) -> NDArray[np.uint8]:
    """(rows, row_bytes) of filtered rows, by Pillow; the row before them leads the strip, unfiltered."""
    rows = len(filtered) // (header.row_bytes + 1) + 1
    width, colour = header.row_bytes // header.pixel_bytes, COLOUR_OF_BYTES[header.pixel_bytes]
    small = BytesIO(_png(width, rows, colour, zlib.compress(b"\0" + before + filtered, 0)))
    try:
        with Image.open(small, formats=("PNG",)) as image:
            pixels = np.asarray(image, np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelFileError(f"{path} is a damaged PNG ({error}); copy it again") from error
    return pixels.reshape(rows, header.row_bytes)[1:]


def _png(width: int, rows: int, colour: int, packed: bytes, told: Sequence[bytes] = ()) -> bytes:
    """A PNG of bytes, from filtered rows that are compressed."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, rows, 8, colour, 0, 0, 0))
    return b"".join([SIGNATURE, header, *told, _chunk(b"IDAT", packed), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _samples(raw: NDArray[np.uint8], header: Header) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """(rows, row_bytes) -> (rows, width) or (rows, width, channels) of the values that the file holds."""
    if header.depth == 16:
        wide: NDArray[np.uint16] = raw.view(">u2").astype(np.uint16)
        return wide
    if header.depth < 8:
        bits = np.unpackbits(raw, axis=1).reshape(len(raw), -1, header.depth)
        weights = (1 << np.arange(header.depth - 1, -1, -1)).astype(np.uint8)
        small: NDArray[np.uint8] = (bits * weights).sum(axis=2, dtype=np.uint8)
        return small[:, : header.width]
    return raw if header.channels == 1 else raw.reshape(len(raw), header.width, header.channels)
