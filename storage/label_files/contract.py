"""What a picture of labels offers, whatever file it lies in, and how its pixels become labels. Knows no file format."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box

NONE = -1
"""The label of a pixel that is transparent."""

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


def as_labels(pixels: NDArray[Any], path: Path) -> LabelArray:
    """(h, w), or (h, w, bands) of bytes, as (h, w) labels: bands are grey and alpha, red, green, blue, and alpha."""
    if pixels.dtype.kind not in "iub":
        raise LabelFileError(
            f"{path} holds {pixels.dtype} values; labels are whole numbers: save it as integers"
        )
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return _whole(pixels if pixels.ndim == 2 else pixels[..., 0], path)
    bands = pixels.shape[2]
    if bands > 4 or pixels.dtype != np.uint8:
        raise LabelFileError(
            f"{path} has {bands} bands of {pixels.dtype}; give one band of labels, or three of 8 bits with colours"
        )
    wide = pixels.astype(np.int32)
    labels = wide[..., 0] if bands == 2 else wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
    return np.where(wide[..., -1] == 0, np.int32(NONE), labels) if bands in (2, 4) else labels


def with_none(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The smallest type that holds a type's labels and NONE."""
    return dtype if dtype.kind == "i" else np.promote_types(dtype, np.int8)


def without(labels: LabelArray, hidden: NDArray[np.bool_] | Collection[int], path: Path) -> LabelArray:
    """The labels in a type that holds NONE, which stands for those in `hidden`: pixels, or labels."""
    if not isinstance(hidden, np.ndarray):
        if not hidden:
            return labels
        hidden = np.isin(labels, list(hidden))
    if labels.dtype.kind == "i" and (labels[~hidden] == NONE).any():
        raise LabelFileError(
            f"{path} holds the label {NONE}, which stands for transparent pixels; give it another number"
        )
    return np.where(hidden, NONE, labels.astype(with_none(labels.dtype)))


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


def _whole(labels: NDArray[Any], path: Path) -> LabelArray:
    """Labels of a signed or an unsigned type that int64 holds."""
    if labels.dtype == np.uint64:
        if labels.size and labels.max() > np.iinfo(np.int64).max:
            raise LabelFileError(
                f"{path} holds the label {labels.max()}; the largest that can be used is 2**63 - 1"
            )
        return labels.astype(np.int64)
    return labels.astype(np.uint8) if labels.dtype == np.bool_ else labels
