"""Pictures of a gigapixel of labels, made sparsely, are read in little memory: in processes of their own."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from storage.geometry import Box
from storage.label_files import open_labels
from storage.label_files.png import SIGNATURE

GIGAPIXEL = 32768


def one_tile(value: int) -> bytes:
    return zlib.compress(np.full((512, 512), value, np.uint8).tobytes())


def giant_tiles(path: Path) -> None:
    known = [one_tile(index) for index in range(12)]
    tiles = (known[index % 12] for index in range((GIGAPIXEL // 512) ** 2))
    tifffile.imwrite(
        path, tiles, shape=(GIGAPIXEL, GIGAPIXEL), dtype=np.uint8, tile=(512, 512), compression="deflate",
        bigtiff=True, metadata=None,
    )  # fmt: skip


def giant_strips(path: Path) -> None:
    strip = zlib.compress(np.full((64, GIGAPIXEL), 3, np.uint8).tobytes())
    strips_ = (strip for _ in range(GIGAPIXEL // 64))
    tifffile.imwrite(
        path, strips_, shape=(GIGAPIXEL, GIGAPIXEL), dtype=np.uint8, rowsperstrip=64, compression="deflate",
        metadata=None,
    )  # fmt: skip


def giant_one_strip(path: Path) -> None:
    """Uncompressed, one strip of a gigabyte, most of it a hole in the file."""
    tifffile.imwrite(path, np.zeros((1, GIGAPIXEL), np.uint8), rowsperstrip=GIGAPIXEL, metadata=None)
    with tifffile.TiffFile(path, mode="r+b") as file:
        page = file.pages.first
        offset = page.dataoffsets[0]
        page.tags["ImageLength"].overwrite(GIGAPIXEL)
        page.tags["RowsPerStrip"].overwrite(GIGAPIXEL)
        page.tags["StripByteCounts"].overwrite(GIGAPIXEL * GIGAPIXEL)
    with path.open("r+b") as file:
        file.truncate(offset + GIGAPIXEL * GIGAPIXEL)


def giant_zarr(path: Path) -> None:
    zarr.create_array(path, shape=(GIGAPIXEL, GIGAPIXEL), chunks=(1024, 1024), dtype="uint16", fill_value=7)


SCAN = """
import sys
import numpy as np
from pathlib import Path
from storage.label_files import open_labels
from storage.geometry import Box
found = open_labels(Path(sys.argv[1]), Path(sys.argv[2]))
assert found.height * found.width >= 2**30
if sys.argv[3] == "all":
    total = sum(int(found.read(box)[::64, ::64].sum()) for box in found.boxes())
places = np.arange(0, found.height, 1024)
assert found.sample(places, places).shape == (32, 32)
assert found.read(Box(20000, 20512, 30000, 30512)).shape == (512, 512)
told = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(told["VmHWM"].split()[0]) // 1024)
"""


def peak_megabytes(path: Path, work: Path, what: str = "all") -> int:
    """Of a process of its own (whose ru_maxrss would be this one's, which started it)."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the system tells of no process's peak memory")
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(path), str(work), what], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize("make", [giant_tiles, giant_strips, giant_zarr, giant_one_strip])
def test_a_gigapixel_is_read_in_little_memory(make: Callable[[Path], None], tmp_path: Path) -> None:
    """All of it, or for the file with a hole in it some of it: 300 MB, of which libraries take 120."""
    make(tmp_path / "a")
    assert peak_megabytes(tmp_path / "a", tmp_path, "some" if make is giant_one_strip else "all") < 300


def test_a_gigapixel_png_is_unpacked_in_little_memory(tmp_path: Path) -> None:
    """32768 x 32768 pixels of one bit, written row by row."""
    row, packer, data = b"\0" + b"\xaa" * (GIGAPIXEL // 8), zlib.compressobj(1), bytearray()
    for _ in range(GIGAPIXEL):
        data += packer.compress(row)
    data += packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        )

    side = GIGAPIXEL.to_bytes(4, "big")
    header = chunk(b"IHDR", side + side + bytes([1, 0, 0, 0, 0]))
    (tmp_path / "a.png").write_bytes(SIGNATURE + header + chunk(b"IDAT", bytes(data)) + chunk(b"IEND", b""))
    assert peak_megabytes(tmp_path / "a.png", tmp_path / "work", "some") < 300
    found = open_labels(tmp_path / "a.png", tmp_path / "work")
    np.testing.assert_array_equal(found.read(Box(32000, 32003, 700, 704)), np.tile([1, 0], (3, 2)))
