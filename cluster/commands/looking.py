"""`status` and `view`. Knows folders of jobs and of batches; changes nothing in them."""

from __future__ import annotations

import json
import shlex
import sys
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cluster.commands.making import Json, shorter
from cluster.commands.streams import console, is_read
from cluster.datasets.names import is_batch
from cluster.datasets.status import BatchStatus, read_batch_status
from cluster.following.progress import Narrow
from cluster.following.status import Status, read_status
from cluster.spec.fields import SpecError
from cluster.wording import duration, one_line, time_left

WATCH_SECONDS = 2.0
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a job, or of a batch.")]


def status(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Follow it until it ends.")] = False,
    as_json: Json = False,
    times: Annotated[
        Path | None,
        typer.Option(help="Write a PNG of the step that each latent has reached.", metavar="FILE"),
    ] = None,
) -> None:
    """Say how far a job is, or a batch."""
    now = read(folder)
    if times is not None:
        _paint_times(folder, times)
    if as_json:
        _json_lines(folder, now, watch)
    elif watch:
        _follow(folder, now)
    else:
        console().print(picture_of(now))


def read(folder: Path) -> Status | BatchStatus:
    """Raises SpecError where there is neither, FormatError where it cannot be read."""
    return read_batch_status(folder) if is_batch(folder) else read_status(folder)


def _paint_times(folder: Path, path: Path) -> None:
    """The picture's path goes to standard error: standard output is the status's."""
    if is_batch(folder):
        raise SpecError(
            f"--times shows the latents of one picture, and {folder} is a batch of many; leave it out"
        )
    if path.suffix.lower() != ".png":
        raise SpecError(f"{path} is not the name of a PNG file; end it in .png")
    from cluster.results.times import write_times

    reached = write_times(folder, path)
    shares = ", ".join(f"step {step}: {100 * share:.1f} %" for step, share in reached.shares().items())
    print(f"{path}: {shares} of the latents, of {reached.steps} steps", file=sys.stderr)


def _json_lines(folder: Path, now: Status | BatchStatus, watch: bool) -> None:
    """One object; a line of it every two seconds where the job is followed."""
    if not watch:
        print(json.dumps(now.as_json(), indent=2))
        return
    print(json.dumps(now.as_json()), flush=True)
    while goes_on(now) and is_read():
        time.sleep(WATCH_SECONDS)
        now = read(folder)
        print(json.dumps(now.as_json()), flush=True)


def _follow(folder: Path, now: Status | BatchStatus) -> None:
    if not sys.stdout.isatty():
        _follow_in_lines(folder, now)
        return
    with Live(framed(now), console=Console(emoji=False), refresh_per_second=2) as live:
        while goes_on(now):
            time.sleep(WATCH_SECONDS)
            now = read(folder)
            live.update(framed(now))


def _follow_in_lines(folder: Path, now: Status | BatchStatus) -> None:
    """For pipes and logs: a line whenever there is something new to say; in the end all that `status` says."""
    said = ""
    while goes_on(now) and is_read():
        if (line := headline_of(now)) != said:
            print(line, flush=True)
        said = line
        time.sleep(WATCH_SECONDS)
        now = read(folder)
    console().print(picture_of(now))


def framed(now: Status | BatchStatus) -> RenderableType:
    """The same, a little narrower than the terminal, whose ^C would else go on in the next line."""
    return Narrow(picture_of(now))


def goes_on(now: Status | BatchStatus) -> bool:
    """Whether there is more to see."""
    return now.state in ("not started", "running")


def picture_of(now: Status | BatchStatus) -> RenderableType:
    """A line of facts, a bar for each group, and what to do next."""
    if isinstance(now, BatchStatus):
        bars = [("requests", now.requests - now.left, now.requests), ("shards", now.shards_done, now.shards)]
        if now.giant is not None:
            bars.append(("large one", round(100 * now.giant), 100))
        advised = Text(batch_advice(now), style="dim")
        return Group(Text(headline_of(now)), _bars(bars), Text(batch_facts(now)), advised)
    bars = [(group.name, group.done, group.total) for group in now.groups]
    return Group(Text(headline_of(now)), _bars(bars), Text(advice(now), style="dim"))


