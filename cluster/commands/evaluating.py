"""`evaluate`: how good a model is, or a picture. Knows flags and the table; knows no figure.

hypermosaic evaluate [model] MODEL        hypermosaic evaluate seams DIR
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from cluster.commands.helping import Command, CommandGroup
from cluster.commands.making import Json
from cluster.commands.seams import seams
from cluster.commands.streams import console
from cluster.commands.training import Cache, Data, Threads, given, kept, settled

if TYPE_CHECKING:
    from generation.training.config import TrainConfig
    from generation.training.evaluation.judging import Evaluation


class ModelFirst(CommandGroup):
    """A group whose first word may be left out: what names none of its commands is a model, or a flag about one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = (*self.commands, *ctx.help_option_names)
        return super().parse_args(ctx, args if args and args[0] in known else ["model", *args])


app = typer.Typer(
    name="evaluate",
    cls=ModelFirst,
    rich_markup_mode=None,
    help="Judge a model, or a picture: `evaluate MODEL` is `evaluate model MODEL`.",
)


@app.command("model", cls=Command)
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="embedded, or a model folder.")] = "embedded",
    data: Data = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The run's settings (default: train.yaml beside the model).", metavar="FILE"),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option(
            help="The run's folder, for its exact latents (default: beside the model).", metavar="DIR"
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="The figures as a file.", metavar="FILE")] = Path(
        "evaluation.json"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer samples: minutes become one.")] = False,
    threads: Threads = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Judge a class-map model: KID, class fidelity, seams, memorisation, codec."""
    run = run or beside(model)
    flags = given({"data": data, "cache": cache, "threads": threads})
    settings = settled(config or kept(run), {"out": run or Path(), **flags})
    from generation.models.loading import load
    from generation.training.evaluation import judging
    from generation.training.evaluation.kid import lite0_features
    from generation.training.trainers import cache_of, open_sets

    logging.getLogger("generation.training").setLevel(logging.INFO)
    loaded = load(model)
    features = lite0_features(settings.threads)
    sets = open_sets(settings, max(loaded.info.patch * loaded.info.scale, judging.PATCH))
    subject = judging.JudgedSubject(loaded, sets, about(settings), cache_of(settings), run)
    found = judging.evaluate(subject, features, model, judging.QUICK if quick else judging.FULL)
    judging.write_evaluation(found, out)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
    else:
        console().print(table_of(found))


app.command(cls=Command)(seams)


def beside(model: str) -> Path | None:
    """The folder of the run that made a model: the one that holds it, if there are settings in it."""
    parent = Path(model).parent
    return parent if Path(model).is_dir() and kept(parent) else None


def about(settings: TrainConfig) -> str:
    """The data in a word."""
    return str(settings.data.folder or settings.data.parquet or "earth")


def table_of(found: Evaluation) -> Table:
    """Figure, value, meaning."""
    from generation.training.evaluation.judging import rows_of

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for row in rows_of(found):
        table.add_row(*row)
    return table
