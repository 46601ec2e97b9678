"""`verify`: whether a folder still holds what was written to it. Knows flags and words; knows not how that is found."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.commands.boundary import FAILURE
from cluster.commands.looking import Folder
from cluster.commands.making import AllowPickle, Debug, Json, NeverAsks, finish
from cluster.commands.session import session_of
from cluster.datasets.names import is_batch
from cluster.engine import continuing
from cluster.spec.fields import SpecError
from cluster.spec.paths import absolute

if TYPE_CHECKING:
    from cluster.verifying import Verdict


def verify(
    context: typer.Context,
    folder: Folder,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what is damaged of a picture; go on to its end.")
    ] = False,
    allow_pickle: AllowPickle = False,
    yes: NeverAsks = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Read all that a job has written, or a batch's shards, and say what is damaged (exit code 1)."""
    del yes
    session_of(context).debug |= debug
    from cluster import api

    if repair:
        _repair(context, absolute(folder), allow_pickle)
        return
    verdict = api.verify(folder)
    if as_json:
        print(json.dumps(verdict.as_json(), indent=2))
    else:
        for name in verdict.damaged:
            print(name)
        print(said(verdict), file=sys.stderr)
    if not verdict.is_whole:
        raise typer.Exit(FAILURE)


def _repair(context: typer.Context, folder: Path, allow_pickle: bool) -> None:

    if is_batch(folder):
        raise SpecError(
            f"{folder} is a batch, whose shards are read whenever it goes on: give its command again, with --resume"
        )
    finish(context, continuing.continued(folder, None, None, allow_pickle), thorough=True)


def said(verdict: Verdict) -> str:
    """What was found, in a line."""
    there = max(verdict.read, len(verdict.damaged))
    many = f"{there} output{'s' * (there != 1)}"
    if verdict.is_whole:
        rest = "" if verdict.finished else "; it is not finished"
        return f"{verdict.folder} is whole: {many} read{rest}"
    how = "; the batch's command makes it again, with --resume"
    if not is_batch(Path(verdict.folder)):
        how = f"; hypermosaic verify --repair {shlex.quote(verdict.folder)} makes it again"
    if verdict.advice:
        how = f"; {'; '.join(verdict.advice)}"
    return f"{len(verdict.damaged)} of {many} of {verdict.folder} missing or not as written{how}"
