"""A small server for looking at one job folder. Knows HTTP and what of the folder may be seen; writes nothing.

    /                          index.html
    /viewer/..., /image_files/..., /image.dzi       files, with ranges and HEAD
    /tiles/LEVEL/COLUMN_ROW.jpg                     cut out of the OME-Zarr image, levels numbered as in Deep Zoom

Listens on the loopback address and answers only to its names, so that no page elsewhere can read through it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from storage.formats.deep_zoom import deep_zoom_level, encode, tile_box
from storage.formats.ome_zarr import OmeZarr, image_root, open_image
from storage.geometry import Box
from storage.pyramid import linear_to_srgb_u8, reduce_half_srgb

HOST = "127.0.0.1"
VISIBLE = ("index.html", "viewer", "image_files", "image.dzi")
LONGEST_PATH = 1024
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # a job that is still running writes tiles; their ETag saves the bytes
    # OpenSeadragon adds one style element of its own, hence 'unsafe-inline' for styles; scripts come from files only.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}


class VisibleFiles(StaticFiles):
    """Files of a job folder that belong to the page, and only those; a link out of them leads nowhere."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        super().__init__(directory=self.folder, follow_symlink=False)

    def get_path(self, scope: Scope) -> str:
        path = super().get_path(scope)
        return "index.html" if path == "." else path

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        nothing = "", None
        if "\0" in path:
            return nothing
        asked = Path(os.path.normpath(path)).parts[0]
        real, status = super().lookup_path(path)
        if asked not in VISIBLE or not real or not Path(real).is_relative_to(self.folder / asked):
            return nothing
        return real, status


class SafeAnswers:
    """Adds the same headers to every answer, refusals included, and refuses paths that no page asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif len(scope["path"]) > LONGEST_PATH:
            await Response("path too long", 414)(scope, receive, send_with_headers)
        else:
            await self.app(scope, receive, send_with_headers)


class TilesOfImage:
    """JPEG tiles cut out of the OME-Zarr image of a folder, when asked for."""

    def __init__(self, folder: Path) -> None:
        self.image: Callable[[], OmeZarr] = cache(lambda: open_image(folder))
        self.present = image_root(folder).joinpath("zarr.json").is_file

    def answer(self, request: Request) -> Response:
        numbers = request.path_params
        if not self.present():
            raise HTTPException(404)
        layout = self.image().layout
        level = deep_zoom_level(layout, numbers["level"])
        try:
            box = tile_box(layout, level, numbers["row"], numbers["column"])
        except IndexError as error:
            raise HTTPException(404) from error
        return Response(encode(pixels_of(self.image(), level, box), "jpg"), media_type="image/jpeg")


def pixels_of(image: OmeZarr, level: int, box: Box) -> NDArray[np.uint8]:
    """Pixels of a box of any Deep Zoom level; those below the last OME-Zarr level are reduced from it."""
    last = image.layout.levels - 1
    if level <= last:
        return image.read_level(level, box)
    pixels = image.read_level(last, image.layout.whole(last).box)
    for _ in range(level - last):
        pixels = linear_to_srgb_u8(reduce_half_srgb(pixels))
    return pixels


def build_app(folder: Path) -> Starlette:
    """The application for one job folder, which must hold a page."""
    if not (folder / "index.html").is_file():
        raise FileNotFoundError(
            f"{folder} holds no index.html; give the folder that a job wrote its picture to"
        )
    return Starlette(
        routes=[
            Route(
                "/tiles/{level:int}/{column:int}_{row:int}.jpg", TilesOfImage(folder).answer, methods=["GET"]
            ),
            Mount("/", VisibleFiles(folder)),
        ],
        middleware=[
            Middleware(SafeAnswers),
            Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"], www_redirect=False),
        ],
    )


def serve(folder: Path, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve a job folder until interrupted. Port 0 takes a free one; `on_ready` is told the address."""
    app = build_app(folder)
    with socket.create_server((HOST, port)) as listening:
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, server_header=False, lifespan="off"
        )
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        uvicorn.Server(config).run(sockets=[listening])
