"""Tiles of a job folder that are files, and how they are answered. Knows names and links; knows no pixels."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from storage.formats.deep_zoom import ENCODINGS, INDEX, deep_zoom_level, tile_box
from storage.geometry import Box
from storage.pyramid import PyramidLayout

VISIBLE = ("image_files", "image.dzi")
NOWHERE = ""
IN_ONE_PIECE = 2**20


def is_within(path: str | Path, folder: Path) -> bool:
    """Whether a path, all links followed, lies in a folder (which must be resolved)."""
    return Path(os.path.realpath(path)).is_relative_to(folder)


def tile_place(layout: PyramidLayout, number: int, row: int, column: int) -> tuple[int, Box]:
    """The level and the box of a tile by Deep Zoom's numbers. Raises HTTPException 404 outside the picture."""
    level = deep_zoom_level(layout, number)
    if not 0 <= level < layout.deep_levels:
        raise HTTPException(404)
    try:
        return level, tile_box(layout, level, row, column)
    except IndexError:
        raise HTTPException(404) from None


class VisibleFiles(StaticFiles):
    """Tiles of a job folder and their index, and only those; a link out of them leads nowhere."""

    def __init__(self, folder: Path, layout_of: Callable[[], PyramidLayout | None]) -> None:
        """layout_of: the picture's, where its page tells it."""
        self.folder = folder.resolve()
        self._layout_of = layout_of
        super().__init__(directory=self.folder, follow_symlink=False, check_dir=False)
        self.config_checked = True  # a folder that goes away while it is shown is a 404

    def get_path(self, scope: Scope) -> str:
        """The path below the folder; one that is written in any but the plainest way names nothing."""
        asked, path = scope["path"].removeprefix(scope.get("root_path", "")), super().get_path(scope)
        return path if asked == f"/{path}" else NOWHERE

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        nothing = "", None
        if path in (NOWHERE, ".") or "\0" in path:
            return nothing
        asked = Path(os.path.normpath(path)).parts[0]
        try:
            real, status = super().lookup_path(path)
        except (OSError, ValueError):  # a name too long, a loop of links, a folder that may not be read
            return nothing
        if asked not in VISIBLE or not real or not Path(real).is_relative_to(self.folder / asked):
            return nothing
        if asked != INDEX and Path(path).suffix.removeprefix(".") not in ENCODINGS:
            return nothing
        return real, status

    async def tile(self, request: Request) -> Response:
        """A Deep Zoom tile: one file, read in one go. 404 outside the picture, 204 where a job will write it."""
        place = request.path_params
        if place["encoding"] not in ENCODINGS:
            raise HTTPException(404)
        name = f"image_files/{place['level']}/{place['column']}_{place['row']}.{place['encoding']}"
        return await anyio.to_thread.run_sync(self._whole_file, name, request)

    def _not_there(self, request: Request) -> Response:
        place, layout = request.path_params, self._layout_of()
        if layout is None or (self.folder / INDEX).is_file():
            raise HTTPException(404)
        tile_place(layout, place["level"], place["row"], place["column"])
        return Response(status_code=204)

    def _whole_file(self, name: str, request: Request) -> Response:
        real, status = self.lookup_path(name)
        if status is None or not os.path.isfile(real):
            return self._not_there(request)
        answer = FileResponse(real, stat_result=status)
        if self.is_not_modified(answer.headers, request.headers):
            return NotModifiedResponse(answer.headers)
        if "range" in request.headers or request.method == "HEAD" or status.st_size > IN_ONE_PIECE:
            return answer
        content = Path(real).read_bytes()
        if len(content) != status.st_size:  # replaced between the two looks
            return FileResponse(real)
        return Response(content, headers=dict(answer.headers))
