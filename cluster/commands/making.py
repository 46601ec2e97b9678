"""`plan`, `generate` and `resume`. Knows how a cost is shown and when to ask; knows not how a job runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.commands.flags import SpecFlags, with_spec_flags
from cluster.commands.session import Session, session_of
from cluster.commands.streams import console
from cluster.engine import continuing
from cluster.following.showing import shown
from cluster.machine import environment
from cluster.spec import job_file
from cluster.spec.fields import ExecutorName, JobSpec, SpecError
from cluster.spec.paths import absolute, here
from cluster.spec.settings import RUN
from cluster.wording import duration, gigabytes

if TYPE_CHECKING:
    from cluster.engine.executors.contract import Executor, Workload
    from cluster.jobs.job import Job
    from cluster.jobs.report import PlanReport

LONGEST_PROMPT = 60
ASK_SECONDS, ASK_BYTES = 3600.0, 50 * 10**9
SURELY_SHORT = ASK_SECONDS / 10
"""A guess may be wrong by a factor of ten; jobs guessed to be longer are calibrated before they start."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.", rich_help_panel=RUN)]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Do not ask before long or large jobs.", rich_help_panel=RUN)
]
NeverAsks = Annotated[bool, typer.Option("--yes", "-y", help="As elsewhere; this never asks.")]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="Needed again where the job was begun with it.")
]
Debug = Annotated[
    bool, typer.Option("--debug", help="Show tracebacks, libraries' messages.", rich_help_panel=RUN)
]


@with_spec_flags
def plan(
    context: typer.Context,
    flags: SpecFlags,
    as_json: Json = False,
    calibrate: Annotated[
        bool, typer.Option(help="Time a few evaluations here.", rich_help_panel=RUN)
    ] = False,
    debug: Debug = False,
) -> None:
    """Say what a picture would cost, and make nothing."""
    session = session_of(context)
    session.debug |= debug
    spec = flags.spec()
    session.announce(f"planning {subject(spec)}{', and timing a few evaluations' if calibrate else ''}")
    from cluster import api

    report = api.plan(spec, calibrate=calibrate)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))
    else:
        console().print(table_of(report))


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
    session = session_of(context)
    session.debug |= debug
    spec = flags.spec()
    session.announce(f"generating {subject(spec)}, in {here(spec.out)}: reading the model")
    from cluster import api

    job = continuing.prepared(spec, check_fit=not api.is_job(spec.out))
    api.enter(job, resume)
    if not yes and not api.is_job(spec.out):
        confirm(job)
    finish(context, job)


def resume(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a job.")],
    executor: Annotated[
        str | None,
        typer.Option(help="ray or in-process (default: as before).", metavar="NAME", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Workers (default: as before).", metavar="N", show_default=False)
    ] = None,
    allow_pickle: AllowPickle = False,
    yes: NeverAsks = False,
    debug: Debug = False,
) -> None:
    """Go on with a job, wherever it stopped."""
    del yes
    session = session_of(context)
    session.debug |= debug
    folder = absolute(folder)
    saved = job_file.load(folder).spec
    session.announce(f"going on with {subject(saved)}, in {here(folder)}: reading the model")

    finish(context, continuing.continued(folder, _executor(executor), workers, allow_pickle))


def _executor(name: str | None) -> ExecutorName | None:
    match name:
        case None | "ray" | "in-process":
            return name
    raise SpecError(f"unknown executor {name!r}; choose ray or in-process")


def finish(context: typer.Context, job: Job, *, thorough: bool = False) -> None:
    """Do what is left of a job, showing progress; prints the page's path on the standard output.

    thorough: read all that should be there first, and make again what is damaged.
    """
    from cluster import api

    session = session_of(context)
    session.folder = job.spec.out
    with shown() as listener:
        result = api.run(
            job, resume=True, on_event=listener, make=announced(session), thorough=thorough, on_begun=session.begin
        )  # fmt: skip
    if result.before:
        print("this job is finished already", file=sys.stderr)
    session.running = False
    print(result.page)


def announced(session: Session) -> Callable[[Workload], Executor]:
    """Makes the executor of a job, or of its map's, after a line about what that waits for."""

    def make(work: Workload) -> Executor:
        from cluster.engine import executors

        session.announce(waited_for(work.spec))
        return executors.make_here(work)

    return make


def waited_for(spec: JobSpec) -> str:
    """What happens before the first task of a resolved spec."""
    address = environment().get("RAY_ADDRESS")
    if spec.executor == "in-process":
        return "loading the model"
    if address:
        return f"joining the Ray cluster at {address}, whose workers load the model"
    return f"starting Ray and {spec.workers or 1} worker{'s' * (spec.workers != 1)}, which load the model"


def subject(spec: JobSpec) -> str:
    """ "'archipelago', 2048 x 2048 pixels"."""
    return f"{shorter(spec.prompt)!r}, {spec.width:,} x {spec.height:,} pixels"


def shorter(prompt: str) -> str:
    """The beginning of a prompt, in one line."""
    words = " ".join(prompt.split())
    return words if len(words) <= LONGEST_PROMPT else f"{words[:LONGEST_PROMPT]}..."


# --- before it starts ------------------------------------------------------------------------------------------------


def confirm(job: Job) -> None:
    """Ask before a job of more than an hour or 50 GB; where nobody can answer, refuse and say --yes."""
    from cluster.jobs.report import report_on

    report = report_on(job)
    if report.seconds > SURELY_SHORT:
        report = report_on(job, continuing.measured(job))
    if report.seconds <= ASK_SECONDS and report.disk_peak_bytes <= ASK_BYTES:
        return
    cost = f"about {duration(report.seconds)} and {gigabytes(report.disk_peak_bytes)} of disk"
    agree("job", cost, table_of(report))


def agree(what: str, cost: str, facts: Table | None = None) -> None:
    """Ask whether it may cost so much; SpecError where nobody can answer, typer.Exit for a no."""
    if not sys.stdin.isatty():
        raise SpecError(
            f"this {what} takes {cost}; more than {duration(ASK_SECONDS)} or {gigabytes(ASK_BYTES)} needs a yes: "
            "add --yes"
        )
    if facts is not None:
        Console(stderr=True, emoji=False).print(facts)
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
    how = "measured" if report.measured else "guessed, --calibrate measures"
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
    low, high = map(duration, report.seconds_range)
    yield "time", f"{low} to {high} ({how}: {report.seconds_per_evaluation:.3g} s an evaluation)"
