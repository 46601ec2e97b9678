"""Class maps that lie in files: labels that users bring, of any size, and maps that a map model invented."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.job_file import LATENTS
from cluster.words.class_labels import UNKNOWN, Meaning, meaning_of, shown_label
from cluster.words.legend import legend_of
from generation.models.contracts import ModelInfo
from generation.models.maps import Legend
from generation.places.cleaning import Cleaned, Voted
from generation.places.squares import ReadsIds, Remembered
from storage.fingerprint import stamp
from storage.geometry import Box, Canvas
from storage.label_files import LabelFile, LabelFileError, open_labels

if TYPE_CHECKING:
    import torch

VOTES = 3
"""Of 9 cells, that a class of a painted map needs to stay where the map is cleaned: lines one cell wide do."""


@dataclass(frozen=True)
class ImageMap:
    """Labels in a file, stretched over the canvas by nearest neighbour. Satisfies ClassMap.

    meaning: what the labels are for the model. cleaned: cells (latents) below which a speck goes; 0 keeps all.
    """

    labels: LabelFile
    meaning: Meaning
    canvas: Canvas
    cleaned: int = 0

    def check(self) -> None:
        """Read all of the map. Raises SpecError for the first label that means nothing, with its place."""
        try:
            bad = _first_unknown(self.labels.path, self.meaning, stamp(self.labels.path))
        except LabelFileError as error:
            raise SpecError(f"class map {error}") from None
        if bad is not None:
            raise SpecError(self._said(*bad))

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64: the class of the map's pixel under each latent's centre."""
        import torch

        return torch.from_numpy(self._source.ids(box).astype(np.int64))

    def ids(self, box: Box) -> NDArray[np.int16]:
        """(h, w) ids of a box that may wrap, before any cleaning."""
        rows = _nearest(box.y0, box.y1, self.canvas.height, self.labels.height)
        columns = _nearest(box.x0, box.x1, self.canvas.width, self.labels.width)
        try:
            labels = self.labels.sample(rows, columns)
        except LabelFileError as error:
            raise SpecError(f"class map {error}") from None
        ids = self.meaning.ids(labels)
        if (ids == UNKNOWN).any():
            y, x = np.argwhere(ids == UNKNOWN)[0]
            raise SpecError(self._said(int(columns[x]), int(rows[y]), int(labels[y, x])))
        return ids

    @cached_property
    def _source(self) -> ReadsIds:
        voted = Voted(self, self.canvas, VOTES)
        return Remembered(Cleaned(voted, self.canvas, self.cleaned) if self.cleaned else self, self.canvas)

    def _said(self, x: int, y: int, label: int) -> str:
        """What is wrong with a label."""
        shown = shown_label(label, self.labels.colours)
        return f"class map {self.labels.path} holds {shown} (first at x {x}, y {y}){self.meaning.otherwise}"


def image_map(spec: JobSpec, info: ModelInfo, canvas: Canvas) -> ImageMap:
    """The map that a spec names, for a model. Raises SpecError where a file cannot be read; looks at no pixel."""
    assert spec.classes is not None
    labels, legend = opened(spec.classes), legend_of(info)
    return ImageMap(labels, meaning_of(labels, legend, spec.class_labels), canvas, spec.clean_map)


def opened(path: Path) -> LabelFile:
    """The labels in a file. Raises SpecError where there are none."""
    try:
        return open_labels(path)
    except LabelFileError as error:
        raise SpecError(f"class map {error}") from None


@lru_cache(maxsize=256)
def _first_unknown(path: Path, meaning: Meaning, key: str) -> tuple[int, int, int] | None:
    """(x, y, label) of the first pixel, row by row, whose label means nothing. key: changes with the file."""
    del key
    labels = open_labels(path)
    found: tuple[int, int, int] | None = None
    for box in labels.boxes():
        if found is not None and box.y0 > found[0]:
            break
        part = labels.read(box)
        unknown = meaning.ids(part) == UNKNOWN
        if unknown.any():
            y, x = np.argwhere(unknown)[0]
            here = box.y0 + int(y), box.x0 + int(x), int(part[y, x])
            found = here if found is None else min(found, here)
    return None if found is None else (found[1], found[0], found[2])


class ReadsLatents(Protocol):
    """Where a map's planes are. ArrayStore is one."""

    def read_box(self, name: str, channels: slice, box: Box, canvas: Canvas) -> NDArray[Any]:
        """(C, h, w) of a box that may wrap."""


@dataclass(frozen=True)
class InventedMap:
    """The classes of a finished map job: planes of cells, each `cell` x `cell` latents. Satisfies ClassMap.

    cleaned: cells below which a speck goes; 0 keeps all.
    """

    store: ReadsLatents
    cells: Canvas
    canvas: Canvas
    cell: int
    legend: Legend
    cleaned: int = 0

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64: the class of each latent's cell."""
        import torch

        rows = self._cells(box.y0, box.y1, self.canvas.height, self.canvas.topology.wraps_y)
        columns = self._cells(box.x0, box.x1, self.canvas.width, self.canvas.topology.wraps_x)
        ids = np.empty(box.shape, np.int64)
        for y, row in _runs(rows):
            for x, column in _runs(columns):
                home = Box(int(row[0]), int(row[-1]) + 1, int(column[0]), int(column[-1]) + 1)
                ids[np.ix_(y, x)] = self._source.ids(home)[np.ix_(row - home.y0, column - home.x0)]
        return torch.from_numpy(ids)

    def _cells(self, low: int, high: int, length: int, wraps: bool) -> NDArray[np.int64]:
        places = np.arange(low, high)
        return (places % length if wraps else places) // self.cell

    @cached_property
    def _source(self) -> ReadsIds:
        return Remembered(Cleaned(self, self.cells, self.cleaned), self.cells) if self.cleaned else self

    def ids(self, home: Box) -> NDArray[np.uint8]:
        """The class ids of a box of cells, before any cleaning; its neighbours are read too, as the legend's votes
        need them.
        """
        seen = self.cells.clip(home.expanded(1))
        planes = self.store.read_box(LATENTS, slice(0, len(self.legend.names)), seen, self.cells)
        return self.legend.ids(planes)[home.slices_in(seen)]


def _runs(cells: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """(places, their cells) of each stretch in which cells ascend: one, unless the box wraps."""
    starts = np.flatnonzero(np.diff(cells) < 0) + 1
    for places in np.split(np.arange(len(cells)), starts):
        yield places, cells[places]


def _nearest(low: int, high: int, length: int, pixels: int) -> NDArray[np.int64]:
    return ((np.arange(low, high) % length) * 2 + 1) * pixels // (2 * length)
