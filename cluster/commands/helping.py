"""How --help is laid out: sections, names whole, nothing cut at any width. Knows typer's commands; knows no flag.

Picture:
  --size SIZE          Size in pixels; one number is a square (default: 2048).
  --num-inference-steps, --steps N
                       Denoising steps (default: the model's).
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

WIDEST_NAME = 26
KINDS = {"<str>": "TEXT", "<int>": "N", "<float>": "X", "<path>": "PATH", "<bool>": "", "<int range>": "N"}
"""What typer calls the types of values, and what people do."""
ARGUMENTS, OPTIONS = "Arguments", "Options"
Rows = list[tuple[str, str]]


class Command(TyperCommand):
    """A command with such a help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, sections_of(self.get_params(ctx), ctx))


class CommandGroup(TyperGroup):
    """A group of commands with such a help."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        write_sections(formatter, sections_of(self.get_params(ctx), ctx))
        write_sections(formatter, {"Commands": self.summaries(ctx)})

    def summaries(self, ctx: Any) -> Rows:
        """Each command with the first sentence of its help."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        return [(name, first_sentence(command.help or "")) for name, command in found if command is not None]


def sections_of(parameters: Iterable[Any], ctx: Any) -> dict[str, Rows]:
    """The rows of each section, in the order in which sections first occur."""
    found: dict[str, Rows] = {}
    for parameter in parameters:
        record = parameter.get_help_record(ctx)
        if record is not None:
            is_argument = parameter.param_type_name == "argument"
            section = parameter.rich_help_panel or (ARGUMENTS if is_argument else OPTIONS)
            name = record[0].partition(" ")[0] if is_argument else plain(record[0])
            found.setdefault(section, []).append((name, " ".join(record[1].split())))
    return found


def plain(name: str) -> str:
    """ "--method <str>" -> "--method TEXT"."""
    for kind, said in KINDS.items():
        name = name.replace(kind, said)
    return name.strip()


def first_sentence(text: str) -> str:
    """Of a docstring, what a list of commands shows."""
    sentence, _, _ = " ".join(text.split()).partition(". ")
    return sentence.rstrip(".") + "."


def write_sections(formatter: Any, sections: dict[str, Rows]) -> None:
    """Each with its title; explanations in one column, where names leave it."""
    names = [name for rows in sections.values() for name, _ in rows]
    indent = 2 + min(WIDEST_NAME, max(map(len, names), default=0)) + 2
    for title, rows in sections.items():
        formatter.write(f"\n{title}:\n")
        for name, text in rows:
            formatter.write("".join(f"{line}\n" for line in row_lines(name, text, indent, formatter.width)))


def row_lines(name: str, text: str, indent: int, width: int) -> list[str]:
    """A name, and its explanation beside it, or below one that is too long; no word is cut."""
    told = textwrap.wrap(text, max(20, width - indent), break_on_hyphens=False, break_long_words=False)
    lines = [f"{'':{indent}}{line}" for line in told]
    if len(name) + 4 > indent or not lines:
        return [f"  {name}", *lines]
    return [f"  {name:{indent - 2}}{told[0]}", *lines[1:]]
