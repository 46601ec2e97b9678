"""The server in a thread of a program that goes on meanwhile. Knows threads; knows no page."""

from __future__ import annotations

import socket
import threading
from types import TracebackType
from typing import Self

import uvicorn
from starlette.types import ASGIApp

from viewer.safety import HOST
from viewer.server import settings_of

LOOK_SECONDS = 0.5
PATIENCE_SECONDS = 20


class Serving:
    """An application on the loopback address until close(), or the end of the program. address: where.

    Port 0 takes a free one. Raises OSError where the port is taken. Signals stay the program's own.
    """

    def __init__(self, app: ASGIApp, port: int = 0) -> None:
        self._listening = socket.create_server((HOST, port))
        self.address = f"http://{HOST}:{self._listening.getsockname()[1]}/"
        self._server = uvicorn.Server(settings_of(app))
        told = {"sockets": [self._listening]}
        self._thread = threading.Thread(target=self._server.run, kwargs=told, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until Ctrl-C, which closes it, or until another thread does."""
        try:
            while self._thread.is_alive():
                self._thread.join(LOOK_SECONDS)
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Answer no more; twice is once."""
        self._server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        self._listening.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<serving {self.address}>"

    def _repr_html_(self) -> str:
        """For notebooks: a link."""
        return f'<a href="{self.address}" target="_blank">{self.address}</a>'
