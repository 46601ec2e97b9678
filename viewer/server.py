"""A small server for looking at job folders. Knows addresses and how much is done at once; writes nothing.

    /                          index.html of the job                     or, above several jobs, the gallery
    /viewer/...                the package's own scripts                 /jobs/ID/...    the same below each job
    /image.dzi                 a file
    /image_files/LEVEL/COLUMN_ROW.jpg    Deep Zoom tiles                 /cards.html     the gallery's cards
    /tiles/LEVEL/COLUMN_ROW.jpg          cut out of the OME-Zarr image   /assets/HASH/...
    /region.png, /region.jpg   ?x=&y=&w=&h=&scale=: a rectangle
    /preview.png, /thumbnail.jpg         the whole picture, small
    /api/status.json           how far the job is

A batch has a page of its own, whose addresses viewer.sheet lists, and /pictures/FILE/ROW/... as of a job for
each of its large pictures.
Listens on the loopback address and answers only to its names, so that no page elsewhere can read through it.
"""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp

from storage.containers import cores
from viewer.assets import asset
from viewer.connections import RoomForOthers
from viewer.files import VisibleFiles
from viewer.gallery import Gallery, Jobs, Registry
from viewer.gate import Gate
from viewer.own_page import OwnPage, layout_of
from viewer.parquet import Tables
from viewer.regions import RegionAnswers
from viewer.safety import HOST, NAMES, SafeAnswers
from viewer.sheet import Sheets
from viewer.shelf import Shelf
from viewer.smalls import Smalls
from viewer.tiles import Cache, Masters, TilesOfImage, is_current, reading
from viewer.told import NothingTold, Teller
from viewer.zooms import DrawnPictures, Zooms

NOTHING_TOLD = NothingTold()
MOST_CONNECTIONS = 512
TERMINATED = 128 + signal.SIGTERM
GRACE_SECONDS = 2
"""For answers under way when the server is stopped."""


@dataclass(frozen=True)
class Workshop:
    """What all jobs of one server share: one memory, and bounds on what is done at once."""

    teller: Teller
    gallery: str | None = None
    """Where the gallery is, as seen from a job's page."""
    cache: Cache = field(default_factory=Cache)
    decoding: Gate = field(default_factory=lambda: Gate(at_once=max(2, min(8, cores())), waiting=64))
    cutting: Gate = field(default_factory=lambda: Gate(at_once=1, waiting=4))
    asking: Gate = field(default_factory=lambda: Gate(at_once=1, waiting=64))
    rewriting: Gate = field(default_factory=lambda: Gate(at_once=1, waiting=16))
    opening: Gate = field(default_factory=lambda: Gate(at_once=1, waiting=128))
    shelf: Shelf = field(default_factory=Shelf)
    tables: Tables = field(default_factory=Tables)
    """Pictures of batches: one row group of all of them is in memory at a time."""


def routes_of(folder: Path, shared: Workshop) -> list[Route | Mount]:
    """Everything below the address of one job, or of one batch."""
    sheet = shared.teller.sheet(folder)
    return picture_routes(folder, shared) if sheet is None else sheet_routes(folder, shared)


def sheet_routes(folder: Path, shared: Workshop) -> list[Route | Mount]:
    """Everything below one batch's address."""
    sheets = Sheets(
        folder, shared.teller, shared.cache, shared.asking, shared.opening, shared.tables, shared.gallery
    )
    drawn = replace(shared, teller=DrawnPictures(), gallery="../../../")
    zooms = Zooms(sheets, shared.opening, lambda picture: Router(picture_routes(picture, drawn)))

    async def status(request: Request) -> Response:
        return await _status(request, folder, shared)

    return [
        Route("/", sheets.page),
        Route("/rows.json", sheets.rows),
        Route("/missing.json", sheets.missing),
        Route("/small/{column}/{file}/{row:int}.{ending}", sheets.small),
        Route("/{column}/{file}/{row:int}.png", sheets.whole),
        Route("/thumbnail.jpg", sheets.thumbnail),
        Route("/api/status.json", status),
        Route("/assets/{digest}/{name}", asset),
        Mount("/pictures/{file}/{row:int}", zooms),
    ]


