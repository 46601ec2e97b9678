"""What a prompt alone leaves open of a picture: its size and its folder. Knows no model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

USUAL_SIDE = 2048
LONGEST_NAME = 40


def with_defaults(prompt: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of JobSpec with 2048 x 2048 pixels where they have no side, and out/PROMPT where they have no folder."""
    sides = {} if {"width", "height"} & set(given) else {"width": USUAL_SIDE, "height": USUAL_SIDE}
    return {"out": Path("out") / slug(prompt), **given, **sides}


def slug(prompt: str) -> str:
    """A folder name from a prompt: lower-case words joined by hyphens, at most 40 characters."""
    words = "-".join(re.findall(r"\w+", prompt.lower()))
    return words[:LONGEST_NAME].strip("-") or "picture"
