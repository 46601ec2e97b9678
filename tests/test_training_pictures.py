"""A user's own pictures: folders and Parquet, with class maps and without, and what is wrong with them."""

import io
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
from PIL import Image

from generation.training import pictures
from generation.training.classes import Classes
from generation.training.crops import CANONICAL, MARGIN, NO_CLASS, CropSets, coarsened
from generation.training.pictures import PictureError, picture_sets
from generation.training.shelves import folder_shelf, optional_package, parquet_shelf

SIDE = 64
TWO = Classes(("sea", "land"), ("#000080", "#008000"))
SIZES = [(64, 64), (72, 100), (131, 67), (90, 90)]


def picture(index: int) -> Image.Image:
    height, width = SIZES[index % len(SIZES)]
    return Image.fromarray(synthetic.smooth_noise(np.random.default_rng(index), height, width))


def halves(index: int) -> np.ndarray[Any, Any]:
    """Sea on the left, land on the right."""
    height, width = SIZES[index % len(SIZES)]
    ids = np.zeros((height, width), np.uint8)
    ids[:, width // 2 :] = 1
    return ids


def folder_of(path: Path, number: int = 8) -> Path:
    path.mkdir()
    for index in range(number):
        picture(index).save(path / f"p{index}.{('png', 'jpg', 'webp')[index % 3]}")
    return path


def with_maps(folder: Path, number: int = 8) -> Path:
    """Ids under maps/ for even pictures, colours beside the odd ones."""
    (folder / "maps").mkdir()
    palette = TWO.palette()
    for index in range(number):
        ids = halves(index)
        if index % 2:
            Image.fromarray(palette[ids]).save(folder / f"p{index}.classes.png")
        else:
            Image.fromarray(ids).save(folder / "maps" / f"p{index}.png")
    return folder


def draw_all(sets: CropSets, number: int = 40) -> None:
    for source in (sets.training, sets.held_out):
        random = np.random.default_rng(0)
        for _ in range(number):
            crop = source.draw(random, 8, 6)
            assert crop.pixels.shape == (64, 48, 3)
            assert (crop.classes is None) == (not len(source.classes))


def test_a_folder_without_maps_gives_crops_without_classes(tmp_path: Path) -> None:
    sets = picture_sets(folder_shelf(folder_of(tmp_path / "p")), Classes(), SIDE)
    draw_all(sets)


def test_class_maps_are_ids_or_colours_and_their_names_are_the_pictures(tmp_path: Path) -> None:
    shelf = folder_shelf(with_maps(folder_of(tmp_path / "p")))
    assert len(shelf.names) == 8
    sets = picture_sets(shelf, TWO, SIDE)
    draw_all(sets)
    crop = sets.training.draw(np.random.default_rng(1), 8, 8)
    assert crop.classes is not None
    ids = crop.classes[MARGIN:-MARGIN, MARGIN:-MARGIN]
    assert set(np.unique(ids)) <= {0, 1}
    assert (np.diff(ids.astype(int), axis=1) >= 0).all()
    plane = coarsened(crop.classes, CANONICAL, np.random.default_rng(0))
    assert plane.shape == (8, 8)


def test_a_picture_without_a_map_among_others_has_no_class(tmp_path: Path) -> None:
    folder = with_maps(folder_of(tmp_path / "p"))
    for path in (folder / "maps").iterdir():
        path.unlink()
    sets = picture_sets(folder_shelf(folder), TWO, SIDE)
    random = np.random.default_rng(0)
    found = [sets.training.draw(random, 8, 8).classes for _ in range(40)]
    nothing = [ids is not None and bool((ids == NO_CLASS).all()) for ids in found]
    assert any(nothing)
    assert not all(nothing)


def test_crops_lie_at_any_pixel_and_equal_the_picture(tmp_path: Path) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    row = np.arange(100, dtype=np.uint8)
    Image.fromarray(
        np.stack([row[:, None] + 0 * row, 0 * row[:, None] + row, 0 * row[:, None] + 0 * row], -1)
    ).save(folder / "a.png")
    sets = picture_sets(folder_shelf(folder), Classes(), SIDE)
    random = np.random.default_rng(0)
    corners = {tuple(sets.training.draw(random, 8, 8).pixels[0, 0, :2].tolist()) for _ in range(60)}
    assert {y % 8 for y, _ in corners} == set(range(8))
    assert max(y for y, _ in corners) <= 36


def encoded(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(path: Path, columns: dict[str, Sequence[Any]], group: int = 3) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table(columns), path, row_group_size=group)
    return path


@pytest.mark.parametrize("struct", [False, True])
def test_parquet_holds_bytes_or_structs_of_them(tmp_path: Path, struct: bool) -> None:
    images = [encoded(picture(index)) for index in range(8)]
    maps = [encoded(Image.fromarray(halves(index))) for index in range(7)] + [None]
    columns: dict[str, Sequence[Any]] = {"image": images, "classes": maps, "text": ["x"] * 8}
    if struct:
        columns["image"] = [{"bytes": content, "path": None} for content in images]
    shelf = parquet_shelf(write_parquet(tmp_path / "train.parquet", columns))
    assert shelf.names[4] == "train.parquet row 4"
    with shelf.picture(4) as found:
        assert np.array_equal(np.asarray(found), np.asarray(picture(4)))
    assert shelf.class_map(7) is None
    draw_all(picture_sets(shelf, TWO, SIDE))
    draw_all(picture_sets(shelf, Classes(), SIDE))


def test_parquet_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no column 'image', only picture"):
        parquet_shelf(write_parquet(tmp_path / "x.parquet", {"picture": [b"x"]}))
    (tmp_path / "y.parquet").write_bytes(b"no")
    with pytest.raises(PictureError, match="cannot be read as Parquet"):
        parquet_shelf(tmp_path / "y.parquet")


# --- what is wrong ------------------------------------------------------------------------------------------


def test_bad_pictures_are_named_in_one_line_and_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = with_maps(folder_of(tmp_path / "p"))
    (folder / "broken.png").write_bytes(b"no picture")
    Image.new("RGB", (63, 200)).save(folder / "narrow.jpg")
    Image.new("RGB", (80, 80)).save(folder / "q.png")
    Image.new("L", (40, 80)).save(folder / "maps" / "q.png")
    with caplog.at_level(logging.WARNING):
        draw_all(picture_sets(folder_shelf(folder), TWO, SIDE))
    assert len(caplog.messages) == 1
    assert "skipped 3 of 11 pictures: broken.png (cannot be read" in caplog.messages[0]
    assert "narrow.jpg (63 x 200 pixels, smaller than the crop of 64 x 64)" in caplog.messages[0]
    assert "q.png (its class map has 40 x 80 pixels, not 80 x 80)" in caplog.messages[0]


def test_a_picture_that_was_taken_sideways_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (70, 120)).save(tmp_path / "a.jpg", exif=exif)
    source = picture_sets(folder_shelf(tmp_path), Classes(), SIDE).training
    assert source.draw(np.random.default_rng(0), 8, 15).pixels.shape == (64, 120, 3)


