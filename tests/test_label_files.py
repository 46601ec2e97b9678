"""Pictures of labels in files: every format against the array that was written, damage in one line, bounded memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from storage.geometry import Box
from storage.label_files import NONE, LabelFile, LabelFileError, open_labels, unpacked
from storage.label_files.chunks import ChunkedLabels
from storage.label_files.png import read_header, strips

RANDOM = np.random.default_rng(5)
HEIGHT, WIDTH = 211, 307


def blobs(high: int, dtype: str = "uint8") -> np.ndarray:
    """Labels with runs, so that codecs and filters have something to do."""
    coarse = RANDOM.integers(0, high, (HEIGHT // 7 + 1, WIDTH // 5 + 1))
    return coarse.repeat(7, 0).repeat(5, 1)[:HEIGHT, :WIDTH].astype(dtype)


def same(found: LabelFile, wanted: np.ndarray) -> None:
    """Whole, in odd boxes, at odd places, and by its own boxes."""
    assert (found.height, found.width) == wanted.shape
    np.testing.assert_array_equal(found.read(Box(0, found.height, 0, found.width)), wanted)
    for _ in range(20):
        y, x = np.sort(RANDOM.integers(0, HEIGHT, 2)), np.sort(RANDOM.integers(0, WIDTH, 2))
        box = Box(int(y[0]), int(y[1]) + 1, int(x[0]), int(x[1]) + 1)
        np.testing.assert_array_equal(found.read(box), wanted[box.y0 : box.y1, box.x0 : box.x1])
    rows, columns = RANDOM.integers(0, HEIGHT, 40), RANDOM.integers(0, WIDTH, 50)
    np.testing.assert_array_equal(found.sample(rows, columns), wanted[np.ix_(rows, columns)])
    pieces = np.full(wanted.shape, -7, np.int64)
    for box in found.boxes():
        pieces[box.y0 : box.y1, box.x0 : box.x1] = found.read(box)
    np.testing.assert_array_equal(pieces, wanted)


# --- PNG -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("levels", [2, 4, 16, 256])
@pytest.mark.parametrize("palette", [False, True])
def test_png_of_few_bits(levels: int, palette: bool, tmp_path: Path) -> None:
    import pyvips

    labels = blobs(levels)
    bits = levels.bit_length() - 1
    if palette:
        image = Image.fromarray(labels).convert("L")
        image.putpalette(bytes(range(256)) * 3)
        image.save(tmp_path / "a.png", bits=bits)
    else:
        stretched = pyvips.Image.new_from_array((labels * (255 // (levels - 1))).astype(np.uint8))
        stretched.pngsave(str(tmp_path / "a.png"), bitdepth=bits)
    assert read_header(tmp_path / "a.png").depth == bits
    same(open_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("filter_kind", ["none", "sub", "up", "avg", "paeth", "all"])
def test_png_of_every_row_filter_and_strip(filter_kind: str, tmp_path: Path, monkeypatch) -> None:
    import pyvips

    labels = RANDOM.integers(0, 60_000, (HEIGHT, WIDTH), np.uint16)
    image = pyvips.Image.new_from_memory(labels.tobytes(), WIDTH, HEIGHT, 1, "ushort")
    image.copy(interpretation="grey16").pngsave(str(tmp_path / "a.png"), filter=filter_kind)
    monkeypatch.setattr("storage.label_files.png.STRIP_BYTES", 7 * WIDTH)
    header = read_header(tmp_path / "a.png")
    parts = list(strips(tmp_path / "a.png", header))
    assert len(parts) > 60
    np.testing.assert_array_equal(np.concatenate(parts), labels)
    same(open_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_interlaced_png_is_read_whole_with_the_values_that_it_holds(bits: int, tmp_path: Path) -> None:
    import pyvips

    labels = blobs(min(2**bits, 40_000), "uint16")
    scale = 1 if bits == 16 else 255 // (2**bits - 1)
    stored = (labels * scale).astype(np.uint16 if bits == 16 else np.uint8)
    image = pyvips.Image.new_from_memory(
        stored.tobytes(), WIDTH, HEIGHT, 1, "ushort" if bits == 16 else "uchar"
    )
    image = image.copy(interpretation="grey16" if bits == 16 else "b-w")
    image.pngsave(str(tmp_path / "a.png"), bitdepth=bits, interlace=True)
    assert read_header(tmp_path / "a.png").interlaced
    same(open_labels(tmp_path / "a.png"), labels)


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA"])
def test_colours_are_packed_and_what_is_transparent_is_none(mode: str, tmp_path: Path, monkeypatch) -> None:
    bands = RANDOM.integers(0, 256, (HEIGHT, WIDTH, len(mode)), np.uint8)
    if mode.endswith("A"):
        bands[..., -1] = RANDOM.choice([0, 1, 255], (HEIGHT, WIDTH))
    Image.fromarray(bands, mode).save(tmp_path / "a.png")
    wide = bands.astype(int)
    wanted = wide[..., 0] if mode == "LA" else wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2]
    if mode.endswith("A"):
        wanted = np.where(bands[..., -1] == 0, NONE, wanted)
    found = open_labels(tmp_path / "a.png")
    assert (found.colours, found.nodata) == (mode != "LA", NONE if mode.endswith("A") else None)
    same(found, wanted)
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 1000)
    large = open_labels(tmp_path / "a.png", tmp_path / "work")
    assert isinstance(large, ChunkedLabels) and (large.colours, large.nodata) == (found.colours, found.nodata)
    same(large, wanted)


def test_a_large_png_is_unpacked_once_and_again_when_it_changes(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 1000)
    path, work = tmp_path / "a.png", tmp_path / "work"
    labels = blobs(900, "uint16")
    Image.fromarray(labels).save(path)
    same(open_labels(path, work), labels)
    (copy,) = work.iterdir()
    monkeypatch.setattr(unpacked, "_write", lambda *_: pytest.fail("unpacked again"))
    same(open_labels(path, work), labels)
    monkeypatch.undo()
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 1000)
    other = blobs(11)
    Image.fromarray(other).save(path)
    found = open_labels(path, work)
    same(found, other)
    assert found.path == path and len(list(work.iterdir())) == 2
    copy.unlink()


def test_a_large_png_that_is_cut_off_leaves_no_copy(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("storage.label_files.SMALL_BYTES", 1000)
    Image.fromarray(RANDOM.integers(0, 256, (HEIGHT, WIDTH), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:-5000])
    with pytest.raises(LabelFileError, match="cut off after"):
        open_labels(tmp_path / "a.png", tmp_path / "work")
    assert list((tmp_path / "work").iterdir()) == []


# --- TIFF ------------------------------------------------------------------------------------------------------------

TIFFS: dict[str, dict] = {
    "plain": {},
    "one strip": {"rowsperstrip": HEIGHT},
    "strips": {"rowsperstrip": 17, "compression": "deflate"},
    "tiles": {"tile": (64, 48), "compression": "deflate", "predictor": True},
    "lzw": {"tile": (64, 64), "compression": "lzw"},
    "packbits": {"rowsperstrip": 5, "compression": "packbits"},
    "zstd": {"tile": (128, 128), "compression": "zstd"},
    "big tiff": {"bigtiff": True, "tile": (64, 64)},
    "motorola": {"byteorder": ">"},
    "motorola tiles": {"byteorder": ">", "tile": (32, 64), "compression": "deflate"},
}


LAYOUTS = [
    pytest.param(settings, dtype, id=f"{name} {dtype}")
    for name, settings in TIFFS.items()
    for dtype in ("uint8", "int16", "uint32", "int64")
    if dtype != "int64" or "predictor" not in settings  # tifffile writes no differences of 64 bits
]


@pytest.mark.parametrize(("settings", "dtype"), LAYOUTS)
def test_tiff_of_every_layout(settings: dict, dtype: str, tmp_path: Path) -> None:
    labels = blobs(120, dtype) - (50 if dtype.startswith("i") else 0)
    tifffile.imwrite(tmp_path / "a.tif", labels, metadata=None, **settings)
    same(open_labels(tmp_path / "a.tif"), labels)


def test_tiff_with_smaller_copies_gives_the_first_page_and_palettes_their_indices(tmp_path: Path) -> None:
    labels = blobs(12)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(labels, photometric="palette", colormap=np.zeros((3, 256), np.uint16))
        file.write(labels[::2, ::2], subfiletype=1)
    same(open_labels(tmp_path / "a.tif"), labels)


@pytest.mark.parametrize("settings", [{}, {"tile": (64, 64), "compression": "deflate"}])
def test_tiff_of_colours(settings: dict, tmp_path: Path) -> None:
    bands = RANDOM.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", bands, photometric="rgb", **settings)
    found, wide = open_labels(tmp_path / "a.tif"), bands.astype(int)
    assert found.colours
    same(found, wide[..., 0] * 65536 + wide[..., 1] * 256 + wide[..., 2])


def test_tiff_of_gdal_says_what_is_no_data_and_may_leave_tiles_out(tmp_path: Path) -> None:
    path, labels = tmp_path / "a.tif", np.full((256, 256), 9, np.uint8)
    tiles: list[np.ndarray | None] = [labels[:128, :128], None, None, labels[:128, :128]]
    tifffile.imwrite(
        path, iter(tiles), shape=(256, 256), dtype=np.uint8, tile=(128, 128), compression="deflate",
        extratags=[(42113, 2, 4, "255", True)],
    )  # fmt: skip
    found = open_labels(path)
    assert found.nodata == 255
    wanted = labels.copy()
    wanted[:128, 128:] = wanted[128:, :128] = 255
    np.testing.assert_array_equal(found.read(Box(0, 256, 0, 256)), wanted)


# --- Zarr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "int32", "uint64", "bool"])
def test_zarr_arrays(version: int, dtype: str, tmp_path: Path) -> None:
    labels = blobs(2 if dtype == "bool" else 100, dtype)
    array = zarr.create_array(
        tmp_path / "a.zarr",
        shape=(1, 1, *labels.shape),
        chunks=(1, 1, 50, 64),
        dtype=dtype,
        zarr_format=version,
    )
    array[0, 0] = labels
    same(open_labels(tmp_path / "a.zarr"), labels.astype(int))


def ome(folder: Path, version: str, labels: np.ndarray, image_label: dict | None = None) -> None:
    """Two levels of OME-Zarr labels."""
    group = zarr.create_group(folder, zarr_format=3 if version == "0.5" else 2)
    for level in range(2):
        part = labels[:: 2**level, :: 2**level]
        array = group.create_array(str(level), shape=part.shape, chunks=(64, 64), dtype=part.dtype)
        array[:] = part
    about = {"multiscales": [{"datasets": [{"path": "0"}, {"path": "1"}]}], "image-label": image_label or {}}
    group.attrs.update({"ome": {**about, "version": "0.5"}} if version == "0.5" else about)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_gives_level_0_and_the_names_of_its_labels(version: str, tmp_path: Path) -> None:
    labels = blobs(4)
    properties = [{"label-value": 1, "class": "sea"}, {"label-value": 2, "class": "wood"}, {"label-value": 3}]
    ome(tmp_path / "labels" / "mine", version, labels, {"properties": properties})
    found = open_labels(tmp_path / "labels" / "mine")
    same(found, labels)
    assert dict(found.names) == {1: "sea", 2: "wood"}
    listed = {"labels": ["mine"]}
    if version == "0.5":
        document = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": listed}}
        (tmp_path / "labels" / "zarr.json").write_text(json.dumps(document))
    else:
        (tmp_path / "labels" / ".zgroup").write_text('{"zarr_format": 2}')
        (tmp_path / "labels" / ".zattrs").write_text(json.dumps(listed))
    same(open_labels(tmp_path / "labels"), labels)


def test_zarr_of_colours(tmp_path: Path) -> None:
    bands = RANDOM.integers(0, 256, (3, HEIGHT, WIDTH), np.uint8)
    zarr.create_array(tmp_path / "a.zarr", shape=bands.shape, chunks=(3, 64, 64), dtype="uint8")[:] = bands
    wide = bands.astype(int)
    found = open_labels(tmp_path / "a.zarr")
    assert found.colours
    same(found, wide[0] * 65536 + wide[1] * 256 + wide[2])


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_chunks_are_read_once_and_a_bounded_number_is_kept(tmp_path: Path) -> None:
    labels = blobs(200)
    tifffile.imwrite(tmp_path / "a.tif", labels, tile=(16, 16), compression="deflate")
    source = open_labels(tmp_path / "a.tif").source

    class Counted:
        reads = 0

        def __getattr__(self, name: str):
            return getattr(source, name)

        def read_chunk(self, row: int, column: int) -> np.ndarray:
            self.reads += 1
            return source.read_chunk(row, column)

    counted = Counted()
    found = ChunkedLabels(counted, remembered_bytes=40 * 256)
    for _ in range(5):
        found.read(Box(0, 64, 0, 64))
    assert counted.reads == 16
    found.read(Box(0, HEIGHT, 0, WIDTH))
    assert sum(chunk.nbytes for chunk in found._kept.values()) <= 40 * 256
    found.sample(np.array([3]), np.array([5, 300]))
    assert counted.reads <= 16 + 14 * 20 + 2
