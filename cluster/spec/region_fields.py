"""Regions as flags, YAML and job.yaml write them. Knows words and numbers; knows no map and no canvas.

    --region 3="dense pine forest"              region: {3: dense pine forest}
    --region-box 10%,20%,30%,40%="a red barn"   region_box: [{box: "10%,20%,30%,40%", prompt: a red barn, weight: 0.7}]

Wherever a prompt stands alone, a mapping with negative_prompt, weight and feather may stand.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

MOST_FEATHER = 4096
_PLACE = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*(%?)\s*")
_TOLD = ("prompt", "negative_prompt", "weight", "feather")


class Told(BaseModel):
    """What a region is told. negative_prompt, feather (pixels): None is the picture's own.

    weight: in (0, 1], the share of the region's own prompt; the rest is the picture's prompt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str
    negative_prompt: str | None = None
    weight: float = 1.0
    feather: float | None = None


class LabelRegion(Told):
    """The places where the map has a label: a whole number, a colour as #rrggbb, or a name that the file knows."""

    label: str


class BoxRegion(Told):
    """A rectangle of the picture. box: X,Y,W,H in pixels, or in percent of the picture's width and height."""

    box: str

    def pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """(x, y, w, h) on a picture of that size."""
        parts = (_PLACE.fullmatch(part) for part in self.box.split(","))
        sides = (width, height, width, height)
        values = [
            float(found[1]) * (side / 100 if found[2] else 1)
            for found, side in zip(parts, sides, strict=True)
            if found is not None
        ]
        return values[0], values[1], values[2], values[3]


def label_regions(given: object) -> tuple[LabelRegion, ...]:
    """Of LABEL=PROMPT, of a mapping from labels, or of a list of either. Raises ValueError in one line."""
    regions = tuple(_label_region(item) for item in _items(given, "region", "label"))
    labels = [region.label for region in regions]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(
                f"region {label} is given {labels.count(label)} times; give each label one prompt"
            )
    return regions


def box_regions(given: object) -> tuple[BoxRegion, ...]:
    """Of X,Y,W,H=PROMPT, of a mapping from boxes, or of a list of either. Raises ValueError in one line."""
    return tuple(_box_region(item) for item in _items(given, "region_box", "box"))


def _items(given: object, name: str, key: str) -> list[Any]:
    if isinstance(given, Mapping):
        return [{key: place, **_as_told(told)} for place, told in given.items()]
    if isinstance(given, str):
        return [given]
    if isinstance(given, Sequence):
        return list(given)
    raise ValueError(f"{name} {str(given)[:40]!r} is neither a list nor a mapping of prompts")


def _as_told(told: object) -> dict[str, Any]:
    return dict(told) if isinstance(told, Mapping) else {"prompt": told}


def _label_region(item: object) -> LabelRegion:
    if isinstance(item, LabelRegion):
        return item
    fields = _fields(item, "label", 'region {} is not LABEL=PROMPT; write it like 3="dense pine forest"')
    label = str(fields.pop("label")).strip()
    told = checked_told(fields, f"region {label}")
    return LabelRegion(label=label, **told)


def _box_region(item: object) -> BoxRegion:
    if isinstance(item, BoxRegion):
        return item
    fields = _fields(
        item, "box", 'region-box {} is not X,Y,W,H=PROMPT; write it like 10%,20%,30%,40%="a red barn"'
    )
    box = fields.pop("box")
    box = (
        ",".join(str(value) for value in box) if isinstance(box, list | tuple) else str(box).replace(" ", "")
    )
    told = checked_told(fields, f"region-box {box}")
    parts = [_PLACE.fullmatch(part) for part in box.split(",")]
    if len(parts) != 4 or None in parts:
        raise ValueError(
            f"region-box {box} is not X,Y,W,H: four numbers by commas, in pixels or percent, such as 10%,20%,30%,40%"
        )
    region = BoxRegion(box=box, **told)
    if min(region.pixels(100, 100)[2:]) <= 0:
        raise ValueError(f"region-box {box} is empty; its width and height must be above 0")
    return region


def _fields(item: object, key: str, wrong: str) -> dict[str, Any]:
    """Of "KEY=PROMPT", or of a mapping that has the key."""
    if isinstance(item, str):
        place, equals, prompt = item.partition("=")
        if equals and place.strip():
            return {key: place.strip(), "prompt": prompt}
    elif isinstance(item, Mapping):
        if key in item:
            return dict(item)
        if len(item) == 1:  # in a list, "- 3: dense pine forest"
            ((place, told),) = item.items()
            return {key: place, **_as_told(told)}
    raise ValueError(wrong.format(repr(item)[:60]))


def checked_told(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The fields of Told. Raises ValueError, in one line that begins with the name, for what cannot be."""
    unknown = [field for field in fields if field not in _TOLD]
    if unknown:
        raise ValueError(f"{name} has an unknown setting {unknown[0]}; there are {', '.join(_TOLD)}")
    told = {field: value for field, value in fields.items() if value is not None}
    for field in ("prompt", "negative_prompt"):
        if not isinstance(told.get(field, ""), str):
            raise ValueError(f"{name} has the {field} {told[field]!r}; it must be words: put them in quotes")
    if not told.get("prompt", "").strip():
        raise ValueError(f"{name} has no prompt; say in words what it shows")
    told["prompt"] = told["prompt"].strip()
    for field, least, most in (("weight", 0.0, 1.0), ("feather", 0.0, float(MOST_FEATHER))):
        if field in told:
            told[field] = _number(told[field], field, name, least, most)
    if told.get("weight") == 0:
        raise ValueError(f"{name} has the weight 0 and would not show; it must be above 0, at most 1")
    return told


def _number(value: object, field: str, name: str, least: float, most: float) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if isinstance(value, bool) or not least <= number <= most:
        raise ValueError(f"{name} has the {field} {value}; give a number from {least:g} to {most:g}")
    return number