def picture_routes(folder: Path, shared: Workshop) -> list[Route | Mount]:
    """Everything below one job's address."""
    masters, files = Masters(folder), VisibleFiles(folder, lambda: layout_of(folder))
    own = OwnPage(folder, shared.cache, shared.rewriting)
    smalls = Smalls(masters, shared.teller, shared.cache, shared.asking, shared.decoding)

    async def status(request: Request) -> Response:
        return await _status(request, folder, shared)

    return [
        Route("/image_files/{level:int}/{column:int}_{row:int}.{encoding}", files.tile),
        Route(
            "/tiles/{level:int}/{column:int}_{row:int}.jpg",
            TilesOfImage(masters, shared.cache, shared.decoding).answer,
        ),
        Route("/region.{kind}", RegionAnswers(masters, shared.cutting, shared.shelf).answer),
        Route("/preview.png", smalls.preview),
        Route("/thumbnail.jpg", smalls.thumbnail),
        Route("/api/status.json", status),
        *(Route(address, own.index) for address in ("/", "/index.html")),
        Route("/panorama.html", own.panorama),
        Route("/viewer/{name}", own.viewer),
        Mount("/", files),
    ]


async def _status(request: Request, folder: Path, shared: Workshop) -> Response:
    content = await shared.asking.run(reading(lambda: _told(folder, shared), "this folder"))
    if content is None:
        raise HTTPException(404)
    headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()[:32]}"'}
    if is_current(request, headers["ETag"]):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="application/json", headers=headers)


def _told(folder: Path, shared: Workshop) -> bytes | None:
    """A status as JSON. Raises ValueError for numbers that JSON has not."""
    told = shared.teller.status(folder)
    if told is None:
        return None
    more = {} if shared.gallery is None else {"gallery": shared.gallery}
    return json.dumps({**told, **more}, separators=(",", ":"), allow_nan=False).encode()


def build_app(folder: Path, teller: Teller = NOTHING_TOLD) -> ASGIApp:
    """The application for one job folder, which must hold a page, or a job that will write one."""
    if not (folder / "index.html").is_file() and teller.status(folder) is None:
        raise FileNotFoundError(
            f"{folder} holds no index.html; give the folder that a job wrote its picture to"
        )
    return guarded(Starlette(routes=routes_of(folder, Workshop(teller))))


def build_gallery(root: Path, find: Callable[[], Sequence[Path]], teller: Teller) -> ASGIApp:
    """The application for all jobs that `find` finds below a folder, now and later."""
    shared, registry = Workshop(teller, gallery="../../"), Registry(root, find)
    gallery = Gallery(registry, teller, shared.asking)
    jobs = Jobs(registry, shared.asking, lambda folder: Router(routes_of(folder, shared)), {})
    return guarded(
        Starlette(
            routes=[
                Route("/", gallery.page),
                Route("/cards.html", gallery.cards),
                Route("/assets/{digest}/{name}", asset),
                Mount("/jobs/{id}", jobs),
            ]
        )
    )


def guarded(app: ASGIApp) -> ASGIApp:
    """An application that answers to its own names and its own pages only."""
    return SafeAnswers(TrustedHostMiddleware(app, allowed_hosts=list(NAMES), www_redirect=False))


def serve(folder: Path, port: int, on_ready: Callable[[str], None], teller: Teller = NOTHING_TOLD) -> None:
    """Serve a job folder until interrupted. Port 0 takes a free one; `on_ready` is told the address."""
    serve_app(build_app(folder, teller), port, on_ready)


def serve_app(app: ASGIApp, port: int, on_ready: Callable[[str], None]) -> None:
    """Serve an application on the loopback address until interrupted."""
    signal.signal(
        signal.SIGTERM, lambda *_: sys.exit(TERMINATED)
    )  # an end that clears what was written for pages
    with socket.create_server((HOST, port)) as listening:
        on_ready(f"http://{HOST}:{listening.getsockname()[1]}/")
        uvicorn.Server(settings_of(app)).run(sockets=[listening])


def settings_of(app: ASGIApp, most_connections: int = MOST_CONNECTIONS) -> uvicorn.Config:
    """Slow clients hold a connection each and nothing else, until others need it; h11 bounds what a request may send
    before its end.
    """
    return uvicorn.Config(
        app,
        http=RoomForOthers,
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        limit_concurrency=most_connections,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
