"""The flags that describe a picture, for every command that takes one. Knows flags and YAML; checks no value.

A command takes one parameter `flags: SpecFlags`; `with_spec_flags` shows typer the single flags in its place, which
follow from the Settings of JobSpec's fields.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic.fields import FieldInfo

from cluster.spec.defaults import with_defaults
from cluster.spec.fields import SETTINGS, SIZE, JobSpec, SpecError
from cluster.spec.job_file import canonical, read_fields, with_seed_drawn
from cluster.spec.settings import RUN, Setting, flag_type, flags_of, help_of

REQUESTS = "Requests"
"""Group of what rows of a batch may say; the flags are for those that do not."""
CONFIG = Setting("YAML file of settings; flags override it.", RUN, metavar="FILE")
BEFORE = {"width": ("size", SIZE, FieldInfo(annotation=str))}
AFTER = {"out": ("config", CONFIG, FieldInfo(annotation=Path))}
"""Field -> what is a flag before or after it, and no field itself."""


@dataclass(frozen=True)
class SpecFlags:
    """What was given of `settings`, `size` and `config`, by name: None, or an empty list, where it was not."""

    given: Mapping[str, Any]

    def fields(self) -> dict[str, Any]:
        """The YAML file's settings and the flags, which override them, by the names of JobSpec's fields."""
        flags = {name: value for name, value in self.given.items() if value is not None and value != []}
        config = flags.pop("config", None)
        said = {} if config is None else read_fields(config, bool(flags.get("allow_pickle")))
        return said | canonical(flags)

    def spec(self) -> JobSpec:
        """Defaults, then the YAML file, then the flags; a random seed is drawn, and said. Raises SpecError."""
        fields = seeded(self.fields())
        if "prompt" not in fields:
            raise SpecError(
                "the prompt is missing; say what the picture shows, as in: hypermosaic generate archipelago"
            )
        return JobSpec(**with_defaults(str(fields["prompt"]), fields))


NONE_GIVEN = SpecFlags({})


def seeded(given: dict[str, Any]) -> dict[str, Any]:
    """Settings whose seed is a number; one that is drawn is said, for the picture can be made again with it."""
    given, drawn = with_seed_drawn(given)
    if drawn is not None:
        print(f"seed {drawn}", file=sys.stderr)
    return given


def with_spec_flags(command: Callable[..., None], *, batch: bool = False) -> Callable[..., None]:
    """Replace the parameter `flags` of a command by the flags of all settings, as typer reads them, in its place.

    batch: whether the command makes many pictures, whose settings rows may say.
    """
    shown = list(_parameters(batch))
    own = _own_parameters(command)
    place = [parameter.name for parameter in own].index("flags")
    parameters = [*own[:place], *shown, *own[place + 1 :]]

    @wraps(command)
    def called(**values: Any) -> None:
        flags = SpecFlags({parameter.name: values.pop(parameter.name) for parameter in shown})
        command(flags=flags, **values)

    vars(called)["__signature__"] = inspect.Signature(parameters)
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del vars(called)["__wrapped__"]
    return called


def _own_parameters(command: Callable[..., None]) -> list[inspect.Parameter]:
    hints = get_type_hints(command, include_extras=True)
    return [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
    ]


def _parameters(batch: bool) -> Iterator[inspect.Parameter]:
    """The flags of all settings, in the order of the fields."""
    for name, field in JobSpec.model_fields.items():
        setting = SETTINGS[name]
        if name in BEFORE:
            yield _parameter(*BEFORE[name], batch)
        if setting.group is not None and not (batch and setting.batch is None):
            yield _parameter(name, setting, field, batch)
        if name in AFTER:
            yield _parameter(*AFTER[name], batch)


def _parameter(name: str, setting: Setting, field: FieldInfo, batch: bool) -> inspect.Parameter:
    of_rows = setting.column or setting is SIZE
    shown: dict[str, Any] = {
        "help": help_of(setting, field, batch=batch),
        "rich_help_panel": REQUESTS if batch and of_rows else setting.group,
        "metavar": setting.metavar,
        "show_default": False,
    }
    if name == "prompt" and not batch:
        how = typer.Argument(**{**shown, "rich_help_panel": None})
    else:
        how = typer.Option(*flags_of(name, setting), **shown)
    kind: Any = Annotated[flag_type(setting, field), how]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
