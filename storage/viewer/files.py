"""Files of a job folder that may be seen, and how they are answered. Knows names and links; knows no pixels."""

from __future__ import annotations

import os
from pathlib import Path

import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from storage.formats.deep_zoom import ENCODINGS

VISIBLE = ("index.html", "panorama.html", "viewer", "image_files", "image.dzi")
NOWHERE = ""
IN_ONE_PIECE = 2**20
NOT_BEGUN = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="color-scheme" content="dark light">
<meta http-equiv="refresh" content="2">
<title>Not begun</title>
<style>body { display: grid; place-items: center; min-height: 90vh; font: 16px/1.5 system-ui, sans-serif; }</style>
<p role="status">This job has not begun to write its picture. The page appears here when it does.</p>
</html>
"""


def is_within(path: str | Path, folder: Path) -> bool:
    """Whether a path, all links followed, lies in a folder (which must be resolved)."""
    return Path(os.path.realpath(path)).is_relative_to(folder)


class VisibleFiles(StaticFiles):
    """Files of a job folder that belong to the page, and only those; a link out of them leads nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        super().__init__(directory=self.folder, follow_symlink=False, check_dir=False)
        self.config_checked = True  # a folder that goes away while it is shown is a 404

    def get_path(self, scope: Scope) -> str:
        """The path below the folder; one that is written in any but the plainest way names nothing."""
        asked, path = scope["path"].removeprefix(scope.get("root_path", "")), super().get_path(scope)
        if asked == "/":
            return "index.html"
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
        return real, status

    async def get_response(self, path: str, scope: Scope) -> Response:
        try:
            return await super().get_response(path, scope)
        except HTTPException as error:
            if error.status_code == 404 and path == "index.html" and self.folder.is_dir():
                return HTMLResponse(NOT_BEGUN)
            raise

    async def tile(self, request: Request) -> Response:
        """A Deep Zoom tile: one file, read in one go."""
        place = request.path_params
        if place["encoding"] not in ENCODINGS:
            raise HTTPException(404)
        name = f"image_files/{place['level']}/{place['column']}_{place['row']}.{place['encoding']}"
        return await anyio.to_thread.run_sync(self._whole_file, name, request)

    def _whole_file(self, name: str, request: Request) -> Response:
        real, status = self.lookup_path(name)
        if status is None or not os.path.isfile(real):
            raise HTTPException(404)
        answer = FileResponse(real, stat_result=status)
        if self.is_not_modified(answer.headers, request.headers):
            return NotModifiedResponse(answer.headers)
        if "range" in request.headers or request.method == "HEAD" or status.st_size > IN_ONE_PIECE:
            return answer
        content = Path(real).read_bytes()
        if len(content) != status.st_size:  # replaced between the two looks
            return FileResponse(real)
        return Response(content, headers=dict(answer.headers))
