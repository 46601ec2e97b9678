"""A finished job in another format. Knows jobs and where results may go; knows no format's bytes."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cluster.datasets.names import is_batch
from cluster.following.status import read_status
from cluster.spec import job_file
from cluster.spec.fields import SpecError
from cluster.spec.paths import absolute
from storage.exports.contract import OnProgress, Wishes
from storage.exports.formats import EXPORTS, begins_like, check, strangers, write
from storage.exports.picture import Picture
from storage.exports.view import view_of

VIDEOS = ("mp4", "webm", "gif")
FORMATS = (*EXPORTS, *VIDEOS)
ENDINGS: Mapping[str, str] = {
    ".ome.tif": "ome-tiff",
    ".ome.tiff": "ome-tiff",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".jpeg": "jpeg",
    **{kind.ending: name for name, kind in EXPORTS.items() if not kind.is_folder},
    **{f".{name}": name for name in VIDEOS},
}


@dataclass(frozen=True)
class Still:
    """What of a picture is written, and how; None stands for the default.

    region: (x, y, width, height) in pixels of the full size. scale: in (0, 1]. dpi: pixels an inch that the file
    claims. iiif_id: the address where a IIIF folder will be.
    """

    region: tuple[int, int, int, int] | None = None
    scale: float | None = None
    dpi: float | None = None
    iiif_id: str | None = None


@dataclass(frozen=True)
class Video:
    """What a video shows: the way of a keyframe file, or the way to a place (x, y) or (x, y, zoom).

    size: (width, height) of its frames. easing: "smooth" or "linear". Without a way, it zooms to the middle.
    """

    path: Path | None = None
    zoom_to: tuple[float, ...] | None = None
    loop: bool = False
    fps: float | None = None
    seconds: float | None = None
    size: tuple[int, int] | None = None
    easing: str | None = None


def nobody(done: int, total: int) -> None:
    """Hears of progress, and does nothing."""


def export(
    folder: Path,
    format: str | None,
    out: Path | None,
    *,
    quality: int | None = None,
    still: Still | None = None,
    video: Video | None = None,
    overwrite: bool = False,
    on_progress: OnProgress = nobody,
) -> Path:
    """Write a finished job's picture in a format; returns the path. All that can be refused is refused first."""
    still, video = still or Still(), video or Video()
    folder, out = absolute(folder), None if out is None else absolute(out)
    format = format_of(format, out)
    _check_flags(format, still, video, quality)
    _check_ending(format, out)
    picture = finished_picture(folder)
    target = out or folder.resolve().with_name(f"{folder.resolve().name}{_ending(format)}")
    check_target(format, target, folder, overwrite)
    if format in VIDEOS:
        _write_video(format, picture, target, quality, video, on_progress)
    else:
        view = view_of(picture, still.region, 1.0 if still.scale is None else still.scale)
        told = {"quality": quality, "iiif_id": still.iiif_id, "dpi": still.dpi}
        wishes = Wishes(**{name: value for name, value in told.items() if value is not None})  # type: ignore[arg-type]
        check(format, view, wishes)
        target.parent.mkdir(parents=True, exist_ok=True)
        write(format, view, target, wishes, on_progress)
    return target


