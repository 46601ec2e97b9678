"""`export`: a finished picture in the formats of other programs. Knows flags and progress; writes no pixel."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.following.showing import counted
from cluster.spec.fields import SpecError
from cluster.spec.job_file import sides

STILL, VIDEO = "Pictures", "Videos (mp4, webm, gif)"
NAMES = "deep-zoom, szi, iiif, tiff, ome-tiff, png, jpeg, webp, mp4, webm or gif"


def _option(help: str, *names: str, panel: str | None = None, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a finished job.")],
    format: Annotated[
        str | None, _option(f"{NAMES} (default: by the ending of --out).", metavar="NAME")
    ] = None,
    out: Annotated[
        Path | None,
        _option("Where (default: beside DIR, with the format's ending).", "--out", "-o", metavar="PATH"),
    ] = None,
    quality: Annotated[
        int | None,
        _option("1 to 100 (default: 90, videos 75; tiff and ome-tiff: lossless, with it JPEG).", metavar="Q"),
    ] = None,
    labels: Annotated[
        bool, typer.Option("--labels", help="Write the class map instead: a TIFF with a palette.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", "--overwrite", help="Replace an earlier export.")
    ] = False,
    region: Annotated[
        str | None, _option("A part, in pixels of the full size.", panel=STILL, metavar="X,Y,W,H")
    ] = None,
    scale: Annotated[float | None, _option("Above 0, to 1: full size.", panel=STILL, metavar="S")] = None,
    dpi: Annotated[
        float | None, _option("Pixels an inch, for print (default: 300).", panel=STILL, metavar="N")
    ] = None,
    iiif_id: Annotated[
        str | None, _option("Address where the IIIF folder will be.", panel=STILL, metavar="URL")
    ] = None,
    path: Annotated[
        Path | None, _option("Keyframes, as the page saves them.", panel=VIDEO, metavar="FILE")
    ] = None,
    zoom_to: Annotated[
        str | None,
        _option("Zoom to a place (default: the middle).", panel=VIDEO, metavar="X,Y[,ZOOM]"),
    ] = None,
    loop: Annotated[bool, typer.Option("--loop", help="And back again.", rich_help_panel=VIDEO)] = False,
    fps: Annotated[
        float | None, _option("Frames a second (default: 30; gif: 15).", panel=VIDEO, metavar="N")
    ] = None,
    seconds: Annotated[
        float | None, _option("How long (default: by the way).", panel=VIDEO, metavar="S")
    ] = None,
    video_size: Annotated[
        str | None,
        _option("Size of a frame (default: 1280x720; gif: 640x360).", panel=VIDEO, metavar="WIDTHxHEIGHT"),
    ] = None,
    easing: Annotated[str | None, _option("smooth (default) or linear.", panel=VIDEO)] = None,
) -> None:
    """Write a finished picture, or a part of it, or a flight into it, as a file for other programs."""
    from cluster.results import exporting

    if labels:
        settings = (
            format,
            quality,
            region,
            scale,
            dpi,
            iiif_id,
            path,
            zoom_to,
            fps,
            seconds,
            video_size,
            easing,
        )
        if loop or any(value is not None for value in settings):
            raise SpecError("--labels writes the class map as it is; it takes --out and --yes only")
        with counted("export") as on_progress:
            print(exporting.export_labels(folder, out, overwrite=yes, on_progress=on_progress))
        return
    still = exporting.Still(_region(region), scale, dpi, iiif_id)
    size = sides(video_size)
    video = exporting.Video(
        path, _place(zoom_to), loop, fps, seconds, (size["width"], size["height"]) if size else None, easing
    )
    with counted("export") as on_progress:
        target = exporting.export(
            folder, format, out, quality=quality, still=still, video=video, overwrite=yes, on_progress=on_progress
        )  # fmt: skip
    if exporting.format_of(format, out) == "iiif" and iiif_id is None:
        print(
            f'info.json says "id": "{target.name}", which only pages beside the folder understand; '
            "for other viewers give its address with --iiif-id",
            file=sys.stderr,
        )
    print(target)


def _region(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise SpecError(
            f"region {text!r} is not x,y,width,height; write it like 0,0,4096,4096, in pixels"
        ) from None
    return x, y, width, height


def _place(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        place = tuple(float(part) for part in text.split(","))
    except ValueError:
        place = ()
    if len(place) not in (2, 3):
        raise SpecError(f"place {text!r} is not x,y or x,y,zoom; write it like 2048,1024, in pixels")
    return place
