"""One owner of a folder: a lock that is taken before anything in the folder is read to be changed. Knows no content.

    FOLDER/.lock      {"host": "a", "pid": 17, "marked": true}, of the process that holds it, or held it last

The system's lock on that file goes with the process that holds it, however it ends. Whoever is refused has changed
nothing. Beside the lock, which can only be tried, lies a mark: a lock of the kind that can be asked after without being
taken, so that looking at a folder is in no driver's way.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import IO, Self

log = logging.getLogger(__name__)

NAME = ".lock"
_FLOCK = struct.Struct("hhqqi4x")
"""C's `struct flock` on 64-bit Linux: type, whence, start, length, pid."""
_MARK = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 2**40, 1, 0)
"""Of a byte that no such file has, so that it keeps nobody from reading, wherever locks do that."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems answer that have no locks, or none just now."""


class Claim:
    """A folder held by this process, from construction until close(); the folder is made if there is none.

    Raises BlockingIOError where another process has it, or another claim of this one. On a file system without locks
    a warning says so, and nothing keeps others away.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[str] = _locked(folder)
        _write_holder(self._file, marked=_mark(self._file))

    def close(self) -> None:
        """Let go of the folder."""
        self._file.close()

    def withdraw(self) -> None:
        """Let go, and remove the lock, and with it the folder where it holds nothing else."""
        (self.folder / NAME).unlink(missing_ok=True)
        self._file.close()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()


def is_abandoned(folder: Path) -> bool:
    """Whether a process of this machine has held a folder, and nobody holds it now. Takes nothing, changes nothing.

    False where that cannot be told: without a lock, and on a file system without marks.
    """
    try:
        with (folder / NAME).open("rb") as file:
            holder = json.loads(file.read(1000))
            if holder["host"] != socket.gethostname() or holder.get("marked") is not True:
                return False
            asked = fcntl.fcntl(file, fcntl.F_OFD_GETLK, _MARK)
            return bool(_FLOCK.unpack(asked)[0] == fcntl.F_UNLCK)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _mark(file: IO[str]) -> bool:
    """Whether the open file could be marked; some network file systems take a mark for a second lock, and refuse it."""
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _MARK)
    except (OSError, AttributeError):  # AttributeError: not on Linux
        return False
    return True


def _locked(folder: Path) -> IO[str]:
    """The lock's file, locked. One that its owner removed meanwhile locks nothing, so the next one is taken."""
    while True:
        file = (folder / NAME).open("a+", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            file.close()
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"{folder} belongs to another process{holder}; wait for it to end, or stop it",
            ) from None
        except OSError as error:
            if error.errno not in WITHOUT_LOCKS:
                file.close()
                raise
            log.warning(
                "the file system of %s has no locks (%s): make sure that no other process works there",
                folder, error.strerror,
            )  # fmt: skip
            return file
        if _is_there(file, folder / NAME):
            return file
        file.close()


def _is_there(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _write_holder(file: IO[str], marked: bool) -> None:
    file.truncate(0)
    file.write(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "marked": marked}) + "\n")
    file.flush()


def _holder(file: IO[str]) -> str:
    """Who holds it, in words, as far as the file tells."""
    file.seek(0)
    try:
        holder = json.loads(file.read(1000))
        return f" (pid {int(holder['pid'])} on {str(holder['host'])[:80]})"
    except (ValueError, KeyError, TypeError):  # not written yet
        return ""
