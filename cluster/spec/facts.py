"""What a setting adds to the identity of its picture, as plain JSON values. Knows fields by name; reads no file.

    always      its value, whatever it is
    if_given    its value where it is not the default: pictures from before there was the setting stay the same
    never       nothing: it is the machine's, and changes no pixel
    elsewhere   nothing itself: another setting's fact, or the model's files, tell it

A file of the user's counts by its content, which `inputs` holds by field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from generation.sampling import methods

Fact = Callable[[Any, str, Mapping[str, str]], dict[str, Any]]
"""(resolved spec, field, SHA-256 of the user's files by field) -> what is to be told of it, by name."""


def always(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The setting's value; for a file, its content, and None without one."""
    return {name: _plain(getattr(spec, name), inputs.get(name))}


def if_given(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The setting's value where it is not the default."""
    given = getattr(spec, name) != type(spec).model_fields[name].default
    return always(spec, name, inputs) if given else {}


def never(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """No fact: the setting changes no pixel."""
    return {}


def elsewhere(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """No fact: the setting is told with another one, or by the contents of the model's files."""
    return {}


def _plain(value: Any, content: str | None) -> Any:
    if isinstance(value, Path):
        return content
    return list(value) if isinstance(value, tuple) else value


# --- settings that are told in their own way -------------------------------------------------------------------------


def size(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Both sides of the picture, as one fact."""
    return {"size": [spec.width, spec.height]}


def file_names(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """File names and weights alone, for the contents are among those of the model's files."""
    return {name: [Path(one).name for one in getattr(spec, name)]}


def where_read(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """The setting's value with the methods that overlap; others do not read it."""
    return {name: getattr(spec, name) if spec.method in methods.OVERLAPPING else None}


def null_alone(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """Whether the prompt is left out; any other guidance is told with guidance_scale."""
    return {"unconditional": True} if getattr(spec, name) == 0 else {}


def of_regions(spec: Any, name: str, inputs: Mapping[str, str]) -> dict[str, Any]:
    """All that regions are told, where there are places for them."""
    if spec.regions is None and not spec.region_box:
        return {}
    told = {"labels": spec.region, "boxes": spec.region_box}
    facts = {kind: [one.model_dump() for one in regions] for kind, regions in told.items()}
    return {"regions": {"map": inputs.get("regions"), "feather": spec.region_feather, **facts}}
