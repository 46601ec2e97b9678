"""Class maps that users bring: what labels mean, nearest neighbours, the first bad place, jobs, batches, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from cluster.spec.fields import SpecError
from cluster.words.class_labels import NO_CLASS, UNKNOWN, Meaning, Span, meaning_of, read_labels
from cluster.words.class_maps import ImageMap, opened
from storage.geometry import PLANE, TORUS, Box, Canvas
from storage.label_files import open_labels

LEGEND = (("Deep Sea", "#102030"), ("sand", "#ffeedd"), ("wood", "#008000"))
RANDOM = np.random.default_rng(8)


def png(path: Path, values: Any, mode: str | None = None) -> Path:
    Image.fromarray(np.asarray(values), mode).save(path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def open_map(path: Path, canvas: Canvas, labels: Path | None = None, clean: int = 0) -> ImageMap:
    found = opened(path)
    return ImageMap(found, meaning_of(found, LEGEND, labels), canvas, clean)


def ids_in(path: Path, labels: Path | None = None) -> np.ndarray:
    """Of every pixel, for a map as large as its canvas."""
    found = open_labels(path)
    canvas = Canvas(found.height, found.width)
    there = open_map(path, canvas, labels)
    there.check()
    return there.read(canvas.box).numpy()


# --- where pixels lie ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixels", [(1, 1), (3, 5), (40, 40), (64, 64), (211, 130)])
@pytest.mark.parametrize("topology", [PLANE, TORUS])
def test_each_latent_has_the_pixel_under_its_centre(
    pixels: tuple[int, int], topology: Any, tmp_path: Path
) -> None:
    painted = RANDOM.integers(0, 3, pixels).astype(np.uint8)
    canvas = Canvas(64, 48, topology)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, painted, tile=(16, 16), compression="deflate")
    there = open_map(path, canvas)
    box = canvas.clip(Box(-9, 70, -5, 60))
    wanted = np.empty(box.shape, np.int64)
    for y in range(box.y0, box.y1):
        for x in range(box.x0, box.x1):
            row = int((y % 64 + 0.5) * pixels[0] / 64)
            column = int((x % 48 + 0.5) * pixels[1] / 48)
            wanted[y - box.y0, x - box.x0] = painted[row, column]
    np.testing.assert_array_equal(there.read(box).numpy(), wanted)


def test_a_cleaned_map_has_no_specks_in_any_box(tmp_path: Path) -> None:
    painted = np.zeros((50, 90), np.uint8)
    painted[10:14, 10:14] = 1
    painted[30, 40:42] = 2
    painted[7, 70] = 1
    path, canvas = png(tmp_path / "a.png", painted), Canvas(50, 90)
    plain, clean = open_map(path, canvas), open_map(path, canvas, clean=6)
    np.testing.assert_array_equal(plain.read(canvas.box).numpy(), painted)
    wanted = painted.copy()
    wanted[30, 40:42] = wanted[7, 70] = 0
    np.testing.assert_array_equal(clean.read(canvas.box).numpy(), wanted)
    np.testing.assert_array_equal(clean.read(Box(5, 35, 38, 75)).numpy(), wanted[5:35, 38:75])


# --- what labels mean ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "int64"])
def test_ids_of_every_kind_of_label(dtype: str) -> None:
    meaning = Meaning((Span(1, 5, 0), Span(7, 7, 2), Span(100, 120, NO_CLASS)))
    values = [0, 1, 5, 6, 7, 100, 120, 121]
    wanted = [UNKNOWN, 0, 0, UNKNOWN, 2, NO_CLASS, NO_CLASS, UNKNOWN]
    for extra in ([], [255] if dtype == "uint8" else [30_000] if dtype == "int16" else [2**31 + 9 - 2**30]):
        labels = np.array([values + extra], dtype)
        assert meaning.ids(labels).tolist() == [wanted + [UNKNOWN] * len(extra)]
    many = np.resize(np.array(values, dtype), (700, 100))
    assert meaning.ids(many)[0, :8].tolist() == wanted


FILES = {
    "a.yaml": "10: evergreen\n".replace("evergreen", "WOOD")
    + "1-5: deep sea\n7: 1\nnodata: none\ndefault: sand\n",
    "b.json": json.dumps({"10": "wood", "1-5": "deep sea", "7": 1, "nodata": None, "default": "sand"}),
    "c.csv": "name,label,class\nx,10,wood\ny,1-5,deep sea\nz,7,1\nn,nodata,none\nd,default,sand\n",
    "d.csv": "10,wood\n1 - 5,Deep Sea\n\n7,sand\nnodata,none\ndefault,1\n",
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_labels_mean(name: str, tmp_path: Path) -> None:
    told = written(tmp_path / name, FILES[name])
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.array([[10, 1, 5, 7, -3, 999]], np.int16),
        extratags=[(42113, 2, 3, "-3", True)],
    )
    assert ids_in(tmp_path / "a.tif", told).tolist() == [[2, 0, 0, 1, NO_CLASS, 1]]


def test_no_data_is_no_class_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.array([[0, 1, 200]], np.uint8), extratags=[(42113, 2, 4, "200", True)]
    )
    assert ids_in(tmp_path / "a.tif").tolist() == [[0, 1, NO_CLASS]]
    told = written(tmp_path / "a.yaml", "0: sand\n1: sand\nnodata: wood\n")
    assert ids_in(tmp_path / "a.tif", told).tolist() == [[1, 1, 2]]
    told = written(tmp_path / "b.yaml", "0: sand\n1: sand\n200: deep sea\n")
    assert ids_in(tmp_path / "a.tif", told).tolist() == [[1, 1, 0]]


def test_colours_are_those_of_the_model_or_of_the_file(tmp_path: Path) -> None:
    colours = [[(0x10, 0x20, 0x30, 255), (0xFF, 0xEE, 0xDD, 9), (0, 0x80, 0, 255), (1, 2, 3, 0)]]
    path = png(tmp_path / "a.png", np.array(colours, np.uint8))
    assert ids_in(path).tolist() == [[0, 1, 2, NO_CLASS]]
    told = written(tmp_path / "a.yaml", '"#102030": wood\n"#FFEEDD": wood\ndefault: sand\n')
    assert ids_in(path, told).tolist() == [[2, 2, 1, NO_CLASS]]
    other = png(tmp_path / "b.png", np.array([[(1, 2, 3)]], np.uint8))
    with pytest.raises(
        SpecError, match=r"holds the colour #010203 \(first at x 0, y 0\), which is not among the model"
    ):
        ids_in(other)
    numbers = written(tmp_path / "b.yaml", "1: wood\n")
    with pytest.raises(SpecError, match=r"b.yaml says what numbers mean, but class map .* holds colours"):
        ids_in(other, numbers)
    with pytest.raises(SpecError, match=r"a.yaml says what colours mean, but class map .* holds numbers"):
        ids_in(png(tmp_path / "c.png", np.zeros((2, 2), np.uint8)), told)


def named_labels(folder: Path, values: Any, names: dict[int, str]) -> Path:
    group = zarr.create_group(folder)
    array = group.create_array("0", shape=np.shape(values), chunks=(4, 4), dtype="uint8")
    array[:] = values
    properties = [{"label-value": value, "class": name} for value, name in names.items()]
    about = {"multiscales": [{"datasets": [{"path": "0"}]}], "image-label": {"properties": properties}}
    group.attrs["ome"] = about
    return folder


def test_labels_that_tell_their_names_need_no_file(tmp_path: Path) -> None:
    path = named_labels(tmp_path / "a", [[0, 1, 9]], {1: "WOOD", 9: "deep sea"})
    assert ids_in(path).tolist() == [[NO_CLASS, 2, 0]]
    other = named_labels(tmp_path / "b", [[0, 1, 9]], {1: "wod", 9: "deep sea"})
    with pytest.raises(SpecError, match="calls label 1 'wod'.*did you mean 'wood'.*--class-labels"):
        ids_in(other)


def test_the_first_bad_place_of_a_map_in_chunks_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("storage.label_files.chunks.SMALLEST_BOX", 100)
    values = np.zeros((64, 64), np.uint8)
    values[40, 3], values[30, 60], values[31, 2] = 9, 7, 8
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(16, 16), compression="deflate")
    with pytest.raises(
        SpecError, match=r"holds label 7 \(first at x 60, y 30\); the model knows 0 to 2: paint"
    ):
        ids_in(tmp_path / "a.tif")
    told = written(tmp_path / "a.yaml", "0-6: sand\n8: wood")
    with pytest.raises(
        SpecError, match=r"holds label 7 \(first at x 60, y 30\), which .*a.yaml does not name; add it"
    ):
        ids_in(tmp_path / "a.tif", told)


def test_a_map_is_read_whole_once_and_again_when_it_changes(tmp_path: Path, monkeypatch) -> None:
    path = png(tmp_path / "a.png", np.zeros((9, 9), np.uint8))
    canvas = Canvas(9, 9)
    open_map(path, canvas).check()
    with monkeypatch.context() as patched:
        patched.setattr("cluster.words.class_maps.open_labels", lambda *_: pytest.fail("read again"))
        there = ImageMap(open_labels(path), meaning_of(open_labels(path), LEGEND, None), canvas)
        there.check()
    png(path, np.full((9, 10), 77, np.uint8))
    with pytest.raises(SpecError, match="label 77"):
        open_map(path, canvas).check()


BROKEN = [
    ("a.yaml", "", "a.yaml is empty; write lines such as `10: Deep Sea`"),
    ("a.csv", "", "a.csv is empty"),
    ("a.json", "", "a.json is empty"),
    ("a.yaml", "1: [", r"a.yaml is not YAML \(line \d"),
    ("a.yaml", "- 1\n", "a.yaml holds no `label: class` lines"),
    ("a.json", "[1]", "a.json is no object"),
    ("a.json", "{", "a.json is not JSON"),
    ("a.csv", "1\n", "'1' is no row of label and class"),
    ("a.csv", "1,wood,3\n2,sand\n", "'2,sand' is no row"),
    ("a.txt", "1: wood", "a.txt is no file of labels; give one that ends in .yaml"),
    ("a.yaml", "1: wod", "1 is 'wod', which the model does not know; did you mean 'wood'"),
    ("a.yaml", "1: zzzzzz", "1 is 'zzzzzz', which the model does not know; it knows deep sea, sand, wood"),
    ("a.yaml", "1: 3", "1 is class 3; the model knows 0 to 2"),
    ("a.yaml", "1: true", "1 is 'True', which"),
    ("a.yaml", "1: [wood]", "which the model does not know"),
    ("a.yaml", "1.5: wood", "'1.5' is no label"),
    ("a.yaml", "true: wood", "'True' is no label"),
    ("a.yaml", "5-1: wood", "the range 5-1 ends before it begins"),
    ("a.yaml", "1: wood\n1: sand", "says twice what 1 means"),
    ("a.json", '{"1": "wood", "1": "sand"}', "says twice what 1 means"),
    ("a.yaml", "1-5: wood\n5-9: sand", "says twice what label 5 means"),
    ("a.yaml", "Default: wood\ndefault: sand", "says default twice"),
    ("a.yaml", '1: wood\n"#102030": sand', "names numbers and colours"),
    ("a.yaml", '"#10203": sand', "'#10203' is no label"),
    ("a.yaml", "? [1, 2]\n: wood", "is not YAML|is no label"),
]


@pytest.mark.parametrize(("name", "text", "message"), BROKEN)
def test_broken_files_of_labels(name: str, text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message) as refused:
        read_labels(written(tmp_path / name, text), LEGEND)
    assert "\n" not in str(refused.value) and name in str(refused.value)


def test_files_of_labels_that_are_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="none.yaml does not exist"):
        read_labels(tmp_path / "none.yaml", LEGEND)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SpecError, match="is not text in UTF-8"):
        read_labels(tmp_path / "a.yaml", LEGEND)
    (tmp_path / "b.yaml").mkdir()
    with pytest.raises(SpecError, match="b.yaml is a folder"):
        read_labels(tmp_path / "b.yaml", LEGEND)


def test_an_unknown_label_met_by_a_worker_is_an_error_of_its_own(tmp_path: Path) -> None:
    path = png(tmp_path / "a.png", np.array([[0, 9]], np.uint8))
    with pytest.raises(SpecError, match=r"label 9 \(first at x 1, y 0\)"):
        open_map(path, Canvas(1, 2)).read(Box(0, 1, 0, 2))


def test_a_map_that_is_damaged_while_a_job_runs_is_said_in_one_line(tmp_path: Path) -> None:
    values = RANDOM.integers(0, 3, (200, 200), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", values, tile=(64, 64), compression="deflate")
    there = open_map(tmp_path / "a.tif", Canvas(200, 200))
    (tmp_path / "a.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:-900])
    with pytest.raises(SpecError, match=r"class map .*a\.tif is cut off"):
        there.read(Box(150, 200, 150, 200))
