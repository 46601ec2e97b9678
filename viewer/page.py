"""The page of a picture: `index.html` and `viewer/` beside its tiles. Knows where tiles lie; reads none of them.

FOLDER/index.html      opens by double-click, or from any web host, where Deep Zoom tiles are beside it
FOLDER/panorama.html   the page to look around in, where the picture is one
FOLDER/viewer/         scripts, styles, OpenSeadragon and its licence: copies, so that the folder stands alone
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from storage.files import replace_file
from storage.pyramid import PyramidLayout

PAGE_VERSION = 2
SOURCE = Path(__file__).parent
OWN = (
    *("theme.js", "page.js", "tiles.js", "panels.js", "layers.js", "place.js", "region.js", "flight.js"),
    *("links.js", "keys.js", "page.css", "panels.css", "job.js", "job.css"),
)
COPIES = {
    **{name: name for name in OWN},
    "openseadragon.min.js": "vendor/openseadragon/openseadragon.min.js",
    "openseadragon.LICENSE.txt": "vendor/openseadragon/LICENSE.txt",
}
PANORAMA_COPIES = {
    **{name: name for name in ("around.js", "around.css")},
    "pannellum.js": "vendor/pannellum/pannellum.js",
    "pannellum.LICENSE.txt": "vendor/pannellum/LICENSE.txt",
}


@dataclass(frozen=True)
class Page:
    """What a page says of its picture, and where it finds the tiles.

    With Deep Zoom the tiles are files (`encoding` "jpg", "png" or "webp"); without it, `viewer.server` cuts
    them out of the OME-Zarr image, and the page opened from disk says so. about: facts of what made the picture, shown
    in this order. classes: (name, "#rrggbb") of each class id, where
    there is a class map. panorama: whether `write_panorama` will make this picture one to look around in.
    """

    title: str
    layout: PyramidLayout
    wraps_x: bool = False
    deep_zoom: bool = True
    encoding: str = "jpg"
    about: Mapping[str, str | int | float] = field(default_factory=dict)
    classes: tuple[tuple[str, str], ...] = ()
    panorama: bool = False

    def html(self) -> str:
        """index.html."""
        return self._filled(
            "index.html",
            size=escape(size_in_words(self.layout.width, self.layout.height)),
            description=_json_in_html(self._description()),
        )

    def panorama_html(self) -> str:
        """panorama.html."""
        return self._filled("panorama.html")

    def _filled(self, name: str, **values: str) -> str:
        template = Template((SOURCE / name).read_text(encoding="utf-8"))
        return template.substitute(values, page_version=PAGE_VERSION, title=escape(self.title))

    def _description(self) -> dict[str, Any]:
        return {
            "version": PAGE_VERSION,
            "title": self.title,
            "width": self.layout.width,
            "height": self.layout.height,
            "tile": self.layout.tile,
            "maxLevel": self.layout.deep_levels - 1,
            "tiles": "image_files/" if self.deep_zoom else "tiles/",
            "encoding": self.encoding if self.deep_zoom else "jpg",
            "wrapsX": self.wraps_x,
            "opensFromDisk": self.deep_zoom,
            "about": dict(self.about),
            "classes": self._legend(),
            "panorama": self.panorama,
        }

    def _legend(self) -> dict[str, Any] | None:
        if not self.classes:
            return None
        names, colours = zip(*self.classes, strict=True)
        return {"script": "viewer/classes.js", "names": names, "colours": colours}


def write_page(folder: Path, page: Page) -> Path:
    """Write the page and what it needs into a job folder; returns the path to open. May come before any tile.

    Raises FileNotFoundError, before it writes, where one of the package's own files is missing.
    """
    copies = {name: _copied(source) for name, source in _sources(page).items()}
    for name, content in copies.items():
        replace_file(folder / "viewer" / name, content)
    if page.panorama:
        replace_file(folder / "panorama.html", page.panorama_html().encode())
    replace_file(folder / "index.html", page.html().encode())
    return folder / "index.html"


def page_files(folder: Path, page: Page) -> list[Path]:
    """The files that `write_page` writes."""
    pages = ["index.html", *(["panorama.html"] if page.panorama else [])]
    return [*(folder / name for name in pages), *(folder / "viewer" / name for name in _sources(page))]


def _sources(page: Page) -> dict[str, str]:
    """Name in the folder viewer -> file of the package."""
    return {**COPIES, **(PANORAMA_COPIES if page.panorama else {})}


def _copied(source: str) -> bytes:
    """A file of the package. Raises FileNotFoundError, saying what to do, where the package is not whole."""
    try:
        return (SOURCE / source).read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{SOURCE / source} is missing, and no page works without it; install hypermosaic again"
        ) from None


def size_in_words(width: int, height: int) -> str:
    """8192 x 4096 -> '8,192 × 4,096 pixels · 33.6 megapixels'."""
    megapixels = width * height / 1e6
    digits = 0 if megapixels >= 100 else 1 if megapixels >= 1 else 3
    return f"{width:,} \N{MULTIPLICATION SIGN} {height:,} pixels \N{MIDDLE DOT} {megapixels:,.{digits}f} megapixels"


def _json_in_html(value: dict[str, Any]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
