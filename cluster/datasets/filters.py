"""The user's judge of pictures, a function or its name: False leaves a picture out, a number becomes its score."""

from __future__ import annotations

import difflib
import importlib
import math
import numbers
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from cluster.spec.fields import SpecError

Judge = Callable[[Image.Image], Any]


def name_of(judge: Judge) -> str:
    """module:function, as a filter that is named would be; of an object that is called, its class."""
    named = judge if hasattr(judge, "__qualname__") else type(judge)
    return f"{named.__module__}:{named.__qualname__}"


def check_sendable(judge: Judge) -> None:
    """Raises SpecError for a function that cannot go to other processes."""
    from ray import cloudpickle

    try:
        cloudpickle.dumps(judge)  # type: ignore[no-untyped-call]  # Ray's is not annotated
    except Exception as error:  # what pickle, or the function's own objects, raise
        reason = str(error).partition("\n")[0]
        raise SpecError(
            f"filter {name_of(judge)} cannot be sent to Ray's workers ({type(error).__name__}: {reason}); give it as "
            '"module:function", or use the in-process executor'
        ) from None


@dataclass(frozen=True)
class FilterVerdict:
    """score: the function's number; None where it said True or False."""

    keep: bool
    score: float | None


class FilterError(ValueError):
    """The function raised, or returned something that is neither a truth value nor a number."""


def load_filter(name: str, folder: str) -> Judge:
    """The function that a name means; modules are looked for in `folder` too. Raises SpecError."""
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise SpecError(f"filter {name!r} is not module:function; write it like quality:is_sharp")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        reason = str(error).partition("\n")[0]
        raise SpecError(f"filter {name!r} cannot be imported: {type(error).__name__}: {reason}") from None
    function = getattr(module, function_name, None)
    if not callable(function):
        near = difflib.get_close_matches(function_name, dir(module), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise SpecError(f"filter {name!r}: {module_name} has no function {function_name}{hint}")
    judge: Judge = function
    return judge


def judged(judge: Judge, name: str, image: Image.Image) -> FilterVerdict:
    """Ask it about one picture. Raises FilterError."""
    try:
        said = judge(image)
    except Exception as error:  # the user's code may raise anything; it is this request's failure
        reason = str(error).partition("\n")[0]
        raise FilterError(f"filter {name} raised {type(error).__name__}: {reason}") from error
    if isinstance(said, bool) or type(said).__name__ in ("bool", "bool_"):
        return FilterVerdict(bool(said), None)
    if isinstance(said, numbers.Real) and math.isfinite(said):
        return FilterVerdict(True, float(said))
    raise FilterError(f"filter {name} returned {str(said)[:40]!r}; return True, False or a finite number")
