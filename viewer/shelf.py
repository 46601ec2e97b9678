"""What was encoded and waits on disk for whoever asked, and how much of it there may be. Knows files and bytes."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from threading import Lock
from typing import IO

from starlette.exceptions import HTTPException

SHELF_BYTES = 512 * 2**20


@dataclass
class Shelf:
    """Counts the bytes of open files; a file leaves when it is closed by `clear` or no one holds it any more."""

    limit: int = SHELF_BYTES
    held: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def check_room(self) -> None:
        """Raises HTTPException 503 while slow readers keep as much as there may be."""
        if self.held >= self.limit:
            raise HTTPException(
                503,
                f"{self.limit >> 20} MiB of regions wait for whoever asked for them; try again",
                headers={"Retry-After": "5"},
            )

    def put(self, file: IO[bytes]) -> int:
        """Count a file, which is then to be closed or let go; returns its size in bytes."""
        size = file.seek(0, 2)
        file.seek(0)
        self._count(size)
        weakref.finalize(file, self._count, -size)
        return size

    def _count(self, size: int) -> None:
        with self._lock:
            self.held += size
