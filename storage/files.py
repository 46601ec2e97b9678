"""Files that appear whole or not at all, and outlive a power cut where something depends on them. Knows no content."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees all of the content or the file as it was, even when the writer is killed.

    Folders that lack are made. durable: the content is on the disk when this returns, and outlives a power cut. False
    is for files that nothing depends on: syncing takes milliseconds. Raises OSError.
    """

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(content)

    replace_by(path, write, durable=durable)


def replace_by(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """The same of a file that `write` fills, under another name in the folder of `path`.

    Writers of the same content may overlap. Raises OSError, and what `write` raises; then the file is as it was.
    """
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(unfinished)
        if durable:
            sync(unfinished)
        unfinished.replace(path)
        if durable:
            sync(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def sync_file_system(folder: Path) -> None:
    """Wait until all that was written to the file system of a folder is on its disk, small files by the thousand, too.

    Of a network's file system, what this machine has written. Raises OSError.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if not hasattr(library, "syncfs"):  # not on Linux: all file systems
            os.sync()
        elif library.syncfs(handle):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(handle)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk. Raises OSError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
