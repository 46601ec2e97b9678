"""An application of ours on a free port, in a thread of the test, so that the test may change what it tells of."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from viewer.server import HOST, settings_of


@contextmanager
def live(app: ASGIApp) -> Iterator[str]:
    """The address."""
    server = uvicorn.Server(settings_of(app))
    with socket.create_server((HOST, 0)) as listening:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://{HOST}:{listening.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join(20)
