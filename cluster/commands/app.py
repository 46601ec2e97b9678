"""The command line `hypermosaic`. Knows its commands' names; each is in a file beside this one.

    hypermosaic plan | generate | batch | resume | status | view | verify | export | doctor | train | evaluate

Importing this imports no torch and no ray, so that --help is quick.
"""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.commands import batching, doctor, evaluating, exporting, looking, making, training, verifying
from cluster.commands.boundary import Boundary
from cluster.commands.helping import Command
from cluster.commands.session import session_of

app = typer.Typer(
    name="hypermosaic",
    cls=Boundary,
    no_args_is_help=True,
    rich_markup_mode=None,  # whose tables cut words and name types
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (making.generate, making.plan, making.resume, looking.status, looking.view, doctor.doctor):
    app.command(cls=Command)(command)
app.command(cls=Command)(batching.batch)
app.command(cls=Command)(exporting.export)
app.command(cls=Command)(verifying.verify)
app.add_typer(evaluating.app)
app.add_typer(training.app)


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
