"""Pages to zoom in for large pictures of a batch. Knows PNGs and formats; knows no Parquet.

A picture is written as OME-Zarr, with a page, to a folder on disk that is gone when the server ends; from there it is
seen like any job's. A few of these folders are kept. Memory while one is written: the picture's pixels, once.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from storage.formats.labels import Legend
from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.class_layer import LONGEST_SIDE, write_layer
from viewer.gate import Gate
from viewer.page import Page, write_page
from viewer.sheet import ZOOMED, Sheets, decoded
from viewer.tiles import reading, stamp
from viewer.told import NothingTold

KEPT = 4
ABOUT = {
    "prompt": "prompt",
    "negative_prompt": "negativePrompt",
    "seed": "seed",
    "num_inference_steps": "steps",
}
ABOUT |= {"guidance_scale": "guidanceScale", "id": "id", "fingerprint": "fingerprint"}


class DrawnPictures(NothingTold):
    """What is told of pictures that are there, whole."""

    def status(self, folder: Path) -> Mapping[str, Any]:
        del folder
        return {"state": "finished"}


@dataclass
class Zooms:
    """Hands a request for /pictures/FILE/ROW/... to the routes of that picture's folder, which it writes first."""

    sheets: Sheets
    writing: Gate
    open_folder: Callable[[Path], ASGIApp]
    _scratch: Path | None = None
    _opened: OrderedDict[Hashable, tuple[Path, ASGIApp]] = field(default_factory=OrderedDict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name, row = scope["path_params"]["file"], scope["path_params"]["row"]
        path = await self.sheets.path_of(name)
        key = name, row, stamp(path)
        if key not in self._opened:
            legend = tuple((await self.sheets.sheet()).legend)
            await self.writing.run(reading(lambda: self._open(key, path, row, legend)))
        if key not in self._opened:  # others came in between
            raise HTTPException(503, "busy with other pictures; try again", headers={"Retry-After": "1"})
        self._opened.move_to_end(key)
        await self._opened[key][1](scope, receive, send)

    def _open(self, key: Hashable, path: Path, row: int, legend: Legend) -> None:
        if key in self._opened:
            return
        facts, image = self.sheets.facts(path, row), self.sheets.picture(path, row, "image")
        pixels = np.asarray(decoded(image).convert("RGB"))
        if max(pixels.shape) <= ZOOMED:
            raise HTTPException(404, "a small picture has no page of its own")
        mask = self.sheets.tables.picture(path, row, "mask")
        folder = Path(tempfile.mkdtemp(dir=self._scratch_folder()))
        try:
            write_picture(folder, pixels, facts, legend if mask else ())
            if mask:
                write_layer(folder, _shrunk(np.asarray(decoded(mask).convert("P"), dtype=np.uint8)), legend)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        while len(self._opened) >= KEPT:
            shutil.rmtree(self._opened.popitem(last=False)[1][0], ignore_errors=True)
        self._opened[key] = folder, self.open_folder(folder)

    def _scratch_folder(self) -> Path:
        """Goes with these answers, and at the latest with the process."""
        if self._scratch is None:
            self._scratch = Path(tempfile.mkdtemp(prefix="hypermosaic-view-"))
            weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)
        return self._scratch


def write_picture(folder: Path, pixels: NDArray[np.uint8], facts: Mapping[str, Any], legend: Legend) -> None:
    """(height, width, 3) pixels as OME-Zarr and its page, as a job writes them."""
    height, width, _ = pixels.shape
    layout = PyramidLayout(width, height)
    image = OmeZarr(folder, layout)
    image.create()
    for group in range(layout.groups):
        for task in layout.tasks(group):
            start = layout.reads(task)
            part = (
                image.read_level(start.level, start.box)
                if group
                else pixels[start.box.slices_in(layout.whole(0).box)]
            )
            write_superblock([image], layout, task, part)
    about = {ABOUT[name]: _plain(facts[name]) for name in ABOUT if facts.get(name) not in (None, "")}
    title = str(facts.get("prompt") or facts.get("id") or "picture")
    write_page(folder, Page(title, layout, deep_zoom=False, about=about, classes=legend))


def _plain(value: Any) -> str | int | float:
    return value if isinstance(value, int | float) and abs(value) < 2**53 else str(value)


def _shrunk(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Class ids that a page can hold: every second, or third, and so on, where there are too many."""
    step = -(-max(ids.shape) // LONGEST_SIDE)
    return np.ascontiguousarray(ids[step // 2 :: step, step // 2 :: step])
