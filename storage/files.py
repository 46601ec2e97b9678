"""Files that appear whole or not at all, and outlive a power cut where something depends on them. Knows no content."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

WITHOUT_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that a reader sees all of the content or the file as it was, even when the writer is killed.

    Folders that lack are made. durable: the content is on the disk when this returns, and outlives a power cut. False
    is for files that nothing depends on: syncing takes milliseconds. Raises OSError.
    """

    def write(unfinished: Path) -> None:
        unfinished.write_bytes(content)

    replace_by(path, write, durable=durable)


def replace_by(path: Path, write: Callable[[Path], None], *, durable: bool = True) -> None:
    """Replace a file whole by one that `write` fills, under another name in the folder of `path`.

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


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of reading, too, say of which file; the system tells it only where one is opened."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


UNFINISHED = re.compile(r"\..+\.[0-9a-f]{32}|\.nfs.*")
"""Names of files that are being written; and those that network file systems give to deleted ones still open."""


def is_leftover(name: str) -> bool:
    """Whether a file of this name is one that was being written here when its writer was killed."""
    return UNFINISHED.fullmatch(name) is not None


def remove_leftovers(*folders: Path) -> None:
    """Remove what killed writers left in these folders, and not in those inside them. For whoever owns the folders."""
    for folder in folders:
        for entry in os.scandir(folder) if folder.is_dir() else ():
            if not is_leftover(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)


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
    """Wait until a file's content, or the names in a folder, are on the disk. Raises OSError.

    Some network file systems sync no folders: there the names are as safe as such a file system keeps them.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in WITHOUT_SYNC or not path.is_dir():
            raise
    finally:
        os.close(handle)
