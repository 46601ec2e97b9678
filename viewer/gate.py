"""How much work is done at once, and how much may wait for it. Knows threads; knows nothing of the work."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio.to_thread
from anyio import CapacityLimiter
from starlette.exceptions import HTTPException

Answer = TypeVar("Answer")


class Gate:
    """Runs work in threads, `at_once` of them; answers 503 to whoever comes when `waiting` others wait already."""

    def __init__(self, at_once: int, waiting: int) -> None:
        self._limiter = CapacityLimiter(at_once)
        self._places = at_once + waiting
        self._inside = 0

    @property
    def has_room(self) -> bool:
        """Whether work would begin at once."""
        return self._inside < self._limiter.total_tokens

    async def run(self, work: Callable[[], Answer]) -> Answer:
        """The work's result; raises what it raises, and HTTPException 503 where there is no room to wait."""
        if self._inside >= self._places:
            raise HTTPException(503, "busy with other requests; try again", headers={"Retry-After": "1"})
        self._inside += 1
        try:
            return await anyio.to_thread.run_sync(work, limiter=self._limiter)
        finally:
            self._inside -= 1
