"""The table of exports: what each is called on disk, how it is known there, what it needs. Imports each when asked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from storage.exports.contract import ExportError, OnProgress, Wishes, appearing
from storage.exports.view import View

Write = Callable[[View, Path, str, Wishes, OnProgress], None]

BEGINNINGS: Mapping[str, bytes] = {
    "szi": rb"PK\x03\x04",
    "tiff": rb"II\+\x00|MM\x00\+",
    "ome-tiff": rb"II\+\x00|MM\x00\+",
    "png": rb"\x89PNG\r\n\x1a\n",
    "jpeg": rb"\xff\xd8\xff",
    "webp": rb"RIFF....WEBP",
    "mp4": rb"....ftyp",
    "webm": rb"\x1a\x45\xdf\xa3",
    "gif": rb"GIF8",
}
"""How files of each format begin; regular expressions."""
CONTENTS: Mapping[str, str] = {
    "deep-zoom": r"image\.(dzi|xmp)|image_files/\d+/\d+_\d+\.(jpg|png|webp)",
    "iiif": r"info\.json|image\.xmp|(full|\d+,\d+,\d+,\d+)/(max|\d+,\d+)/0/default\.jpg",
}
"""What folders of each format hold; regular expressions of paths in them."""


def _flat(format: str, view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import flat

    del name
    flat.write(format, view, path, wishes, on_progress)


def _tiff(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import tiff

    tiff.write_tiff(view, path, name, wishes, on_progress)


def _ome_tiff(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import tiff

    tiff.write_ome_tiff(view, path, name, wishes, on_progress)


def _deep_zoom(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import tiles

    tiles.write_deep_zoom(view, path, name, wishes, on_progress)


def _szi(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import tiles

    tiles.write_szi(view, path, name, wishes, on_progress)


def _iiif(view: View, path: Path, name: str, wishes: Wishes, on_progress: OnProgress) -> None:
    from storage.exports import tiles

    tiles.write_iiif(view, path, name, wishes, on_progress)


@dataclass(frozen=True)
class Export:
    """One format. ending: of its name, behind that of the job; marks: files by which its folder is known.

    needs: modules of the extra `export`.
    """

    ending: str
    write: Write
    needs: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()

    @property
    def is_folder(self) -> bool:
        return bool(self.marks)


EXPORTS: Mapping[str, Export] = {
    "deep-zoom": Export("-deep-zoom", _deep_zoom, marks=("image.dzi", "image_files", "image.xmp")),
    "szi": Export(".szi", _szi),
    "iiif": Export("-iiif", _iiif, marks=("info.json", "full", "image.xmp")),
    "tiff": Export(".tif", _tiff, needs=("tifffile", "pyvips")),
    "ome-tiff": Export(".ome.tif", _ome_tiff, needs=("tifffile", "pyvips")),
    "png": Export(".png", partial(_flat, "png"), needs=("pyvips",)),
    "jpeg": Export(".jpg", partial(_flat, "jpeg"), needs=("pyvips", "piexif")),
    "webp": Export(".webp", partial(_flat, "webp"), needs=("pyvips", "piexif")),
}


def check(format: str, view: View, wishes: Wishes) -> None:
    """Raises ExportError for what a format cannot hold or do, and where its libraries are missing. Writes nothing."""
    needs = EXPORTS[format].needs
    if "tifffile" in needs and wishes.quality is not None:
        needs = (*needs, "imagecodecs")  # tifffile asks for it before it takes JPEG tiles
    missing = [module for module in needs if find_spec(module) is None]
    if missing:
        raise ExportError(
            f"{format} needs {' and '.join(missing)}, which is not installed: pip install 'hypermosaic[export]'"
        )
    if wishes.quality is not None and format == "png":
        raise ExportError(
            f"quality {wishes.quality} means nothing for png, which is lossless; leave --quality out"
        )
    if wishes.iiif_id is not None and format != "iiif":
        raise ExportError(f"--iiif-id is for iiif, not for {format}; leave it out")
    if wishes.iiif_id is not None and not re.match(r"https?://[^\s/?#]+[^\s?#]*$", wishes.iiif_id):
        raise ExportError(
            f"iiif-id {wishes.iiif_id!r} is no address; write it like https://example.org/iiif/islands"
        )
    if format in ("png", "jpeg", "webp"):
        from storage.exports import flat

        flat.check(format, view)


def write(format: str, view: View, path: Path, wishes: Wishes, on_progress: OnProgress) -> None:
    """Write a view to a path, which then appears, or is replaced, at once.

    Takes less than 500 MB. Raises ExportError for what cannot be and OSError where it cannot be written; then, as after
    Ctrl-C, nothing is left of it.
    """
    check(format, view, wishes)
    name = path.name.removesuffix(EXPORTS[format].ending) if not EXPORTS[format].is_folder else path.name
    with appearing(path) as unfinished:
        EXPORTS[format].write(view, unfinished, name, wishes, on_progress)


# --- what is there already -------------------------------------------------------------------------------------------


def begins_like(format: str, path: Path) -> bool:
    """Whether a path is a file that begins as the format's files do."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return re.match(BEGINNINGS[format], file.read(16), re.DOTALL) is not None


def strangers(format: str, folder: Path) -> Iterator[str]:
    """Paths in a folder that no export in the format writes: files, links and empty folders."""
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        linked = [name for name in folders if (here / name).is_symlink()]
        empty = [] if folders or files or here == folder else [here]
        for path in (*empty, *(here / name for name in (*files, *linked))):
            inside = path.relative_to(folder).as_posix()
            if not re.fullmatch(CONTENTS[format], inside):
                yield inside
