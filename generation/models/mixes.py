"""Mixes of classes, from words. Knows the words; knows no model.

"forest, mountains and deep ocean"          a third of each
"60% deep ocean, 25% rainforest, mountains" what has no number shares what is left
"world"                                     no wish: whatever the map model knows
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

WORLD = "world"
_PART = re.compile(r"(?:(?P<percent>\d+(?:\.\d+)?)\s*%\s*(?:of\s+)?)?(?P<name>.+)")


def parse_mix(words: str, names: Sequence[str]) -> Mapping[str, float]:
    """Shares by class name, which sum to one; none for "world".

    Raises KeyError with the part that is no class, and ValueError where the shares make no sense.
    """
    if words == WORLD:
        return {}
    parts = [_share(part) for part in re.split(r"\s*(?:,|\+|&|\band\b|\bwith\b)\s*", words) if part]
    for name, _ in parts:
        if name not in names:
            raise KeyError(name)
    given = sum(share for _, share in parts if share is not None)
    free = sum(share is None for _, share in parts)
    if given > 1 + 1e-9 or (not free and given <= 0):
        raise ValueError(
            f"the shares of {words!r} add up to {100 * given:g} %; they must be above 0, at most 100"
        )
    rest = (1 - given) / free if free else 0.0
    mix: dict[str, float] = {}
    for name, share in parts:
        mix[name] = mix.get(name, 0.0) + (rest if share is None else share)
    total = sum(mix.values())
    return {name: share / total for name, share in mix.items()}


def _share(part: str) -> tuple[str, float | None]:
    found = _PART.fullmatch(part.strip())
    assert found is not None  # every non-empty part is a name at least
    return found["name"].strip(), None if found["percent"] is None else float(found["percent"]) / 100
