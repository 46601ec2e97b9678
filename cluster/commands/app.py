"""The command line `hypermosaic`. Knows its commands' names; each is in a file beside this one.

    hypermosaic plan | generate | batch | resume | status | view | verify | export | doctor | train | evaluate

A command is imported when it is called, or its own help is asked for: listing them all takes a tenth of a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cluster.commands.boundary import Boundary
from cluster.commands.helping import Command, Rows
from cluster.commands.session import session_of

HERE = "cluster.commands"
COMMANDS: Mapping[str, tuple[str, str]] = {
    "generate": ("making", "Make a picture and a page that shows it."),
    "plan": ("making", "Say what a picture would cost, and make nothing."),
    "resume": ("making", "Go on with a job, wherever it stopped."),
    "status": ("looking", "Say how far a job is, or a batch."),
    "view": (
        "looking",
        "Show a picture, finished or not, or all of a folder, from a small server here until Ctrl-C.",
    ),
    "doctor": ("doctor", "Say what works on this machine and what is missing."),
    "batch": (
        "batching",
        "Make a dataset of many pictures: Parquet shards with images, masks, prompts and seeds.",
    ),
    "export": (
        "exporting",
        "Write a finished picture, or a part of it, or a flight into it, as a file for other programs.",
    ),
    "verify": (
        "verifying",
        "Read all that a job has written, or a batch's shards, and say what is damaged (exit code 1).",
    ),
    "evaluate": ("evaluating", "Judge a model, or a picture: `evaluate MODEL` is `evaluate model MODEL`."),
    "train": ("training", "Train a model on the Earth or on your own pictures (docs/training.md)."),
}
"""Name -> the file beside this one, which has a function of the name, or a group called app; and its first sentence."""


class Commands(Boundary):
    """The commands of COMMANDS, each built when it is asked for."""

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command, or None where there is none of the name."""
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            self.add_command(built(cmd_name), cmd_name)
            session_of(ctx).raise_if_stopped()
        return self.commands.get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """For a name that none has, others are suggested, which must be known for that."""
        if args and args[0] not in COMMANDS:
            for name in COMMANDS:
                self.get_command(ctx, name)
        return super().resolve_command(ctx, args)

    def summaries(self, ctx: Any) -> Rows:
        del ctx
        return [(name, sentence) for name, (_, sentence) in COMMANDS.items()]


def built(name: str) -> Any:
    """A command, or a group of them, from its file."""
    module = importlib.import_module(f"{HERE}.{COMMANDS[name][0]}")
    if group := getattr(module, "app", None):
        return typer.main.get_group(group)
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(name, cls=Command)(getattr(module, name))
    return typer.main.get_command(alone)


app = typer.Typer(
    name="hypermosaic",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # whose tables cut words and name types
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cluster.spec.job_file import versions

        print(versions()["hypermosaic"])
        raise typer.Exit


@app.callback()
def settings(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and libraries' messages.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say it.")
    ] = False,
) -> None:
    """Pictures larger than any network has seen, made of overlapping patches on one machine or many."""
    del version
    session_of(context).debug |= debug
