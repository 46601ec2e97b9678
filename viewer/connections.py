"""Who has to go when connections run out: who has been idle longest. Knows sockets and times; knows no request.

A client that connects and asks nothing, or never ends its request, holds a place; a browser keeps some for later. They
stay as long as there is room. Whoever comes when there is none takes the place of the one that waited longest, so no
number of idle ones locks others out; those that are being answered stay.
"""

from __future__ import annotations

from asyncio import Transport
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol


class RoomForOthers(H11Protocol):
    """uvicorn's connection, which makes room among idle ones when it is made. since: seconds, when it became idle."""

    since = 0.0

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.since = self.loop.time()
        most = self.config.limit_concurrency
        idle = (
            [each for each in self._others() if each.is_idle]
            if most and len(self.connections) >= most
            else []
        )
        if idle:
            min(idle, key=lambda each: each.since).leave()

    def on_response_complete(self) -> None:
        self.since = self.loop.time()
        super().on_response_complete()

    @property
    def is_idle(self) -> bool:
        """Whether nothing was asked, or all that was is answered."""
        return self.cycle is None or self.cycle.response_complete

    def leave(self) -> None:
        """Close it now; its place is free at once."""
        self.connections.discard(self)
        self.transport.abort()

    def _others(self) -> list[RoomForOthers]:
        return [cast(RoomForOthers, each) for each in self.connections if each is not self]
