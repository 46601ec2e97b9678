"""What holds for every request and every answer. Knows HTTP headers; knows no route and no file.

The server listens on the loopback address, where every page that the user's browser shows can send requests to it.
Hence: it answers to its own names only (a foreign name that resolves here is refused), to no foreign origin, and to
no foreign page's images, scripts or fetches; links from elsewhere may lead here.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
LONGEST_PATH = 1024
LONGEST_QUERY = 1024
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    # OpenSeadragon adds one style element of its own, hence 'unsafe-inline' for styles; scripts come from files only.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
REVALIDATE = "no-cache"  # a job that is still running writes tiles; their ETag saves the bytes
FOREVER = "public, max-age=31536000, immutable"  # only under paths that name the content's hash


def sendable(text: str) -> str:
    """The text with a question mark for whatever UTF-8 cannot say, as names of folders and lone surrogates may."""
    return text.encode(errors="replace").decode()


class SafeAnswers:
    """Adds the same headers to every answer, refusals included, and refuses what no page of ours asks for."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                headers.setdefault("Cache-Control", REVALIDATE)
            await send(message)

        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = refused(scope)
        await (refusal or self.app)(scope, receive, send_with_headers)


def refused(scope: Scope) -> PlainTextResponse | None:
    """The answer to a request that is not served whatever it asks for; None for all others."""
    headers = Headers(scope=scope)
    if len(scope["path"]) > LONGEST_PATH or len(scope.get("query_string", b"")) > LONGEST_QUERY:
        return PlainTextResponse("address too long", 414)
    if _is_foreign(headers):
        return PlainTextResponse("only this server's own pages may ask", 403)
    return None


def _is_foreign(headers: Headers) -> bool:
    """Whether a page of another origin asks. Whoever follows a link or types an address is none."""
    origin = headers.get("origin")
    if origin is not None and origin != f"http://{headers.get('host', '')}":
        return True
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode", "navigate")
    return site not in ("none", "same-origin") and mode != "navigate"
