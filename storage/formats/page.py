"""The page of a picture: `index.html` and `viewer/` beside its tiles. Knows where tiles lie; reads none of them.

FOLDER/index.html      opens by double-click, or from any web host, where Deep Zoom tiles are beside it
FOLDER/viewer/         page.js, page.css, OpenSeadragon and its licence: copies, so that the folder stands alone
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from string import Template

from storage.formats.atomic import replace_file
from storage.pyramid import PyramidLayout

PAGE_VERSION = 1
SOURCE = Path(__file__).parent.parent / "viewer"
COPIES = {
    "page.js": "page.js",
    "page.css": "page.css",
    "openseadragon.min.js": "vendor/openseadragon/openseadragon.min.js",
    "openseadragon.LICENSE.txt": "vendor/openseadragon/LICENSE.txt",
}


@dataclass(frozen=True)
class Page:
    """What a page says of its picture, and where it finds the tiles.

    With Deep Zoom the tiles are files (`encoding` "jpg", "png" or "webp"); without it, `storage.viewer.server` cuts
    them out of the OME-Zarr image, and the page opened from disk says so.
    """

    title: str
    layout: PyramidLayout
    wraps_x: bool = False
    deep_zoom: bool = True
    encoding: str = "jpg"

    def html(self) -> str:
        template = Template((SOURCE / "index.html").read_text(encoding="utf-8"))
        return template.substitute(
            page_version=PAGE_VERSION,
            title=escape(self.title),
            size=escape(size_in_words(self.layout.width, self.layout.height)),
            description=_json_in_html(self._description()),
        )

    def _description(self) -> dict[str, str | int | bool]:
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
        }


def write_page(folder: Path, page: Page) -> Path:
    """Write the page and what it needs into a job folder; returns the path to open. May come before any tile."""
    (folder / "viewer").mkdir(parents=True, exist_ok=True)
    for name, source in COPIES.items():
        replace_file(folder / "viewer" / name, (SOURCE / source).read_bytes())
    replace_file(folder / "index.html", page.html().encode())
    return folder / "index.html"


def size_in_words(width: int, height: int) -> str:
    """8192 x 4096 -> '8,192 × 4,096 pixels · 33.6 megapixels'."""
    megapixels = width * height / 1e6
    digits = 0 if megapixels >= 100 else 1 if megapixels >= 1 else 3
    return f"{width:,} \N{MULTIPLICATION SIGN} {height:,} pixels \N{MIDDLE DOT} {megapixels:,.{digits}f} megapixels"


def _json_in_html(value: dict[str, str | int | bool]) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
