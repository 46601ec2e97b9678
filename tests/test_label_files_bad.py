"""Files that give no labels: each is refused in one line that names it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from storage.label_files import LabelFileError, open_labels

RANDOM = np.random.default_rng(6)


def cut(path: Path, bytes_: int) -> None:
    path.write_bytes(path.read_bytes()[:-bytes_])


def float_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((8, 8), np.float32))


def cut_tiff(path: Path) -> None:
    tifffile.imwrite(
        path, RANDOM.integers(0, 256, (300, 300), np.uint8), tile=(64, 64), compression="deflate"
    )
    content = path.read_bytes()
    with tifffile.TiffFile(path) as file:
        at = file.pages.first.dataoffsets[20]
    path.write_bytes(content[: at + 40])


def plain_cut_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((300, 300), np.uint8))
    cut(path, 400)


def headless_tiff(path: Path) -> None:
    path.write_bytes(b"II*\0\xff\xff\0\0")


def five_bands(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16, 5), np.uint8), photometric="minisblack", planarconfig="contig")


def apart(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((3, 16, 16), np.uint8), photometric="rgb", planarconfig="separate")


def jpeg_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((16, 16), np.uint8), compression="jpeg")


def huge_tile(path: Path) -> None:
    tifffile.imwrite(
        path,
        iter([b"none"]),
        shape=(32768, 16384),
        dtype=np.uint8,
        tile=(32768, 16384),
        compression="deflate",
    )


def text(path: Path) -> None:
    path.write_text("not an image")


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def png_header(path: Path) -> None:
    Image.new("L", (4, 4)).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def png_sum(path: Path) -> None:
    Image.fromarray(RANDOM.integers(0, 256, (90, 90), np.uint8)).save(path, "PNG")
    content = bytearray(path.read_bytes())
    content[-13] ^= 1
    path.write_bytes(content)


def png_deep(path: Path) -> None:
    import pyvips

    pyvips.Image.black(4, 4, bands=3).cast("ushort").copy(interpretation="rgb16").write_to_file(f"{path}.png")
    Path(f"{path}.png").rename(path)


def lossy(path: Path) -> None:
    Image.new("L", (4, 4)).save(path, "JPEG")


def floats(path: Path) -> None:
    Image.new("F", (4, 4)).save(path, "PPM")


def float_zarr(path: Path) -> None:
    zarr.create_array(path, shape=(4, 4), dtype="float32")


def volume(path: Path) -> None:
    zarr.create_array(path, shape=(5, 4, 4), dtype="uint8")


def huge_chunk(path: Path) -> None:
    zarr.create_array(path, shape=(32768, 32768), chunks=(32768, 16384), dtype="uint8")


def plain_group(path: Path) -> None:
    zarr.create_group(path).create_array("mask", shape=(4, 4), dtype="uint8")


def bad_json(path: Path) -> None:
    path.mkdir()
    (path / "zarr.json").write_text("{")


def folder(path: Path) -> None:
    path.mkdir()


def cut_chunk(path: Path) -> None:
    zarr.create_array(path, shape=(40, 40), chunks=(20, 20), dtype="uint8")[:] = RANDOM.integers(
        1, 99, (40, 40)
    )
    cut(path / "c" / "1" / "0", 30)


def read_all(path: Path) -> None:
    found = open_labels(path)
    for box in found.boxes():
        found.read(box)


WRONG = [
    (lambda path: None, "does not exist"),
    (text, "is not an image of labels; PNG, TIFF, Zarr are"),
    (nothing, "is not an image of labels"),
    (float_tiff, "holds float32 values; labels are whole numbers"),
    (cut_tiff, "cut off|damaged"),
    (plain_cut_tiff, "is cut off"),
    (headless_tiff, "is a damaged TIFF"),
    (five_bands, "has 5 bands of uint8"),
    (apart, "stores bands apart"),
    (jpeg_tiff, "is compressed with JPEG; save it with deflate"),
    (huge_tile, r"tiles of 16384 x 32768 pixels, 512 MB each; at most 256 MB"),
    (png_header, "damaged PNG: its header is not whole"),
    (png_sum, "damaged PNG: a sum does not match"),
    (png_deep, "colours of 16 bits"),
    (lossy, "is a JPEG, which blurs labels into others; save them without loss"),
    (floats, "is a F image"),
    (float_zarr, "holds float32 values"),
    (volume, r"is of shape \(5, 4, 4\); labels are \(height, width\)"),
    (huge_chunk, "stored in chunks of 16384 x 32768"),
    (plain_group, "is a Zarr group; give the folder of one of mask in it"),
    (bad_json, "zarr.json is not JSON"),
    (folder, "is a folder without a Zarr array"),
    (cut_chunk, "is damaged: "),
]


@pytest.mark.parametrize(("make", "message"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_what_cannot_be_read_is_said_in_one_line(
    make: Callable[[Path], None], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "mask")
    with pytest.raises(LabelFileError, match=message) as refused:
        read_all(tmp_path / "mask")
    assert str(tmp_path / "mask") in str(refused.value) and "\n" not in str(refused.value)


def test_a_codec_that_is_not_installed_is_named(tmp_path: Path) -> None:
    labels = np.random.default_rng(1).integers(0, 9, (64, 64), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", labels, compression="lzw")
    tifffile.imwrite(tmp_path / "b.tif", labels, compression="deflate")
    code = (
        "import sys; sys.modules['imagecodecs'] = None\n"
        "from pathlib import Path\nfrom storage.label_files import open_labels\nfrom storage.geometry import Box\n"
        "print(open_labels(Path(sys.argv[2])).read(Box(0, 64, 0, 64)).sum())\n"
        "try: open_labels(Path(sys.argv[1])).read(Box(0, 64, 0, 64))\n"
        "except ValueError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tif"), str(tmp_path / "b.tif")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = done.stdout.splitlines()
    assert int(first) == labels.sum()
    assert "pip install 'hypermosaic[export]'" in second
