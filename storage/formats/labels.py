"""OME-Zarr labels: the class map beside the image, level for level. Knows class ids; knows no model and no latent.

    FOLDER/image.zarr/labels/zarr.json            the list of labels: "classes"
    FOLDER/image.zarr/labels/classes/zarr.json    multiscales, the names and colours of the classes
    FOLDER/image.zarr/labels/classes/LEVEL/...    a Multiscale y, x: class id + 1, and 0 where there is no class

Of each 2 x 2 pixels the next level keeps the upper left: [y, x] of level n is [2^n y, 2^n x] of level 0. So no level
has a class that level 0 has not, and which task wrote a level does not show.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.arrays import METADATA
from storage.formats.multiscale import OME_VERSION, Multiscale, write_group
from storage.formats.ome_zarr import image_root
from storage.geometry import Box
from storage.pyramid import PyramidLayout, PyramidTask

NAME = "classes"
MOST_CLASSES = 254
"""Ids 0 to 253: what a byte holds, without the 0 that stands for no class here and the 255 that does in pictures."""

Legend = tuple[tuple[str, str], ...]
"""(name, "#rrggbb") of each class, in the order of their ids."""


@dataclass(frozen=True)
class LabelPyramid:
    """The class labels in a job folder."""

    folder: Path
    layout: PyramidLayout
    legend: Legend

    def __post_init__(self) -> None:
        if not 1 <= len(self.legend) <= MOST_CLASSES:
            raise ValueError(
                f"{len(self.legend)} classes cannot be labelled; a byte has room for {MOST_CLASSES}"
            )

    @property
    def levels(self) -> Multiscale:
        return Multiscale(labels_root(self.folder) / NAME, self.layout)

    def create(self) -> None:
        """Make what all writers share; harmless when repeated."""
        write_group(labels_root(self.folder), {"ome": {"version": OME_VERSION, "labels": [NAME]}})
        self.levels.create({"ome": self._attributes()})

    def write_superblock(self, task: PyramidTask, values: NDArray[np.uint8]) -> None:
        """Write every level of a task from the (height, width) label values of `layout.reads(task)`."""
        start = self.layout.reads(task)
        if values.dtype != np.uint8 or values.shape != start.box.shape:
            raise ValueError(
                f"{task} takes uint8 labels of shape {start.box.shape}, not {values.dtype} {values.shape}"
            )
        for place in self.layout.writes(task):
            if place.level < self.layout.levels:
                step = 2 ** (place.level - start.level)
                self.levels.write(place.level, place.box, values[::step, ::step])

    def files(self, level: int, box: Box) -> list[Path]:
        """The files that hold a box of a level, written or not; none of a level below one tile."""
        return self.levels.shards(level, box) if level < self.layout.levels else []

    def own_files(self) -> list[Path]:
        """The files that `create` writes."""
        return [labels_root(self.folder) / METADATA, *self.levels.metadata_files()]

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """(height, width) label values of a box. Raises DamagedData where some of them are missing."""
        return self.levels.read(level, box)

    def finish(self) -> None:
        """Raises DamagedData, naming what is missing, where the labels are not complete."""
        self.levels.check_complete()

    def _attributes(self) -> dict[str, Any]:
        values = range(1, len(self.legend) + 1)
        colours = [[*bytes.fromhex(colour[1:]), 255] for _, colour in self.legend]
        return {
            "version": OME_VERSION,
            "multiscales": [self.levels.description(NAME, "upper left of each 2x2")],
            "image-label": {
                "colors": [
                    {"label-value": value, "rgba": rgba} for value, rgba in zip(values, colours, strict=True)
                ],
                "properties": [
                    {"label-value": value, "class": name}
                    for value, (name, _) in zip(values, self.legend, strict=True)
                ],
                "source": {"image": "../../"},
            },
        }


def labels_root(folder: Path) -> Path:
    """The group of all labels in a job's folder."""
    return image_root(folder) / "labels"


def label_values(ids: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """Class ids as they are stored: one more, and 0 for the negative ids of no class."""
    values: NDArray[np.uint8] = (np.maximum(ids, -1) + 1).astype(np.uint8)
    return values


def enlarged(values: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
    """(h, w) -> (h * scale, w * scale): each value on a square of pixels."""
    return values.repeat(scale, axis=0).repeat(scale, axis=1)
