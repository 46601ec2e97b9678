"""What a picture of labels offers, whatever file it lies in, and how its pixels become labels. Knows no file format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box

NONE = -1
"""The label of a pixel that is transparent."""
LARGEST = 2**63 - 1
"""The largest label that can be used."""

LabelArray: TypeAlias = NDArray[np.integer[Any]]


class LabelFileError(ValueError):
    """A file that gives no labels; the message is one line with the file, what is wrong and what to change."""


class LabelFacts(Protocol):
    """path: the file, as messages call it. colours: whether the labels are colours. nodata: the label that the file
    says is none, or None. names: label -> class name, where the file tells of them; 0 is then no class.
    """

    @property
    def path(self) -> Path: ...
    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def colours(self) -> bool: ...
    @property
    def nodata(self) -> int | None: ...
    @property
    def names(self) -> Mapping[int, str]: ...


class LabelFile(LabelFacts, Protocol):
    """A picture of labels: whole numbers, or colours packed as 0xRRGGBB."""

    def read(self, box: Box) -> LabelArray:
        """(h, w) labels of a box inside the picture. Raises LabelFileError where the file is damaged there."""

    def sample(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> LabelArray:
        """(len(rows), len(columns)) labels at the crossings; no more is held than what was asked and one chunk."""

    def boxes(self) -> Iterator[Box]:
        """Boxes that cut the picture as it is stored, row by row, for who reads all of it."""


def as_labels(
    pixels: NDArray[Any], path: Path, hidden: Collection[int] = (), shown: NDArray[np.bool_] | None = None
) -> LabelArray:
    """(h, w), or (h, w, bands) of bytes, as (h, w) labels: bands are grey and alpha, red, green, blue, and alpha.

    hidden: labels that are NONE. shown: (h, w), where pixels are not. With either, the type holds NONE.
    """
    labels = _packed(pixels, path)
    if not hidden and shown is None:
        return _whole(labels, path)
    limits = np.iinfo(labels.dtype)
    none = np.isin(
        labels, np.array([each for each in hidden if limits.min <= each <= limits.max], labels.dtype)
    )
    if shown is not None:
        none |= ~shown
    if pixels.dtype.kind == "i" and (labels[~none] == NONE).any():
        raise LabelFileError(
            f"{path} holds the label {NONE}, which stands for transparent pixels; give it another number"
        )
    whole = _whole(np.where(none, labels.dtype.type(0), labels), path)
    return np.where(none, NONE, whole.astype(with_none(whole.dtype)))


def with_none(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest type that holds a type's labels and NONE."""
    return dtype if dtype.kind == "i" else np.promote_types(dtype, np.int8)


def no_data_values(told: object, dtype: np.dtype[Any], path: Path) -> tuple[int, ...]:
    """The values of a type that a file tells to be no data: a number, a text of one, or a list of them.

    Numbers that no pixel can hold (NaN, fractions, others beyond the type) are left out, for they hide nothing.
    Raises LabelFileError for what is no number.
    """
    parts = told if isinstance(told, (list, tuple)) else (told,)
    limits = np.iinfo(np.uint8 if dtype.kind == "b" else dtype)
    numbers = [_number(part, path) for part in parts]
    values = [int(number) for number in numbers if isinstance(number, int) or number.is_integer()]
    return tuple(dict.fromkeys(value for value in values if limits.min <= value <= limits.max))


def no_data_label(values: tuple[int, ...], bands: int) -> tuple[int | None, tuple[int, ...]]:
    """(the label that stands for no data, labels that are to be hidden so that it does), of pixels of so many bands.

    Of colours a value is that of every band. One value stands for itself; several, those beside transparency, and one
    that is larger than labels can be are hidden.
    """
    labels = tuple(value * (0x010101 if bands > 2 else 1) for value in values)
    if bands in (2, 4) or len(labels) > 1 or any(label > LARGEST for label in labels):
        return NONE, labels
    return next(iter(labels), None), ()


def check_upright(orientation: object, path: Path) -> None:
    """Refuse pictures that say of themselves that they are to be turned, or mirrored, before they are shown."""
    if orientation not in (None, 0, 1):
        raise LabelFileError(
            f"{path} is turned when it is shown (its orientation is {orientation}), and labels are not; save it upright"
        )


def check_single(pictures: int, path: Path) -> None:
    """Refuse files that hold several pictures: nothing says which of them is the labels."""
    if pictures > 1:
        raise LabelFileError(f"{path} holds {pictures} pictures; save the one with the labels alone")


def _packed(pixels: NDArray[Any], path: Path) -> NDArray[Any]:
    """(h, w) of the values of the one band, or of the bands as one number; NONE where alpha is 0."""
    if pixels.dtype.kind not in "iub":
        raise LabelFileError(
            f"{path} holds {pixels.dtype} values; labels are whole numbers: save it as integers"
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        one = pixels if pixels.ndim == 2 else pixels[..., 0]
        return one.astype(np.uint8) if one.dtype == np.bool_ else one
    bands = pixels.shape[2]
    if bands > 4 or pixels.dtype != np.uint8:
        raise LabelFileError(
            f"{path} has {bands} bands of {pixels.dtype}; give one band of labels, or three of 8 bits with colours"
        )
    wide = pixels.astype(np.int32)
    labels = wide[..., 0] if bands == 2 else wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return np.where(wide[..., -1] == 0, np.int32(NONE), labels) if bands in (2, 4) else labels


def _whole(labels: NDArray[Any], path: Path) -> LabelArray:
    """Labels of a type that int64 holds."""
    if labels.dtype != np.uint64:
        return labels
    if labels.size and labels.max() > LARGEST:
        raise LabelFileError(
            f"{path} holds the label {labels.max()}; the largest that can be used is 2**63 - 1"
        )
    return labels.astype(np.int64)


def _number(told: object, path: Path) -> int | float:
    """NaN for an empty text. Raises LabelFileError."""
    if isinstance(told, (int, float)):
        return told
    text = (told.decode("latin-1") if isinstance(told, bytes) else str(told)).strip("\0 ")
    try:
        return int(text) if re.fullmatch(r"[+-]?\d+", text) else float(text or "nan")
    except ValueError:
        raise LabelFileError(
            f"{path} says that no data is {text[:40]!r}, which is no number; give a whole number, or take it out"
        ) from None
