"""Pages that the server makes itself, and their styles and scripts. Knows the package's files; knows no job.

An asset's address holds its content's hash, so browsers may keep it for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from string import Template

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from viewer.safety import FOREVER
from viewer.tiles import is_current

SOURCE = Path(__file__).parent
ASSETS: Mapping[str, str] = {
    "gallery.css": "text/css",
    "gallery.js": "text/javascript",
    "sheet.css": "text/css",
    "sheet.js": "text/javascript",
    "sheet_status.js": "text/javascript",
    "theme.js": "text/javascript",
}


async def asset(request: Request) -> Response:
    """A style or script under its content's hash."""
    name, digest = request.path_params["name"], request.path_params["digest"]
    if name not in ASSETS or digest != digest_of(name):
        raise HTTPException(404)
    content = (SOURCE / name).read_bytes()
    return Response(content, media_type=ASSETS[name], headers={"Cache-Control": FOREVER})


def filled(page: str, **values: str) -> str:
    """A page's template with its assets' addresses. The values are HTML already."""
    template = Template((SOURCE / page).read_text(encoding="utf-8"))
    assets = {name.replace(".", "_"): f"assets/{digest_of(name)}/{name}" for name in ASSETS}
    return template.substitute(**values, **assets)


def digest_of(name: str) -> str:
    """What names an asset's content in its address."""
    return hashlib.sha256((SOURCE / name).read_bytes()).hexdigest()[:16]


def revalidated(request: Request, html: str) -> Response:
    """A page, or 304 for those who have it."""
    content = html.encode(errors="replace")  # names of folders and titles may hold what UTF-8 cannot say
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    if is_current(request, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return HTMLResponse(content, headers={"ETag": etag})
