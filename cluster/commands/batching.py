"""`batch`: many pictures from a table of requests, as a dataset. Knows flags; draws nothing."""

from __future__ import annotations

import shlex
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.boundary import FAILURE
from cluster.commands.flags import NONE_GIVEN, REQUESTS, SpecFlags, seeded, with_spec_flags
from cluster.commands.making import ASK_BYTES, Debug, Yes, agree, shorter, waited_for
from cluster.commands.session import session_of
from cluster.following.showing import shown
from cluster.spec.defaults import slug
from cluster.spec.settings import RUN
from cluster.wording import gigabytes

if TYPE_CHECKING:
    from cluster.datasets.disk import DiskNeed
    from cluster.spec.fields import JobSpec

FILES = "Files"


def _flag(help: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


@partial(with_spec_flags, batch=True)
def batch(
    context: typer.Context,
    requests: Annotated[
        Path | None,
        typer.Argument(metavar="TABLE", help="Requests: .parquet, .csv or .jsonl.", show_default=False),
    ] = None,
    n_images: Annotated[
        int | None,
        _flag(
            "So many pictures of the same label, instead of a table.",
            REQUESTS,
            "--n-images",
            "-n",
            metavar="N",
        ),
    ] = None,
    flags: SpecFlags = NONE_GIVEN,
    filter: Annotated[
        str | None,
        _flag(
            "Judge of pictures: False leaves one out, a number is its score.",
            FILES,
            metavar="MODULE:FUNCTION",
        ),
    ] = None,
    webdataset: Annotated[bool, _flag("Write WebDataset tars too.", FILES, "--webdataset")] = False,
    folders: Annotated[bool, _flag("Write plain folders of PNGs too.", FILES, "--folders")] = False,
    resume: Annotated[bool, _flag("Go on where DIR holds this batch.", RUN, "--resume")] = False,
    retry_failed: Annotated[
        bool, _flag("The same, and draw requests that failed once more.", RUN, "--retry-failed")
    ] = False,
    plan: Annotated[
        bool, _flag("Check all requests, say what they take on disk, and make nothing.", RUN, "--plan")
    ] = False,
    yes: Yes = False,
    debug: Debug = False,
) -> None:
    """Make a dataset of many pictures: Parquet shards with images, masks, prompts and seeds.

    A table has a column id, and columns that are called like the flags under Requests (classes, too: a path or the
    bytes of an image). What a row leaves out comes from the flags.
    """
    session = session_of(context)
    session.debug |= debug
    asked = flags.fields()
    fields = seeded(asked)
    fields.setdefault("out", _folder(requests, fields))

    if (requests is None) != (n_images is None):  # otherwise the table is refused below, in the next line
        what = _asked(requests, n_images, str(fields.get("prompt", "")))
        session.announce(f"a batch, {what}, in {fields['out']}: reading the model and checking all requests")

    from cluster.datasets.entry import make_batch, plan_batch, table_of
    from cluster.datasets.extras import Extras
    from cluster.engine.executors import make_here

    table, extras = table_of(requests, n_images), Extras(webdataset, folders)
    if plan:
        planned, need = plan_batch(table, fields, filter=filter, extras=extras)
        print(
            f"{planned.requests:,} requests in {planned.shards:,} shard{'s' * (planned.shards != 1)}, nothing drawn"
        )
        print(need.line())
        need.check()
        return
    drawn = () if fields.get("seed") == asked.get("seed") else ("--seed", str(fields["seed"]))
    session.command = shlex.join(["hypermosaic", *sys.argv[1:], *drawn, *(() if resume else ("--resume",))])

    def told(need: DiskNeed) -> None:
        print(need.line(), file=sys.stderr)
        if not (yes or resume or retry_failed) and need.expected > ASK_BYTES:
            agree("batch", f"about {gigabytes(need.expected)} of disk")

    def claimed(spec: JobSpec) -> None:
        session.begin()
        session.announce(waited_for(spec))

    with shown() as listener:
        result = make_batch(
            table, fields, filter=filter, extras=extras, resume=resume, retry_failed=retry_failed, on_event=listener,
            on_planned=told, on_claimed=claimed, make=make_here,
        )  # fmt: skip
    session.running = False
    print(result.folder)
    counts = asdict(result.summary)
    if counts["filtered"]:
        print(
            f"{counts['filtered']} of {counts['requests']} pictures were left out by the filter",
            file=sys.stderr,
        )
    if counts["failed"]:
        print(
            f"{counts['failed']} of {counts['requests']} requests failed: see {result.folder / 'errors.parquet'}",
            file=sys.stderr,
        )
        raise typer.Exit(FAILURE)


def _asked(requests: Path | None, n_images: int | None, prompt: str) -> str:
    """ "requests.csv", "1,000 of 'forest'"."""
    if requests is not None:
        return requests.name
    return f"{n_images:,} of {shorter(prompt)!r}" if prompt else f"{n_images:,} pictures"


def _folder(requests: Path | None, fields: dict[str, Any]) -> Path:
    name = requests.stem if requests is not None else slug(str(fields.get("prompt", "batch")))
    return Path("out") / name
