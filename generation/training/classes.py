"""Knows class lists, and the Earth's twelve: names, ids (their order) and display colours. Knows no pictures."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CLASS_NAMES = (
    "deep ocean",
    "shallow sea",
    "ice",
    "tundra",
    "forest",
    "rainforest",
    "grassland",
    "savanna",
    "shrubland",
    "farmland",
    "desert",
    "mountains",
)
CLASS_ID = {name: index for index, name in enumerate(CLASS_NAMES)}
CLASS_COLOURS = (
    "#0b1d45",
    "#2f6fb0",
    "#f0f4f8",
    "#9a937c",
    "#2f5d34",
    "#0f4a1f",
    "#93a554",
    "#a8974c",
    "#b08a5c",
    "#b9b873",
    "#dcc49a",
    "#75604f",
)
SEA_CLASSES = (CLASS_ID["deep ocean"], CLASS_ID["shallow sea"])


@dataclass(frozen=True)
class Classes:
    """A list of classes: ids are places in it, colours are "#rrggbb"."""

    names: tuple[str, ...] = ()
    colours: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.names)

    def palette(self) -> npt.NDArray[np.uint8]:
        """The colours as (classes + 1, 3) bytes; the last, grey, is no class."""
        rows = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in self.colours]
        return np.array([*rows, [128, 128, 128]], dtype=np.uint8)

    def painted(self, ids: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """A class map in its colours, (..., 3)."""
        return self.palette()[np.minimum(ids, len(self))]


EARTH = Classes(CLASS_NAMES, CLASS_COLOURS)
