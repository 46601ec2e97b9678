"""PNG, JPEG and WebP: one file without levels, through libvips. Knows their limits; holds a few rows of the picture.

libvips pulls: it reads a PNG with stored (uncompressed) pixels that is made while it is read, because its usual build
reads no simpler format from a stream. The save runs in a thread of its own, so that Ctrl-C is heard at once.
"""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL.PngImagePlugin import putchunk

from storage.exports import metadata
from storage.exports.contract import ExportError, OnProgress, Wishes
from storage.exports.picture import Pixels8
from storage.exports.view import View

if TYPE_CHECKING:
    import pyvips

HELD_BYTES = 100 * 2**20
SIGNATURE = b"\x89PNG\r\n\x1a\n"
LITTLE_EFFORT = {"effort": 2}
"""Of WebP: with more, its encoder also keeps what it is about to write: 850 MB of noise, not 300, for 2 % less file."""
JPEGS_OWN = b"Exif\0\0"
HEADER_BYTES = len(SIGNATURE) + 25  # and the first chunk, IHDR


@dataclass(frozen=True)
class Flat:
    """A format: libvips' settings, its usual quality where it is lossy, and its limits, each with the reason."""

    suffix: str
    settings: Mapping[str, Any]
    quality: int | None
    widest: int
    highest: int
    why: str
    most: int = 2**62  # pixels
    instead: str = "tiff"


FLAT = {
    "png": Flat(
        "png", {"compression": 3, "filter": "up"}, None, 100_000, 2**31 - 1, "wider takes too much memory"
    ),
    "jpeg": Flat("jpg", {"subsample_mode": "off"}, 90, 65_500, 65_500, "libjpeg takes no more"),
    "webp": Flat(
        "webp",
        LITTLE_EFFORT,
        90,
        16_383,
        16_383,
        "its encoder holds all of them in memory",
        32_000_000,
        "jpeg",
    ),
}


def check(name: str, view: View) -> None:
    """Raises ExportError where the format has no room for the view. `name` is a key of FLAT."""
    form, pixels = FLAT[name], view.width * view.height
    shrink = min(form.widest / view.width, form.highest / view.height, (form.most / pixels) ** 0.5)
    if shrink >= 1:
        return
    if view.width > form.widest or view.height > form.highest:
        sides = (
            f"{form.widest:,} x {form.highest:,} pixels" if name != "png" else f"{form.widest:,} pixels a row"
        )
        limit = f"{sides} at most ({form.why if name == 'png' else 'the format has no more'})"
    else:
        limit = f"{form.most // 10**6} megapixels at most ({form.why})"
    raise ExportError(
        f"{view.width}x{view.height} is too large for {name}: {limit}; add --scale {_floor(shrink * view.scale)}, "
        f"or a --region, or choose --format {form.instead}"
    )


def _floor(factor: float) -> str:
    """A scale that surely fits, with two digits that count."""
    digits = 2
    while int(factor * 10**digits) < 10:
        digits += 1
    return f"{int(factor * 10**digits) / 10**digits:.{digits}f}"


def write(name: str, view: View, path: Path, wishes: Wishes, on_progress: OnProgress) -> None:
    """Write level 0 of a view. Raises ExportError for what does not fit, OSError for a disk that is full."""
    form, facts = FLAT[name], view.picture.facts
    check(name, view)
    settings = dict(form.settings)
    if form.quality is not None:
        settings["Q"] = wishes.quality or form.quality
    text = _text_chunks(facts) if name == "png" else b""
    with path.open("wb") as file:
        saving = Saving(view, file, text, on_progress)
        saving.run(lambda image, target: _described(image, name, view, wishes).write_to_target(
            target, f".{form.suffix}", **settings
        ))  # fmt: skip
    if name == "webp":
        bare_exif(path)


def bare_exif(path: Path) -> None:
    """Take the six bytes `Exif\\0\\0` from the EXIF of a WebP, where libvips leaves them: they belong to JPEG alone.

    RIFF "WEBP" VP8X .. EXIF .. XMP: what follows moves up; it is small, and bytes of a file that is not shown yet.
    """
    with path.open("r+b") as file:
        file.seek(12)
        while len(head := file.read(8)) == 8:
            size = int.from_bytes(head[4:], "little")
            if head[:4] != b"EXIF":
                file.seek(size + size % 2, 1)
                continue
            block = file.read(size).removeprefix(JPEGS_OWN)
            rest = file.read()[size % 2 :]
            file.seek(-len(rest) - size - size % 2 - 8, 2)
            file.write(b"EXIF" + len(block).to_bytes(4, "little") + block + b"\0" * (len(block) % 2) + rest)
            end = file.tell()
            file.truncate()
            file.seek(4)
            file.write((end - 8).to_bytes(4, "little"))
            return


