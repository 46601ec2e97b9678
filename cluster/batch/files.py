"""Files that outlive a power cut and appear whole or not at all, and the lock of a folder. Knows no content."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def write_durably(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill another file, sync it, and give it its name. Writers of the same bytes may overlap."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(unfinished)
        _sync(unfinished)
        unfinished.replace(path)
        _sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_bytes_durably(path: Path, content: bytes) -> None:
    """The same of bytes at hand."""

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(content)

    write_durably(path, write)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One driver a folder. Raises BlockingIOError where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process is at work on {folder.parent}; wait for it to end, or choose another --out"
            ) from None
        yield
