"""The value that a file declares as no data: how TIFF and Zarr write it, and that it goes before what labels imply."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

from cluster.words.class_labels import NO_CLASS, meaning_of
from storage.geometry import Box
from storage.label_files import NONE, LabelFile, LabelFileError, open_labels

LABELS = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64) % 5
CORNER = np.zeros((64, 64), bool)
CORNER[50:, 50:] = True
CLASSES = tuple((f"class {index}", f"#0{index:x}0{index:x}0{index:x}") for index in range(12))


def whole(found: LabelFile) -> np.ndarray:
    return found.read(Box(0, found.height, 0, found.width)).astype(int)


def classes_of(found: LabelFile, given: Path | None = None) -> np.ndarray:
    return meaning_of(found, CLASSES, given).ids(found.read(Box(0, found.height, 0, found.width)))


def without_class(wanted: np.ndarray, *none: int) -> np.ndarray:
    return np.where(np.isin(wanted, none), NO_CLASS, wanted.astype(int))


def tag(told: str) -> list[tuple]:
    return [(42113, 2, len(told) + 1, told, True)]


def tiff(path: Path, labels: np.ndarray, told: Any, **settings: Any) -> Path:
    tifffile.imwrite(path, labels, metadata=None, extratags=tag(str(told)), **settings)
    return path


def v2(path: Path, labels: np.ndarray, told: Any, name: str = "_FillValue", version: int = 2) -> Path:
    zarr.create_array(path, data=labels, attributes={name: told}, zarr_format=version)
    return path


def v3(path: Path, labels: np.ndarray, told: Any) -> Path:
    return v2(path, labels, told, "missing_value", 3)


DECLARED: dict[str, Callable[[Path, np.ndarray, Any], Path]] = {"tiff": tiff, "zarr 2": v2, "zarr 3": v3}


# --- it goes before ids, colours and names, but not before a file of labels ------------------------------------------


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize("told", [0, 3])
def test_a_value_that_is_also_an_id_is_no_class(kind: str, told: int, tmp_path: Path) -> None:
    path = DECLARED[kind](tmp_path / "mask", LABELS, told)
    np.testing.assert_array_equal(classes_of(open_labels(path)), without_class(LABELS, told))


@pytest.mark.parametrize("kind", DECLARED)
def test_a_file_of_labels_may_name_it(kind: str, tmp_path: Path) -> None:
    path, given = DECLARED[kind](tmp_path / "mask", LABELS, 3), tmp_path / "labels.yaml"
    given.write_text("0: 0\n1: 1\n2: 2\n3: 7\n4: 4\nnodata: 9\n")
    np.testing.assert_array_equal(classes_of(open_labels(path), given), np.where(LABELS == 3, 7, LABELS))
    given.write_text("0: 0\n1: 1\n2: 2\n4: 4\nnodata: 9\n")
    np.testing.assert_array_equal(classes_of(open_labels(path), given), np.where(LABELS == 3, 9, LABELS))


def test_a_colour_of_the_legend_may_be_no_data(tmp_path: Path) -> None:
    tiff(tmp_path / "a.tif", np.stack([LABELS] * 3, axis=2), 3, photometric="rgb")
    v2(tmp_path / "b", np.stack([LABELS] * 3), 3)
    for name in ("a.tif", "b"):
        np.testing.assert_array_equal(classes_of(open_labels(tmp_path / name)), without_class(LABELS, 3))


def test_a_label_with_a_name_may_be_no_data(tmp_path: Path) -> None:
    group = zarr.create_group(tmp_path / "a")
    group.create_array("0", data=np.array([[0, 1, 2]], np.uint8), attributes={"_FillValue": 2})
    names = [{"label-value": value, "class": f"class {value + 3}"} for value in (1, 2)]
    group.attrs["ome"] = {
        "multiscales": [{"datasets": [{"path": "0"}]}],
        "image-label": {"properties": names},
    }
    assert classes_of(open_labels(tmp_path / "a")).tolist() == [[NO_CLASS, 4, NO_CLASS]]


@pytest.mark.parametrize("version", [2, 3])
def test_a_fill_value_that_nobody_declares_is_no_data_unless_it_is_0(version: int, tmp_path: Path) -> None:
    for fill, wanted in ((0, 0), (3, NO_CLASS)):
        array = zarr.create_array(
            tmp_path / str(fill), shape=(64, 64), chunks=(50, 50), dtype="uint8", fill_value=fill, zarr_format=version
        )  # fmt: skip
        array[:50, :50] = LABELS[:50, :50]
        found = classes_of(open_labels(tmp_path / str(fill)))
        assert found[60, 60] == wanted
        np.testing.assert_array_equal(
            found[:50, :50], without_class(LABELS[:50, :50], *([fill] if fill else []))
        )


# --- how it is written -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize(
    ("told", "nodata"),
    [("3", 3), (3.0, 3), ("3.0", 3), ("255", 255), ("nan", None), ("NaN", None), ("-inf", None), ("", None), (-1, None),
     (256, None), (3.5, None), (2**64, None)],
)  # fmt: skip
def test_a_number_is_what_it_is_worth(kind: str, told: Any, nodata: int | None, tmp_path: Path) -> None:
    """What no pixel can hold is no no-data."""
    found = open_labels(DECLARED[kind](tmp_path / "mask", LABELS, told))
    assert found.nodata == nodata
    np.testing.assert_array_equal(
        classes_of(found), without_class(LABELS, *([] if nodata is None else [nodata]))
    )


@pytest.mark.parametrize("told", [[3], [3.0], [3, 3], [300, 3]])
@pytest.mark.parametrize("write", [v2, v3])
def test_a_list_of_one_value_is_that_value(told: list[float], write: Callable, tmp_path: Path) -> None:
    assert open_labels(write(tmp_path / "mask", LABELS, told)).nodata == 3


@pytest.mark.parametrize(
    "attributes",
    [{"missing_value": [3, 1]}, {"_FillValue": 3, "missing_value": 1.0}, {"_FillValue": [1], "missing_value": [3, 1]}],
)  # fmt: skip
def test_several_values_are_no_data_together(attributes: dict[str, Any], tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a", data=LABELS, attributes=attributes)
    found = open_labels(tmp_path / "a")
    assert found.nodata == NONE
    np.testing.assert_array_equal(classes_of(found), without_class(LABELS, 1, 3))


def test_an_attribute_without_a_value_says_nothing(tmp_path: Path) -> None:
    for name, attributes in (("a", {"_FillValue": None, "missing_value": 3}), ("b", {"_FillValue": None})):
        zarr.create_array(tmp_path / name, data=LABELS, attributes=attributes)
    assert open_labels(tmp_path / "a").nodata == 3 and open_labels(tmp_path / "b").nodata is None


@pytest.mark.parametrize("kind", DECLARED)
def test_what_is_no_number_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(LabelFileError, match="mask says that no data is 'sea', which is no number"):
        open_labels(DECLARED[kind](tmp_path / "mask", LABELS, "sea"))


@pytest.mark.parametrize("kind", DECLARED)
@pytest.mark.parametrize("told", [2**64 - 1, 2**63, 2**63 - 1])
def test_the_largest_values_of_64_bits(kind: str, told: int, tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint64)
    empty = open_labels(DECLARED[kind](tmp_path / "empty", labels, told))
    np.testing.assert_array_equal(classes_of(empty), LABELS)
    labels[CORNER] = told
    found = open_labels(DECLARED[kind](tmp_path / "mask", labels, told))
    np.testing.assert_array_equal(classes_of(found), np.where(CORNER, NO_CLASS, LABELS.astype(int)))
    given = tmp_path / "labels.yaml"
    given.write_text("0-4: 5\nnodata: 6\n")
    np.testing.assert_array_equal(classes_of(found, given), np.where(CORNER, 6, 5))
    labels[0, 0] = 2**63 + 7
    with pytest.raises(LabelFileError, match=rf"holds the label {2**63 + 7}; the largest"):
        whole(open_labels(DECLARED[kind](tmp_path / "other", labels, told)))


# --- together with masks and alpha -----------------------------------------------------------------------------------


def masked(path: Path, told: int | None, seen: np.ndarray, dtype: str = "uint8") -> Path:
    """Of four tiles of LABELS the second is left out; and a mask, 0 where nothing is seen."""
    labels = LABELS.astype(dtype)
    tiles = [labels[:32, :32], None, labels[32:, :32], labels[32:, 32:]]
    with tifffile.TiffWriter(path) as file:
        file.write(
            iter(tiles), shape=(64, 64), dtype=labels.dtype, tile=(32, 32), compression="deflate", metadata=None,
            extratags=[] if told is None else tag(str(told)),
        )  # fmt: skip
        file.write(seen, photometric="mask", subfiletype=4, metadata=None, compression="deflate")
    return path


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint64"])
@pytest.mark.parametrize("told", [None, 0, 3, 200])
def test_a_tile_that_is_left_out_under_a_mask_holds_the_fill_of_its_page(
    told: int | None, dtype: str, tmp_path: Path
) -> None:
    stored = LABELS.astype(int)
    stored[:32, 32:] = told or 0
    seen = ~CORNER
    seen[:16] = False
    wanted = np.where(seen, stored, NONE)
    found = open_labels(masked(tmp_path / "a.tif", told, seen, dtype))
    np.testing.assert_array_equal(whole(found), np.where(stored == told, NONE, wanted))
    np.testing.assert_array_equal(classes_of(found), np.where(stored == told, NO_CLASS, wanted))


@pytest.mark.parametrize("told", [-1, 2**64 - 1])
def test_what_looks_like_none_may_be_declared_under_a_mask(told: int, tmp_path: Path) -> None:
    labels = LABELS.astype(np.int16 if told < 0 else np.uint64)
    labels[:8] = told
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(labels, metadata=None, extratags=tag(str(told)))
        file.write(~CORNER, photometric="mask", subfiletype=4, metadata=None)
    wanted = np.where(CORNER, NONE, LABELS.astype(int))
    wanted[:8] = NONE
    np.testing.assert_array_equal(whole(open_labels(tmp_path / "a.tif")), wanted)


@pytest.mark.parametrize("bands", [2, 4])
def test_alpha_and_a_declared_value_are_both_no_data(bands: int, tmp_path: Path) -> None:
    pixels = np.stack([LABELS] * bands, axis=2)
    pixels[..., -1] = np.where(CORNER, 0, 255)
    photometric = {2: "minisblack", 4: "rgb"}[bands]
    tiff(
        tmp_path / "a.tif", pixels, 3, photometric=photometric, planarconfig="contig", extrasamples=["unassalpha"]
    )  # fmt: skip
    wanted = without_class(LABELS, 3)
    wanted[CORNER] = NO_CLASS
    np.testing.assert_array_equal(classes_of(open_labels(tmp_path / "a.tif")), wanted)
