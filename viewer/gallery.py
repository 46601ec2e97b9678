"""The gallery: cards of all jobs below a folder. Knows cards, HTML and ids; knows no pixels.

Jobs are found again at every look, so new ones appear and lost ones go. An address names a job by its id, which only
the registry turns into a folder.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from viewer.assets import filled, revalidated
from viewer.gate import Gate
from viewer.page import size_in_words
from viewer.smalls import drawn
from viewer.tiles import reading
from viewer.told import Card, Teller

LOOK_AGAIN = 1.0
LONGEST_TITLE = 300
STATES: Mapping[str, str] = {
    "finished": "finished",
    "running": "running, {share}",
    "silent": "stopped without a word at {share}",
    "interrupted": "interrupted at {share}",
    "failed": "failed at {share}",
    "not started": "not started",
    "broken": "cannot be read",
}

NOTHING_SHOWN = "; nothing to show"


class Registry:
    """The jobs below a folder by id. An id is a hash of the path below that folder: the same after a restart."""

    def __init__(
        self, root: Path, find: Callable[[], Sequence[Path]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.root = root
        self._find = find
        self._clock = clock
        self._found: dict[str, Path] = {}
        self._looked: float | None = None

    def known(self, identity: str) -> Path | None:
        """The folder of an id as of the last look; looks nowhere."""
        return self._found.get(identity)

    def folders(self) -> Mapping[str, Path]:
        """Id -> folder; looked up at most once a second."""
        now = self._clock()
        if self._looked is None or now - self._looked >= LOOK_AGAIN:
            self._found = {id_of(folder, self.root): folder for folder in self._find()}
            self._looked = now
        return self._found


def id_of(folder: Path, root: Path) -> str:
    return hashlib.sha256(str(folder.relative_to(root)).encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclass(frozen=True)
class Gallery:
    """Answers for the gallery's own addresses."""

    registry: Registry
    teller: Teller
    asking: Gate

    async def page(self, request: Request) -> Response:
        """The page with its cards; it needs no script to be read."""
        cards = await self.asking.run(self._cards)
        return revalidated(request, page_of(self.registry.root.resolve().name, cards))

    async def cards(self, request: Request) -> Response:
        """The cards alone, for the page to follow."""
        return revalidated(request, await self.asking.run(self._cards))

    def _cards(self) -> str:
        told = [
            (identity, folder, self.teller.card(folder))
            for identity, folder in self.registry.folders().items()
        ]
        told.sort(key=lambda entry: (-entry[2].changed, entry[0]))
        return "\n".join(
            card_of(identity, card, _picture_of(folder, card)) for identity, folder, card in told
        )


@dataclass(frozen=True)
class Jobs:
    """Hands a request for /jobs/ID/... to that job's own routes."""

    registry: Registry
    asking: Gate
    open_job: Callable[[Path], ASGIApp]
    _opened: dict[str, ASGIApp]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        identity = scope["path_params"]["id"]
        if self.registry.known(identity) is None:
            await self.asking.run(self.registry.folders)
        folder = self.registry.known(identity)
        if folder is None:
            self._opened.pop(identity, None)
            raise HTTPException(404)
        if identity not in self._opened:
            opened = reading(lambda: self.open_job(folder), "this folder")
            self._opened[identity] = await self.asking.run(opened)
        await self._opened[identity](scope, receive, send)


# --- HTML ------------------------------------------------------------------------------------------------------------


def page_of(name: str, cards: str) -> str:
    """The whole page. `cards` is HTML already, `name` is not."""
    return filled("gallery.html", name=escape(name), cards=cards)


def card_of(identity: str, card: Card, picture: str | None) -> str:
    """One card. Its texts come from job folders, so every one of them is escaped."""
    title = card.title if len(card.title) <= LONGEST_TITLE else f"{card.title[: LONGEST_TITLE - 1]}…"
    share = f"{int(100 * card.share)} %"
    state = STATES.get(card.state, card.state).format(share=share)
    if card.state == "finished" and picture is None:
        state += NOTHING_SHOWN
    lines = [f"<h2>{escape(title)}</h2>"]
    if card.size is not None:
        lines.append(f'<p class="size">{escape(size_in_words(*card.size).replace(" pixels", ""))}</p>')
    lines.append(f'<p class="state">{escape(state)}</p>')
    if card.state == "running":
        lines.append(
            f'<progress max="100" value="{100 * card.share:.1f}" aria-label="Done">{share}</progress>'
        )
    if card.error is not None:
        lines.append(f'<p class="error" title="{escape(card.error)}">{escape(card.error)}</p>')
    if card.facts:
        lines.append(f'<p class="facts">{escape(" · ".join(card.facts))}</p>')
    shown = f'<img src="{escape(picture.format(id=identity))}" alt="" loading="lazy">' if picture else ""
    inside = f'<div class="picture">{shown}</div><div class="words">{"".join(lines)}</div>'
    opened = f'<a href="jobs/{identity}/">{inside}</a>' if card.has_page else f"<div>{inside}</div>"
    return f'<li id="job-{identity}" data-kind="{card.kind}" data-state="{escape(card.state)}">{opened}</li>'


def _picture_of(folder: Path, card: Card) -> str | None:
    """The address of the card's picture, with a version, where there is one."""
    if not card.has_page:
        return None
    version = drawn(folder) or (None if card.preview_version is None else f"coarse-{card.preview_version}")
    return None if version is None else f"jobs/{{id}}/thumbnail.jpg?v={version}"
