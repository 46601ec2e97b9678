"""Where the tests' files go: memory, where the system has a folder for that (they sync thousands of small files)."""

import os
from pathlib import Path

SHARED_MEMORY = Path("/dev/shm")
ROOM = 2 * 2**30


def pytest_configure() -> None:
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        usage = os.statvfs(SHARED_MEMORY)
        if usage.f_bavail * usage.f_frsize > ROOM:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))