def test_half_a_picture_is_named_once_when_it_is_opened(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(tmp_path / "p", 6)
    whole = (folder / "p0.png").read_bytes()
    (folder / "p0.png").write_bytes(whole[: len(whole) // 2])
    with caplog.at_level(logging.WARNING):
        draw_all(picture_sets(folder_shelf(folder), Classes(), SIDE), 100)
    assert [message.partition(":")[0] for message in caplog.messages] == ["skipped p0.png"]


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (np.full((64, 64), 7, np.uint8), "the id 7, and there are 2"),
        (np.zeros((64, 64, 3), np.uint8), "#000000"),
    ],
)
def test_wrong_class_maps_are_named(
    tmp_path: Path, ids: np.ndarray[Any, Any], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "p"
    folder.mkdir()
    picture(0).save(folder / "a.png")
    Image.fromarray(ids).save(folder / "a.classes.png")
    sets = picture_sets(folder_shelf(folder), TWO, SIDE)
    with pytest.raises(PictureError, match="none of the 1 pictures can be read"):
        sets.training.draw(np.random.default_rng(0), 8, 8)
    assert words in caplog.text


def test_no_picture_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is no folder"):
        folder_shelf(tmp_path / "none")
    with pytest.raises(PictureError, match="holds no picture"):
        folder_shelf(tmp_path)
    Image.new("RGB", (10, 10)).save(tmp_path / "a.png")
    with pytest.raises(PictureError, match="no picture is left to learn from: a.png"):
        picture_sets(folder_shelf(tmp_path), Classes(), SIDE)


def test_classes_without_a_single_map_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no picture has a class map"):
        picture_sets(folder_shelf(folder_of(tmp_path / "p")), TWO, SIDE)


# --- the split, memory --------------------------------------------------------------------------------------


def test_a_tenth_is_held_out_by_name_and_stays_so_when_pictures_come_and_go() -> None:
    names = {index: f"picture-{index}.png" for index in range(1000)}
    training, held_out = pictures.split(names)
    assert sorted(training + held_out) == list(names)
    assert 70 < len(held_out) < 130
    fewer = {index: name for index, name in names.items() if index % 2}
    assert set(pictures.split(fewer)[1]) == {index for index in held_out if index % 2}


@pytest.mark.parametrize("number", [2, 3, 5])
def test_each_side_of_a_small_split_has_a_picture(number: int) -> None:
    training, held_out = pictures.split({index: f"{index}.png" for index in range(number)})
    assert training
    assert held_out
    assert not set(training) & set(held_out)


def test_few_pictures_are_kept_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "KEPT_BYTES", 50_000)
    source = picture_sets(folder_shelf(folder_of(tmp_path / "p", 20)), Classes(), SIDE).training
    assert isinstance(source, pictures.PictureCrops)
    random = np.random.default_rng(0)
    for _ in range(100):
        source.draw(random, 8, 8)
        assert sum(pictures.size(*pair) for pair in source.kept.values()) <= 50_000
    assert 1 <= len(source.kept) <= 4


def test_a_missing_package_says_what_to_install() -> None:
    with pytest.raises(OSError, match="reading needs the package a-b: pip install a-b"):
        optional_package("no_such_module", "a-b", "reading")
