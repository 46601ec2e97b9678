"""Names and colours of a model's classes, as labels and pages show them. Knows a model's facts; knows no file.

Pages tell classes by their colours, so these are distinct: a class that has none, or that of a class before it, is
given one. Hues go round the circle in golden sections, which keeps them apart however many there are.
"""

from __future__ import annotations

import colorsys
import re
from collections.abc import Iterator

from generation.models.contracts import ModelInfo
from generation.models.errors import ModelError
from storage.formats.labels import MOST_CLASSES, Legend

GOLDEN = 0.6180339887


def legend_of(info: ModelInfo) -> Legend:
    """(name, "#rrggbb") of each class; empty for a model without classes.

    Raises ModelError for a colour that is none, and for more classes than a byte tells apart.
    """
    names, given = info.class_names, tuple(info.notes.get("colours", ()))
    if len(names) > MOST_CLASSES:
        raise ModelError(
            f"the model knows {len(names)} classes; at most {MOST_CLASSES} can be saved, leave some out"
        )
    colours = [colour.lower() for colour in (*given, *[""] * len(names))[: len(names)]]
    for name, colour in zip(names, colours, strict=True):
        if colour and not re.fullmatch("#[0-9a-f]{6}", colour):
            raise ModelError(f"class {name!r} has the colour {colour!r}; write it as #rrggbb")
    return tuple(zip(names, _distinct(colours), strict=True))


def distinct_colours(number: int) -> list[str]:
    """So many colours, for classes that have none."""
    return _distinct([""] * number)


def _distinct(colours: list[str]) -> list[str]:
    """The colours, with others for those that are missing or repeated."""
    found: list[str] = []
    for colour in colours:
        taken = {*colours, *found}
        found.append(
            colour
            if colour and colour not in found
            else next(other for other in _hues() if other not in taken)
        )
    return found


def _hues() -> Iterator[str]:
    """Colours, each far from those just before it."""
    for place in range(4 * MOST_CLASSES):
        parts = colorsys.hsv_to_rgb(place * GOLDEN % 1, 0.6, 0.85)
        yield "#" + bytes(round(255 * part) for part in parts).hex()
