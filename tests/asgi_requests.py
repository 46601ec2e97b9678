"""Requests to an ASGI application, byte for byte: no client tidies the address first. Not a test itself."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import unquote

from starlette.types import ASGIApp

HOST = "127.0.0.1:8000"


class Asked:
    """An answer as the server gave it."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.status: int = messages[0]["status"]
        self.headers = {
            name.decode().lower(): value.decode("latin-1") for name, value in messages[0]["headers"]
        }
        self.content = b"".join(message.get("body", b"") for message in messages[1:])


async def asked(app: ASGIApp, target: str, method: str = "GET", **headers: str) -> Asked:
    """Send a request target, byte for byte, decoded as uvicorn decodes it."""
    raw, _, query = target.encode("utf-8").partition(b"?")
    named = {"host": HOST, **{name.replace("_", "-"): value for name, value in headers.items()}}
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": method,
        "scheme": "http", "path": unquote(raw.decode("ascii", "replace")), "raw_path": raw, "query_string": query,
        "root_path": "", "headers": [(name.encode(), value.encode("utf-8")) for name, value in named.items()],
        "client": ("127.0.0.1", 50_000), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    messages: list[dict[str, Any]] = []
    asked_once = False

    async def receive() -> dict[str, Any]:
        nonlocal asked_once
        if asked_once:
            await asyncio.sleep(3600)
        asked_once = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        messages.append(dict(message))

    await app(scope, receive, send)
    return Asked(messages)


def ask(app: ASGIApp, target: str, method: str = "GET", **headers: str) -> Asked:
    return asyncio.run(asked(app, target, method, **headers))