def _bars(rows: list[tuple[str, int, int]]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    for name, done, total in rows:
        bar = ProgressBar(total=max(1, total), completed=done, width=32)
        table.add_row(name, bar, f"{done:,}/{total:,}")
    return table


def progress_words(now: Status | BatchStatus) -> str:
    """ "running, 35 %, 2 min 10 s so far, about 4 min left"; "finished in 2 min 10 s"."""
    if now.state == "finished":
        parts = [f"finished in {duration(now.seconds)}"]
    else:
        so_far = f"{duration(now.seconds)} so far{time_left(now.seconds_left)}"
        parts = [now.state, f"{int(100 * now.share)} %", so_far]
    if now.retried:
        parts.append(f"{now.retried} tasks run again")
    if now.waiting:
        parts.append(now.waiting)
    return ", ".join(parts)


def headline_of(now: Status | BatchStatus) -> str:
    """Which it is, and how far."""
    return batch_headline(now) if isinstance(now, BatchStatus) else headline(now)


def batch_headline(now: BatchStatus) -> str:
    """ "out/set: running, 35 %, 2 min 10 s so far, about 4 min left"."""
    return f"{now.folder}: {progress_words(now)}"


def batch_facts(now: BatchStatus) -> str:
    """ "350 drawn, 2 failed, 648 left; 3.1 images/s, 2 workers"."""
    counts = {
        "drawn": now.drawn,
        "left out by the filter": now.filtered,
        "failed": now.failed,
        "left": now.left,
    }
    parts = [f"{count:,} {name}" for name, count in counts.items() if count or name == "drawn"]
    pace = [f"{now.images_per_second:.3g} images/s"] if now.images_per_second else []
    pace += [f"{now.workers} worker{'s' * (now.workers != 1)}"] if now.workers else []
    return ", ".join(parts) + (f"; {', '.join(pace)}" if pace else "")


def batch_advice(now: BatchStatus) -> str:
    """What the user can do in this state; a batch goes on by the command that began it."""
    match now.state:
        case "finished" | "running":
            failed = (
                f"; the failed ones: {now.folder}/errors.parquet"
                if now.failed and now.state == "finished"
                else ""
            )
            return f"look at it: hypermosaic view {shlex.quote(now.folder)}{failed}"
        case "failed":
            return f"{one_line(now.error or '')}\ngo on with the command that began it, and --resume"
        case _:
            return "go on with the command that began it, and --resume"


def headline(now: Status) -> str:
    """ "islands, 4096x4096: running, 35 %, 2 min 10 s so far, about 4 min left"."""
    return f"{shorter(now.prompt)}, {now.size[0]}x{now.size[1]}: {progress_words(now)}"


def advice(now: Status) -> str:
    """What the user can do in this state."""
    match now.state:
        case "finished":
            return f"open {now.folder}/index.html, or: hypermosaic view {shlex.quote(now.folder)}"
        case "running":
            return f"watch it grow: hypermosaic view {shlex.quote(now.folder)}"
        case "failed":
            return f"{one_line(now.error or '')}\ngo on with: hypermosaic resume {shlex.quote(now.folder)}"
        case _:
            return f"go on with: hypermosaic resume {shlex.quote(now.folder)}"


def view(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Folder of a job, of a batch, or one that holds several.")
    ],
    port: Annotated[
        int, typer.Option(help="Port on this machine; 0 takes a free one.", min=0, max=65535)
    ] = 8000,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open a browser.")] = True,
) -> None:
    """Show a picture, finished or not, or all of a folder, from a small server here until Ctrl-C."""
    from cluster.viewing import viewer_of
    from viewer.server import serve_app

    def ready(address: str) -> None:
        print(address, flush=True)
        if open_browser:
            webbrowser.open(address)

    serve_app(viewer_of(folder), port, ready)
