"""Reading a finished picture: any box of any level, of a part of it, at a scale."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from finished_jobs import LAYOUT, colours, finished_job, write_picture

from storage.damage import DamagedData
from storage.exports.contract import ExportError
from storage.exports.picture import Picture
from storage.exports.view import view_of
from storage.fingerprint import FormatError
from storage.geometry import Box
from storage.light import linear_to_srgb_u8, reduce_half_srgb


@pytest.fixture
def job(tmp_path: Path) -> Path:
    finished_job(tmp_path / "job")
    return tmp_path / "job"


# --- reading a finished picture --------------------------------------------------------------------------------------


@pytest.mark.parametrize("outputs", [["ome-zarr"], ["deep-zoom"], ["ome-zarr", "deep-zoom"]])
def test_a_picture_reads_any_box_of_any_level(tmp_path: Path, outputs: list[str]) -> None:
    level = write_picture(tmp_path, LAYOUT, *outputs)
    if "ome-zarr" not in outputs:
        shutil.rmtree(tmp_path / "image.zarr")
    picture = Picture.open(tmp_path)
    assert (picture.width, picture.height, picture.lossless) == (150, 83, "ome-zarr" in outputs)
    for number in range(picture.layout.deep_levels):
        height, width = level.shape[:2]
        for box in (Box(0, height, 0, width), Box(height // 3, height, width // 2, width)):
            found = picture.read(number, box)
            expected = level[box.y0 : box.y1, box.x0 : box.x1]
            close = np.abs(found.astype(int) - expected).max() <= (3 if "ome-zarr" in outputs else 25)
            assert found.shape == expected.shape and close, (number, box)
        level = linear_to_srgb_u8(reduce_half_srgb(level))


def test_a_picture_refuses_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished picture"):
        Picture.open(tmp_path)
    write_picture(tmp_path)
    with pytest.raises(ValueError, match="level 0, which is 150 x 83"):
        Picture.open(tmp_path).read(0, Box(0, 84, 0, 10))
    (tmp_path / "image.zarr" / "0" / "c" / "0" / "1" / "0").unlink()
    with pytest.raises(DamagedData, match="never written; resume"):
        Picture.open(tmp_path)


def test_tiles_larger_than_any_that_are_written_are_refused(tmp_path: Path) -> None:
    write_picture(tmp_path, LAYOUT, "deep-zoom")
    shutil.rmtree(tmp_path / "image.zarr")
    index = tmp_path / "image.dzi"
    index.write_text(index.read_text().replace('TileSize="16"', 'TileSize="5000"'))
    with pytest.raises(FormatError, match="tells tiles of 5000 pixels; this program reads 1 to 4096"):
        Picture.open(tmp_path)


# --- parts and scales ------------------------------------------------------------------------------------------------


def test_a_region_at_full_size_is_cut_out_exactly(job: Path) -> None:
    view = view_of(Picture.open(job), (13, 7, 101, 59))
    assert (view.read(0, Box(0, 59, 0, 101)) == colours(150, 83)[7:66, 13:114]).all()


def test_half_the_size_is_the_level_below_exactly(job: Path) -> None:
    picture = Picture.open(job)
    view = view_of(picture, (0, 0, 148, 80), 0.5)
    assert (view.read(0, Box(0, 40, 0, 74)) == picture.read(1, Box(0, 40, 0, 74))).all()


@pytest.mark.parametrize("scale", [1.0, 0.77, 0.31, 0.05])
def test_boxes_of_a_view_join_without_a_seam(job: Path, scale: float) -> None:
    view = view_of(Picture.open(job), (11, 3, 131, 80), scale)
    for level in range(view.layout.levels):
        whole = view.layout.whole(level).box
        at_once = view.read(level, whole)
        for box in (
            Box(0, whole.y1, 0, -(-whole.x1 // 2)),
            Box(whole.y1 // 2, whole.y1, whole.x1 // 3, whole.x1),
        ):
            part = view.read(level, box).astype(int)
            assert np.abs(part - at_once[box.slices_in(whole)]).max() <= 1  # rounding of the last bit


@pytest.mark.parametrize("scale", [0.77, 0.31])
def test_a_scaled_picture_lies_where_the_picture_lay(job: Path, scale: float) -> None:
    """Colours are linear in x and y but for one channel: the middle of each pixel must have the colour of its place."""
    view = view_of(Picture.open(job), None, scale)
    found = view.read(0, view.layout.whole(0).box).astype(float)
    y = (np.arange(view.height) + 0.5) * 83 / view.height - 0.5
    x = (np.arange(view.width) + 0.5) * 150 / view.width - 0.5
    inner = slice(4, -4)
    assert np.abs(found[inner, inner, 0] - (30 + 200 * y / 83)[inner, None]).max() < 1.6
    assert np.abs(found[inner, inner, 1] - (30 + 200 * x / 150)[None, inner]).max() < 1.6


def test_bands_are_the_picture_from_top_to_bottom(job: Path) -> None:
    for most_bytes in (10**9, 3 * 150 * 5, 1):
        view = view_of(Picture.open(job))
        joined = np.concatenate([band.copy() for band in view.bands(most_bytes)])
        assert (joined == colours(150, 83)).all()


@pytest.mark.parametrize("region", [(0, 0, 151, 10), (-1, 0, 5, 5), (0, 80, 5, 4), (3, 3, 0, 5)])
def test_a_region_outside_the_picture_is_refused(job: Path, region: tuple[int, int, int, int]) -> None:
    with pytest.raises(ExportError, match="is not inside the picture of 150x83"):
        view_of(Picture.open(job), region)


@pytest.mark.parametrize("scale", [0, -1, 1.01, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused(job: Path, scale: float) -> None:
    with pytest.raises(ExportError, match="out of range"):
        view_of(Picture.open(job), None, scale)
