"""What is wrong with a setting, in one line: the value, the limit, what to change. Knows pydantic's errors."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from pydantic import ValidationError

from cluster.spec.paths import EMBEDDED
from cluster.spec.settings import Setting, aliases_of

QUOTES = "'\""


def one_line(invalid: ValidationError, settings: Mapping[str, Setting], model: str) -> str:
    """The first thing that is wrong, with the value, the limit and what to change. model: that is asked for."""
    error = invalid.errors(include_url=False)[0]
    name, value, limits = str(error["loc"][0]), error["input"], error.get("ctx", {})
    hint = f"; {settings[name].hint}" if name in settings and settings[name].hint else ""
    if name == "num_inference_steps":
        hint = f"; leave it out for {_own_steps(model)}"
    match error["type"]:
        case "value_error":
            return str(limits["error"])
        case "extra_forbidden":
            return f"unknown setting {_short(name).strip(QUOTES)}; {_meant(name, settings)}"
        case "literal_error":
            return f"unknown {name.removesuffix('s')} {value!r}; choose {str(limits['expected']).replace(chr(39), '')}"
        case "missing":
            return f"{name} is missing{hint}"
        case "greater_than_equal" | "greater_than" | "less_than" | "less_than_equal":
            return f"{name} {_short(value).strip(QUOTES)} is out of range: it {_lower(error['msg'])}{hint}"
        case "too_short":
            return f"{name} is empty{hint}"
    return f"{name} {_short(value)} cannot be used: {_lower(error['msg'])}{hint}"


def _meant(name: str, settings: Mapping[str, Setting]) -> str:
    near = difflib.get_close_matches(name, [*settings, *aliases_of(settings)], n=1)
    return f"did you mean {near[0]}?" if near else "hypermosaic generate --help names them all"


def _own_steps(model: str) -> str:
    """ "the model's own 12", of a model that is here: to ask the hub would take long."""
    from generation.models import loading
    from generation.models.errors import ModelError

    if model.partition("/")[0] == EMBEDDED or Path(model).is_dir():
        with suppress(ModelError):
            return f"the model's own {loading.describe(model).num_inference_steps}"
    return "the model's own number"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lower(message: str) -> str:
    """pydantic's sentence as a part of ours."""
    text = message.removeprefix("Input ")
    return text[:1].lower() + text[1:]
