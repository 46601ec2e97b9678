"""The command line `hypermosaic`. Knows its commands' names; each is in cluster/commands.

    hypermosaic plan | generate | batch | resume | status | view | verify | export | doctor | train | evaluate

Importing this imports no torch and no ray, so that --help is quick.
"""

from __future__ import annotations

import gc
from typing import Annotated

import typer

from cluster.commands import batching, doctor, evaluating, exporting, looking, making, training, verifying
from cluster.commands.boundary import Boundary, session_of, stoppable_session
from cluster.commands.helping import Command
from cluster.commands.streams import forgiving_streams
from cluster.machine import collect_rarely

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
        from cluster.job_file import versions

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


def main() -> None:
    """The console script."""
    collect_rarely()
    session = stoppable_session()
    assert session.stops is not None
    try:
        with forgiving_streams(), session.stops.installed(last=True):
            app(obj=session)
    finally:
        gc.freeze()  # the process ends: looking through what it imported once more takes up to a second


if __name__ == "__main__":
    main()
