"""Contract tests over every pyramid format, then what independent readers make of each."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image as OmeImage
from opened_formats import open_formats
from PIL import Image

from storage.damage import DamagedData
from storage.fingerprint import FormatError
from storage.formats import FORMATS
from storage.formats.contract import PyramidFormat
from storage.formats.deep_zoom import DeepZoom, deep_zoom_level
from storage.formats.ome_zarr import OmeZarr, image_root, open_image, open_level
from storage.geometry import Box
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock

LAYOUT = PyramidLayout(width=150, height=83, tile=16, superblock=64)
SIZES = [(1, 1), (16, 16), (17, 64), (65, 1), (83, 150)]


def picture(layout: PyramidLayout) -> NDArray[np.uint8]:
    """Smooth colours, so that JPEG is close to them."""
    y, x = np.mgrid[0 : layout.height, 0 : layout.width]
    return np.stack([40 + y, 60 + x, 200 - (x + y) // 2], axis=2).astype(np.uint8)


def write_all(formats: list[PyramidFormat], master: OmeZarr, pixels: NDArray[np.uint8]) -> None:
    """As a job does: decode tasks from pixels, reductions from what the master holds. Last task first in each group."""
    layout = master.layout
    for output in formats:
        output.create()
    for group in range(layout.groups):
        for task in reversed(list(layout.tasks(group))):
            start = layout.reads(task)
            read = (
                master.read_level(start.level, start.box)
                if group
                else pixels[start.box.slices_in(layout.whole(0).box)]
            )
            write_superblock(formats, layout, task, read)
    for output in formats:
        output.finish()


def written(folder: Path, layout: PyramidLayout = LAYOUT) -> OmeZarr:
    master = OmeZarr(folder, layout)
    write_all(open_formats(list(FORMATS), folder, layout), master, picture(layout))
    return master


def every_file(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_travels_to_workers_and_refuses_boxes_that_are_not_tiles(name: str, tmp_path: Path) -> None:
    output = pickle.loads(pickle.dumps(FORMATS[name](tmp_path, LAYOUT)))
    output.create()
    output.create()
    for box in (Box(0, 8, 0, 16), Box(8, 16, 0, 16), Box(0, 16, 144, 160), Box(0, 0, 0, 16)):
        with pytest.raises(ValueError, match="whole 16-pixel tiles"):
            output.write_level(0, box, np.zeros((*box.shape, 3), np.uint8))
    with pytest.raises(ValueError, match="takes uint8 pixels"):
        output.write_level(0, Box(0, 16, 0, 16), np.zeros((16, 16, 3), np.float32))


@pytest.mark.parametrize("name", FORMATS)
def test_finish_names_what_is_missing(name: str, tmp_path: Path) -> None:
    output = FORMATS[name](tmp_path, LAYOUT)
    output.create()
    with pytest.raises(DamagedData, match="never written; resume the job"):
        output.finish()
    assert not (tmp_path / "image.dzi").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_black_counts_as_written(name: str, tmp_path: Path) -> None:
    layout = PyramidLayout(5, 5, tile=16, superblock=32)
    output = FORMATS[name](tmp_path, layout)
    output.create()
    write_superblock([output], layout, layout.task(0, 0), np.zeros((5, 5, 3), np.uint8))
    output.finish()


def test_the_same_pixels_leave_the_same_bytes_also_when_written_again(tmp_path: Path) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    written(once)
    written(twice)
    written(twice)
    assert every_file(once) == every_file(twice)
    assert not [name for name in every_file(twice) if "/." in name or "lock" in name]


def test_an_unknown_encoding_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="called 'gif'; there are jpg"):
        DeepZoom(tmp_path, LAYOUT, "gif")


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_ome_zarr_is_what_independent_readers_expect(height: int, width: int, tmp_path: Path) -> None:
    layout = PyramidLayout(width, height, tile=16, superblock=64)
    master = written(tmp_path, layout)
    group = zarr.open_group(master.root, mode="r")
    image = OmeImage.from_zarr(group)
    assert len(image.ome_attributes.multiscales[0].datasets) == layout.levels
    for level in range(layout.levels):
        array = group[str(level)]
        assert isinstance(array, zarr.Array)
        assert array.shape == (3, *layout.size(level))
        assert array.shards == (3, layout.write_edge(level), layout.write_edge(level))
        assert array.chunks == (3, 16, 16)
        read = master.read_level(level, layout.whole(level).box)
        np.testing.assert_array_equal(np.moveaxis(np.asarray(array[:]), 0, 2), read)
    np.testing.assert_array_equal(
        np.moveaxis(np.asarray(zarr.open_array(master.root / "0", mode="r")[:]), 0, 2), picture(layout)
    )


def test_ome_zarr_metadata(tmp_path: Path) -> None:
    master = written(tmp_path)
    attributes = json.loads((master.root / "zarr.json").read_text())["attributes"]
    assert attributes["hypermosaic"] == {"format_version": 1, "tile": 16, "superblock": 64}
    assert attributes["ome"]["multiscales"][0]["datasets"][2] == {
        "path": "2",
        "coordinateTransformations": [
            {"type": "scale", "scale": [1, 4, 4]},
            {"type": "translation", "translation": [0, 1.5, 1.5]},
        ],
    }
    assert [channel["color"] for channel in attributes["ome"]["omero"]["channels"]] == [
        "FF0000",
        "00FF00",
        "0000FF",
    ]
    assert open_level(tmp_path, 0).domain.labels == ("c", "y", "x")


def test_an_image_is_opened_with_the_layout_it_was_written_with(tmp_path: Path) -> None:
    master = written(tmp_path)
    assert open_image(tmp_path) == master
    index = master.root / "zarr.json"
    index.write_text(index.read_text().replace('"format_version": 1', '"format_version": 7'))
    with pytest.raises(ValueError, match="format version 7; this program reads 1"):
        open_image(tmp_path)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ('"tile": 8192, "superblock": 16384', "tells tiles of 8192 pixels; this program reads 1 to 4096"),
        ('"tile": 0, "superblock": 64', "tells tiles of 0 pixels"),
        ('"tile": true, "superblock": 64', "tells tiles of True pixels"),
        ('"superblock": 64', "tells tiles of None pixels"),
        ('"tile": 16, "superblock": "64"', "tells a superblock of '64'"),
    ],
)
def test_a_layout_that_nothing_writes_is_refused(tmp_path: Path, told: str, words: str) -> None:
    index = written(tmp_path).root / "zarr.json"
    attributes = json.loads(index.read_text())
    attributes["attributes"]["hypermosaic"] = {"format_version": 1, **json.loads("{" + told + "}")}
    index.write_text(json.dumps(attributes))
    with pytest.raises(FormatError, match=words):
        open_image(tmp_path)


def test_chunks_larger_than_any_tile_are_refused(tmp_path: Path) -> None:
    """Whatever the folder says of its tiles: each chunk is decoded whole."""
    layout = PyramidLayout(8192, 16, tile=8192, superblock=16384)
    OmeZarr(tmp_path, layout).create()
    index = image_root(tmp_path) / "zarr.json"
    told = index.read_text().replace('"tile": 8192', '"tile": 512').replace("16384", "2048")
    index.write_text(told)
    with pytest.raises(FormatError, match="chunks of 3 x 8192 x 8192; this program reads 4096 at most"):
        open_image(tmp_path)


@pytest.mark.parametrize("encoding", ["jpg", "png", "webp"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_deep_zoom_tiles_make_up_the_levels_of_the_master(
    height: int, width: int, encoding: str, tmp_path: Path
) -> None:
    layout = PyramidLayout(width, height, tile=16, superblock=64)
    master, tiles = OmeZarr(tmp_path, layout), DeepZoom(tmp_path, layout, encoding)
    write_all([master, tiles], master, picture(layout))
    folders = {folder.name for folder in (tmp_path / "image_files").iterdir()}
    assert folders == {str(level) for level in range(layout.deep_levels)}
    for level in range(layout.levels):
        shown = assembled(tiles, level).astype(int)
        stored = master.read_level(level, layout.whole(level).box)
        assert np.abs(shown - stored).max() <= (0 if encoding == "png" else 12)


def assembled(tiles: DeepZoom, level: int) -> NDArray[np.uint8]:
    """A level put together from its files, with no code of the writer but the path of a tile."""
    height, width = tiles.layout.size(level)
    canvas = Image.new("RGB", (width, height), "magenta")
    for row in range(-(-height // 16)):
        for column in range(-(-width // 16)):
            with Image.open(tiles.tile_path(level, row, column)) as tile:
                canvas.paste(tile, (16 * column, 16 * row))
    return np.asarray(canvas)


def test_deep_zoom_index_and_level_numbers(tmp_path: Path) -> None:
    written(tmp_path)
    index = (tmp_path / "image.dzi").read_text()
    assert 'Format="jpg" Overlap="0" TileSize="16"' in index
    assert '<Size Width="150" Height="83"/>' in index
    assert deep_zoom_level(LAYOUT, 0) == 8  # ceil(log2(150))
    with Image.open(tmp_path / "image_files" / "0" / "0_0.jpg") as smallest:
        assert smallest.size == (1, 1)
    with Image.open(tmp_path / "image_files" / "8" / "9_5.jpg") as corner:
        assert corner.size == (6, 3)
        assert corner.info.get("progressive") is None