def export_labels(
    folder: Path, out: Path | None, *, overwrite: bool = False, on_progress: OnProgress = nobody
) -> Path:
    """Write a finished job's class map as a TIFF with a palette; returns the path."""
    from storage.exports.class_map import write_class_map

    folder, out = absolute(folder), None if out is None else absolute(out)
    finished_picture(folder)
    target = out or folder.resolve().with_name(f"{folder.resolve().name}.classes.tif")
    if target.suffix.lower() not in (".tif", ".tiff"):
        raise SpecError(
            f"class maps are written as TIFF, and {target} does not end in .tif; choose another --out"
        )
    check_target("tiff", target, folder, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_class_map(folder, target, on_progress)
    return target


def format_of(format: str | None, out: Path | None) -> str:
    """The format asked for, or the one that the ending of `out` names."""
    if format is not None:
        if format not in FORMATS:
            raise SpecError(f"no export is called {format!r}; choose {', '.join(FORMATS)}")
        return format
    name = "" if out is None else out.name.lower()
    for ending, meant in ENDINGS.items():
        if name.endswith(ending):
            return meant
    raise SpecError(f"which format? add --format, one of {', '.join(FORMATS)}")


def finished_picture(folder: Path) -> Picture:
    """Raises SpecError where a folder has no finished job: it says how far it is and what to do."""
    if not folder.is_dir():
        raise SpecError(f"{folder} is no folder; give the folder of a finished job")
    if is_batch(folder):
        raise SpecError(
            f"{folder} is a batch, whose pictures are in its Parquet files; for plain files run the batch again with "
            "--resume --folders"
        )
    if (folder / job_file.NAME).is_file() and (now := read_status(folder)).state != "finished":
        what = (
            f"wait for it: hypermosaic status {shlex.quote(str(folder))} --watch"
            if now.state == "running"
            else f"finish it first: hypermosaic resume {shlex.quote(str(folder))}"
        )
        raise SpecError(f"{folder} is not finished ({now.state}, {int(100 * now.share)} % done); {what}")
    return Picture.open(folder)


def check_target(format: str, target: Path, folder: Path, overwrite: bool) -> None:
    """Raises SpecError where writing to `target` would destroy anything but an earlier export of that kind."""
    job = folder.resolve()
    if job.is_relative_to(target.resolve()):
        raise SpecError(f"{target} holds the job itself; choose another --out")
    if any(place.is_relative_to(job) for place in (target.resolve(), target.parent.resolve() / target.name)):
        raise SpecError(f"{target} lies in the job's own folder; choose an --out beside {folder}")
    if not os.path.lexists(target):
        return
    _check_earlier(format, target)
    if not overwrite:
        raise SpecError(f"{target} exists; add --yes to replace it, or choose another --out")


def _check_earlier(format: str, target: Path) -> None:
    """Raises SpecError where a path that exists is no earlier export in the format, nor an empty folder."""
    marks = EXPORTS[format].marks if format in EXPORTS else ()
    if target.is_dir() != bool(marks):
        kind, needed = ("folder", "file") if target.is_dir() else ("file", "folder")
        raise SpecError(f"{target} is a {kind} and {format} makes a {needed}; choose another --out")
    if not marks:
        if not begins_like(format, target):
            raise SpecError(f"{target} exists and is no {format} file; choose another --out")
        return
    other = next(strangers(format, target), None)
    if other is not None:
        raise SpecError(f"{target} holds other files, such as {other}; choose a new folder with --out")
    if any(target.iterdir()) and not all((target / mark).exists() for mark in marks):
        raise SpecError(f"{target} holds only parts of a {format} export; choose a new folder with --out")


def _ending(format: str) -> str:
    return EXPORTS[format].ending if format in EXPORTS else f".{format}"


def _check_ending(format: str, out: Path | None) -> None:
    """Raises SpecError where the name of a file says another format."""
    if out is None or (format in EXPORTS and EXPORTS[format].is_folder):
        return
    if not out.name.lower().endswith(tuple(ENDINGS)):
        return
    meant = format_of(None, out)
    if meant != format and (meant, format) != ("tiff", "ome-tiff"):
        raise SpecError(f"{out} has the ending of {meant}, and the format is {format}; choose another --out")


def _check_flags(format: str, still: Still, video: Video, quality: int | None) -> None:
    """Settings of a video say nothing about a still picture, nor the other way."""
    if format == "gif" and quality is not None:
        raise SpecError(f"quality {quality} means nothing for gif, which has a palette; leave --quality out")
    settings, other = (still, "videos") if format in VIDEOS else (video, "still pictures")
    usual = {field.name: field.default for field in fields(settings)}
    for name, value in asdict(settings).items():
        if value != usual[name]:
            shown = "video-size" if name == "size" else name.replace("_", "-")
            raise SpecError(f"--{shown} is not for {other} such as {format}; leave it out")


def _write_video(
    format: str, picture: Picture, target: Path, quality: int | None, video: Video, on_progress: OnProgress
) -> None:
    from storage.exports.frames import canvas_of
    from storage.exports.path import CameraPath, read_keyframes, zoom_to
    from storage.exports.video import USUAL_FPS, USUAL_SIZE, write_video

    width, height = video.size or USUAL_SIZE[format]
    canvas = canvas_of(picture)
    easing = video.easing or "smooth"
    path: CameraPath
    if video.path is not None:
        if video.zoom_to is not None or video.seconds is not None:
            raise SpecError(
                "a keyframe file says where and when; leave --zoom-to and --seconds out, or --path"
            )
        path = read_keyframes(video.path, canvas, easing=easing, loop=video.loop)
    else:
        place = video.zoom_to or (picture.width / 2, picture.height / 2)
        zoom = place[2] if len(place) > 2 else None
        path = zoom_to(
            canvas, width / height, place[0], place[1], zoom, video.seconds, easing=easing, loop=video.loop
        )
    settings: dict[str, Any] = {
        "fps": USUAL_FPS[format] if video.fps is None else video.fps,
        "quality": quality,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    write_video(
        picture, path, target, format=format, width=width, height=height, on_progress=on_progress,
        **{name: value for name, value in settings.items() if value is not None},
    )  # fmt: skip
