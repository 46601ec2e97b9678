"""`plan`, `generate` and `resume`. Knows how a cost is shown and when to ask; knows not how a job runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.commands.boundary import session_of
from cluster.commands.flags import RUN, SpecFlags, with_spec_flags
from cluster.events import Event, JobFailed, JobInterrupted, OnEvent
from cluster.machine import gigabytes
from cluster.paths import absolute
from cluster.progress import Bars, Lines, duration
from cluster.spec import ExecutorName, SpecError

if TYPE_CHECKING:
    from cluster.job import Job
    from cluster.report import PlanReport

ASK_SECONDS, ASK_BYTES = 3600.0, 50 * 10**9
SURELY_SHORT = ASK_SECONDS / 10
"""A guess may be wrong by a factor of ten; jobs guessed to be longer are calibrated before they start."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RUN)]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before long or large jobs.", rich_help_panel=RUN)
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, libraries' messages.", rich_help_panel=RUN)
]


@with_spec_flags
def plan(
    context: typer.Context,
    flags: SpecFlags,
    as_json: Json = False,
    calibrate: Annotated[bool, typer.Option(help="Time a few evaluations.", rich_help_panel=RUN)] = True,
    debug: Debug = False,
) -> None:
    """Say what a picture would cost, and make nothing."""
    session_of(context).debug |= debug
    from cluster import api

    report = api.plan(flags.spec(), calibrate=calibrate)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        Console().print(table_of(report))


@with_spec_flags
def generate(
    context: typer.Context,
    flags: SpecFlags,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where DIR holds this job.", rich_help_panel=RUN)
    ] = False,
    yes: Yes = False,
    debug: Debug = False,
) -> None:
    """Make a picture and a page that shows it."""
    session_of(context).debug |= debug
    from cluster import api

    spec = flags.spec()
    job = api.prepared(spec, check_fit=not api.is_job(spec.out))
    api.enter(job, resume)
    if not yes and not api.is_job(spec.out):
        confirm(job)
    finish(context, job)


def resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a job.")],
    executor: Annotated[
        str | None, typer.Option(help="ray or in-process [as before].", show_default=False)
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Workers [as before].", show_default=False)] = None,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="Needed again where the job was begun with it.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Go on with a job, wherever it stopped."""
    session_of(context).debug |= debug
    from cluster import api

    finish(context, api.continued(absolute(folder), _executor(executor), workers, allow_pickle))


def _executor(name: str | None) -> ExecutorName | None:
    match name:
        case None | "ray" | "in-process":
            return name
    raise SpecError(f"unknown executor {name!r}; choose ray or in-process")


def finish(context: typer.Context, job: Job) -> None:
    """Do what is left of a job, showing progress; prints the page's path on the standard output."""
    from cluster import api

    session = session_of(context)
    session.folder, session.running = job.spec.out, True
    if api.is_finished(job):
        print("this job is finished already", file=sys.stderr)
        result = api.Result(job.spec.out, job.spec.out / "index.html")
    else:
        with shown() as listener:
            result = api.run(job, resume=True, on_event=listener)
    session.running = False
    print(result.page)


@contextmanager
def shown() -> Iterator[OnEvent]:
    """Bars on a terminal, lines elsewhere; on standard error, so that the output is the page's path alone."""
    console = Console(stderr=True)
    if console.is_terminal:
        with Bars(console) as bars:
            yield unless_it_fails(bars)
    else:
        yield unless_it_fails(Lines(sys.stderr))


def unless_it_fails(listener: OnEvent) -> OnEvent:
    """A listener that hears of no bad end: the last line of a call says it, once."""

    def tell(event: Event) -> None:
        if not isinstance(event, JobFailed | JobInterrupted):
            listener(event)

    return tell


# --- before it starts ------------------------------------------------------------------------------------------------


def confirm(job: Job) -> None:
    """Ask before a job of more than an hour or 50 GB; where nobody can answer, refuse and say --yes."""
    from cluster import api
    from cluster.report import report_on

    report = report_on(job)
    if report.seconds > SURELY_SHORT:
        report = report_on(job, api.measured(job))
    if report.seconds <= ASK_SECONDS and report.disk_peak_bytes <= ASK_BYTES:
        return
    cost = f"about {duration(report.seconds)} and {gigabytes(report.disk_peak_bytes)} of disk"
    if not sys.stdin.isatty():
        raise SpecError(
            f"this job takes {cost}; more than {duration(ASK_SECONDS)} or {gigabytes(ASK_BYTES)} needs a yes: add --yes"
        )
    Console(stderr=True).print(table_of(report))
    if not typer.confirm(f"This takes {cost}. Go on?", err=True):
        raise typer.Exit(1)


def table_of(report: PlanReport) -> Table:
    """The report as two columns."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows_of(report):
        table.add_row(name, value)
    return table


def rows_of(report: PlanReport) -> Iterator[tuple[str, str]]:
    """(what, how much) of everything that a user may want to know before."""
    how = "measured" if report.measured else "guessed"
    yield "picture", f"{report.width:,} x {report.height:,} pixels, {report.megapixels:,.1f} megapixels"
    yield "patches", f"{report.patches:,} in {report.steps:,} steps"
    about = "" if report.evaluations_exact else "about "
    yield "evaluations", f"{about}{report.evaluations:,} of the network"
    yield "blocks", f"{report.blocks:,} a step, {report.tasks:,} tasks in all"
    yield "files", f"{report.files:,}"
    for name, size in report.bytes_by_output.items():
        yield f"  {name}", f"about {gigabytes(size)}"
    yield "disk at most", f"about {gigabytes(report.disk_peak_bytes)} while it runs"
    yield "memory", f"{gigabytes(report.task_peak_bytes)} a task, {gigabytes(report.job_peak_bytes)} in all"
    yield "workers", f"{report.workers:,}"
    yield (
        "time",
        f"about {duration(report.seconds)} ({how}: {report.seconds_per_evaluation:.3g} s an evaluation)",
    )
