"""What is known of a setting beside its type, its limits and its default. Knows no setting; checks no value.

    grain: Annotated[float, Field(ge=0), Setting("Grain of the film (default: {default}).", metavar="X")] = 0.0

A field of JobSpec that is written so is a flag, a name in YAML files and a fact of the picture's identity; with
`column`, rows of a batch may say it too. Nothing else names it but the code that it is for, and SpecFields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cluster.spec.facts import Fact, if_given

GROUPS = PICTURE, MODEL, RUN = "Picture", "Model", "Run"
"""Groups of settings, in the order in which --help shows them."""


@dataclass(frozen=True)
class Input:
    """That a setting names a file of the user's. name: as messages call it; hint: what to give."""

    name: str
    hint: str


@dataclass(frozen=True)
class Setting:
    """One setting, as people and files meet it.

    help: a sentence for --help, in which {default} is the field's default. group: where --help shows it; None for no
    flag. flags: where they are not the field's name; aliases: other names, as flags, in YAML and as columns. metavar:
    what --help calls the value. repeats: whether the flag is given once for each of several values. hint: what to do
    about a value that is out of range.
    fact: what it adds to the identity of a picture. input: where it names a file, which then counts by content.
    column: the Arrow type of its column in tables of requests; empty where rows may not say it. batch: words for the
    help of `batch`, where they are others; None for no flag there. page: what a picture's page calls it, if at all.
    """

    help: str
    group: str | None = PICTURE
    flags: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    metavar: str | None = None
    repeats: bool = False
    hint: str = ""
    fact: Fact = if_given
    input: Input | None = None
    column: str = ""
    batch: str | None = ""
    page: str = ""


def settings_of(spec: type[BaseModel]) -> dict[str, Setting]:
    """What is known of each field, by name. Raises TypeError for a field that says nothing of itself."""
    found = {}
    for name, field in spec.model_fields.items():
        own = [one for one in field.metadata if isinstance(one, Setting)]
        if len(own) != 1:
            raise TypeError(f"{spec.__name__}.{name} has {len(own)} Settings in its annotation, not one")
        found[name] = own[0]
    return found


def flags_of(name: str, setting: Setting) -> tuple[str, ...]:
    """Flags of a setting, the field's own name first: ("--num-inference-steps", "--steps")."""
    own = setting.flags or (as_flag(name),)
    return own + tuple(as_flag(alias) for alias in setting.aliases)


def as_flag(name: str) -> str:
    """The flag of a name: --batch-size for "batch_size"."""
    return f"--{name.replace('_', '-')}"


def aliases_of(settings: Mapping[str, Setting]) -> dict[str, str]:
    """Other names -> fields: aliases, and flags that are called otherwise than their field."""
    found: dict[str, str] = {}
    for name, setting in settings.items():
        flags = (flag[2:].replace("-", "_") for flag in flags_of(name, setting) if flag.startswith("--"))
        found |= {alias: name for alias in flags if alias != name}
    return found


def help_of(setting: Setting, field: FieldInfo, *, batch: bool = False) -> str:
    """The sentence of a setting for --help, with the field's default where it says {default}."""
    text = setting.batch if batch and setting.batch else setting.help
    return text.replace("{default}", _said(field.default))


def described(spec: type[BaseModel]) -> str:
    """A line for each field of a class, for its help()."""
    settings = settings_of(spec)
    return "\n".join(
        f"    {name}: {help_of(settings[name], field)}" for name, field in spec.model_fields.items()
    )


def _said(default: object) -> str:
    if isinstance(default, tuple):
        return ",".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else str(default)


def flag_type(setting: Setting, field: FieldInfo) -> Any:
    """How a flag is read: a switch, a path or text, which JobSpec checks; optional, for a file may say it."""
    kinds = get_args(field.annotation) or (field.annotation,)
    if setting.repeats:
        return list[str] | None
    kind: Any = next((one for one in (bool, Path) if one in kinds), str)
    return kind | None
