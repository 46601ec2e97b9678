"""Messages that speak of flags, for callers from Python: their arguments instead. Knows the commands' parameters.

    add --resume to go on with it, or choose another --out     add resume=True to go on with it, or choose another out
    go on with that one: hypermosaic resume out/city           go on with that one: hypermosaic.resume("out/city")

Which flag is which argument follows from the commands themselves: each option has a parameter's name.
"""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Callable, Mapping
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

FLAG = re.compile(r"(?<![\w/=-])(--[a-z][a-z-]*[a-z])(?: (\d+(?:\.\d+)?)(?![\w.,]*\w))?")
SIDES = re.compile(r"(?<![\w/=-])--(?:image-)?size (\d+)x(\d+)")
SIZES = ("--size", "--image-size")
CALL = re.compile(
    r"hypermosaic (resume|status|view|verify|export) ('(?:[^']|'\"'\"')*'|[^\s;,']+)((?: --[a-z-]+)*)"
)
MAKE = re.compile(r"hypermosaic generate \.\.\. --out ('(?:[^']|'\"'\"')*'|[^\s;,']+)")
HELP = re.compile(r"hypermosaic (\w+) --help")


def speaks_python(function: Callable[P, R]) -> Callable[P, R]:
    """A function whose errors, of whatever type, name its arguments where the command of its name has flags."""

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            if error.args and isinstance(error.args[0], str):
                error.args = (in_arguments(error.args[0], function), *error.args[1:])
            raise

    return called


def in_arguments(message: str, function: Callable[..., Any]) -> str:
    """A message with arguments of `function` in place of the flags of the command that has its name."""
    if "--" not in message and "hypermosaic " not in message:
        return message
    names = arguments_by_flag(function.__name__, frozenset(arguments_of(function)))
    message = HELP.sub(lambda found: f"help(hypermosaic.{found[1]})", message)
    message = CALL.sub(lambda found: f"hypermosaic.{found[1]}({_path(found[2])})", message)
    message = MAKE.sub(lambda found: f"hypermosaic.generate(..., out={_path(found[1])})", message)
    message = SIDES.sub(lambda found: f"width={found[1]}, height={found[2]}", message)
    return FLAG.sub(lambda found: _argument(names, found[1], found[2]), message)


def _path(quoted: str) -> str:
    """What a shell reads there, as Python writes it."""
    return repr(shlex.split(quoted)[0])


def _argument(names: Mapping[str, str], flag: str, number: str | None) -> str:
    name = names.get(flag, flag)
    if number is None:
        return name
    return f"{name}={number}" if name.isidentifier() else f"{name} {number}"


@cache
def arguments_by_flag(command: str, arguments: frozenset[str]) -> Mapping[str, str]:
    """Flag of a command -> what to write in Python: the argument, or argument=True where the flag has no value.

    Flags that only other commands have go by their parameters' names: a message may speak of what comes next.
    """
    from cluster.commands.app import COMMANDS, built

    found: dict[str, str] = {}
    for name in sorted(COMMANDS, key=lambda name: name == command):  # its own come last, and stay
        for option in getattr(built(name), "params", ()):
            found |= _written(option, arguments)
    return found


def _written(option: Any, arguments: frozenset[str]) -> dict[str, str]:
    """What each flag of an option is in Python: by its name, or by another of its flags that an argument is called."""
    flags = [flag for flag in option.opts if flag.startswith("--")]
    words = [option.name, *(flag.removeprefix("--").replace("-", "_") for flag in flags)]
    name = next((word for word in words if word in arguments), words[0])
    if set(flags) & set(SIZES):
        return dict.fromkeys(flags, "size" if "size" in arguments else "width and height")
    if not getattr(option, "is_flag", False):
        return dict.fromkeys(flags, name)
    return dict.fromkeys(flags, f"{name}=True") | dict.fromkeys(option.secondary_opts, f"{name}=False")


def arguments_of(function: Callable[..., Any]) -> set[str]:
    """Names of a function's arguments, those that it takes as fields of JobSpec among them."""
    from cluster.spec.keywords import SpecFields

    parameters = inspect.signature(function).parameters.values()
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    takes_fields = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return named | (set(SpecFields.__annotations__) if takes_fields else set())
