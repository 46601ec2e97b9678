"""`evaluate seams`: whether borders of the engine show in a picture. Knows flags and the table; knows no figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.commands import streams
from cluster.commands.making import Json
from cluster.following.showing import counted
from cluster.spec.fields import SpecError

if TYPE_CHECKING:
    from cluster.results.seams import SeamReport, SeamRow
    from generation.seams.ratios import Seam


def seams(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished job.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Write a PNG that shows where.", metavar="FILE", show_default=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Say whether borders of patches, blocks or tiles show in a picture. The exit code is 0 whatever is found."""
    if out is not None and out.suffix.lower() != ".png":
        raise SpecError(f"{out} is not the name of a PNG file; end it in .png")
    from cluster.results.seams import find_seams

    with counted("seams") as on_progress:
        found = find_seams(folder, on_progress)
    if out is not None:
        from cluster.results.seam_picture import write_picture

        write_picture(found, out)
        print(out, file=sys.stderr)
    if as_json:
        print(json.dumps(found.as_json(), indent=2))
        return
    output = streams.console()
    output.print(fitting(found, output))
    output.print(said(found), highlight=False, soft_wrap=True)


def fitting(found: SeamReport, console: Console) -> Table:
    """The most telling table that a terminal has room for: nothing in it is cut."""
    tables = (table_of(found, directions, about) for directions, about in ((3, True), (3, False), (1, False)))
    *_, narrowest = held = list(tables)
    unbounded = console.options.update(width=streams.UNBOUNDED)
    fit = (table for table in held if console.measure(table, options=unbounded).maximum <= console.width)
    return next(fit, narrowest)


def table_of(found: SeamReport, directions: int, about: bool) -> Table:
    """A row for each kind of border. directions: 3, or 1: the worst; about: with how far apart its lines are."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("borders")
    for name in ("horizontal", "vertical", "both") if directions > 1 else ("worst direction",):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict")
    if about:
        table.add_column("", style="dim")
    for row in found.rows:
        shown = (row.horizontal, row.vertical, row.both) if directions > 1 else (row.worst,)
        verdict = f"[{style_of(row)}]{row.verdict}[/]"
        table.add_row(row.name, *map(figure, shown), verdict, *([row.about] if about else []))
    return table


def figure(seam: Seam) -> str:
    """ "1.012 ± 0.008"; a dash where there is no line."""
    if not seam.pixels:
        return "-"
    return f"{seam.ratio:.3f} ± {seam.error:.3f}" if seam.error < 10 else f"{seam.ratio:.3f}"


def style_of(row: SeamRow) -> str:
    """The colour in which rich writes a row: red for a seam, yellow where it is unclear."""
    if row.is_seam:
        return "bold red"
    return "yellow" if row.verdict == "unclear" else "green"


def said(found: SeamReport) -> str:
    """What was measured, and what comes of the table."""
    from generation.seams.ratios import GATE

    strongest = found.strongest
    lines = [
        f"Differences across borders over those beside them, in {found.source}; inside: 1 ± {GATE:g}.",
        f"Strongest seam: {strongest.name}." if strongest else "No seam found.",
    ]
    if found.absent:
        lines.insert(1, f"No line inside the picture: {', '.join(found.absent)}.")
    return "\n".join(lines)