def srgb_profile() -> bytes:
    """The sRGB ICC profile that libvips carries."""
    import pyvips

    return bytes(pyvips.Operation.call("profile_load", "srgb"))


def _described(image: pyvips.Image, name: str, view: View, wishes: Wishes) -> pyvips.Image:
    import pyvips

    described = image.copy(xres=wishes.dpi / 25.4, yres=wishes.dpi / 25.4)  # pixels a millimetre
    blobs = {"icc-profile-data": srgb_profile()}
    if name != "png":
        blobs["xmp-data"] = metadata.xmp(view.picture.facts)
        blobs["exif-data"] = metadata.exif(view.picture.facts)
    for field, blob in blobs.items():
        described.set_type(pyvips.GValue.blob_type, field, blob)
    return described


def _text_chunks(facts: Mapping[str, Any]) -> bytes:
    """A PNG's texts as Pillow writes them: libvips' own are no UTF-8 (parameters) and compressed (XMP)."""
    chunks = BytesIO()
    for kind, data, *_ in metadata.png_info(facts).chunks:
        putchunk(chunks, kind, data)
    return chunks.getvalue()


class Saving:
    """One save: what libvips reads from and writes to, and what went wrong on the way."""

    def __init__(self, view: View, file: BinaryIO, text: bytes, on_progress: OnProgress) -> None:
        self._view = view
        self._file = file
        self._text = text
        self._on_progress = on_progress
        self._stopped, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._rest = memoryview(b"")
        self._stream = stored_png(view.width, view.height, self._bands())

    def run(self, save: Callable[[pyvips.Image, pyvips.TargetCustom], None]) -> None:
        """`save` an image of the view to a target that is the file; raises the first thing that went wrong."""
        threading.Thread(target=self._kept, args=(save,), name="export").start()
        try:
            while not self._ended.wait(0.1):  # Thread.join, interrupted, takes a thread for ended
                pass
        finally:  # after Ctrl-C: the next read ends the save
            self._stopped.set()
            self._ended.wait()
        if self._error is not None:
            raise self._error

    def _kept(self, save: Callable[[pyvips.Image, pyvips.TargetCustom], None]) -> None:
        try:
            import pyvips

            source, target = pyvips.SourceCustom(), pyvips.TargetCustom()
            source.on_read(self._read)
            target.on_write(self._write)
            image = pyvips.Image.new_from_source(
                source, "", access="sequential", unlimited=True, fail_on="error"
            )
            save(image, target)
        except Exception as error:
            stopped = type(error).__module__.startswith("pyvips")
            self._note(OSError(f"libvips stopped: {' '.join(str(error).split())}") if stopped else error)
        finally:
            self._ended.set()

    def _note(self, error: BaseException) -> None:
        """The first error is the cause of those that follow."""
        if self._error is None:
            self._error = error

    def _bands(self) -> Iterator[Pixels8]:
        done = 0
        for band in self._view.bands(HELD_BYTES):
            yield band
            done += len(band)
            self._on_progress(done, self._view.height)

    def _read(self, size: int) -> bytes | None:
        """What libvips reads next; None ends it, which is an error where the PNG is not at its end."""
        try:
            while not self._rest and not self._stopped.is_set():
                part = next(self._stream, None)
                if part is None:
                    return None
                self._rest = memoryview(part)
        except BaseException as error:  # a callback must not raise into C
            self._note(error)
            self._stopped.set()
        if self._stopped.is_set():
            return None
        taken, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return taken

    def _write(self, part: bytes) -> int:
        """Write to the file; the text chunks of a PNG go behind its header."""
        try:
            whole = len(part)
            if self._text and self._file.tell() < HEADER_BYTES:
                head = part[: HEADER_BYTES - self._file.tell()]
                self._file.write(head)
                part = part[len(head) :]
                if self._file.tell() == HEADER_BYTES:
                    self._file.write(self._text)
            self._file.write(part)
        except BaseException as error:
            self._note(error)
            self._stopped.set()
            return -1
        return whole


def stored_png(width: int, height: int, bands: Iterator[Pixels8]) -> Iterator[bytes]:
    """The parts of a PNG (ISO/IEC 15948) of RGB pixels whose compression is none."""
    yield SIGNATURE
    yield from _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    stored = zlib.compressobj(0)
    for band in bands:
        rows = np.zeros((len(band), 1 + 3 * width), np.uint8)  # before each row, its filter: 0, none
        rows[:, 1:] = band.reshape(len(band), -1)
        yield from _chunk(b"IDAT", stored.compress(rows.data))
    yield from _chunk(b"IDAT", stored.flush())
    yield from _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> Iterator[bytes]:
    yield struct.pack(">I", len(data)) + kind
    if data:
        yield data
    yield struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
