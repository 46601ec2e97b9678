"""Which tasks of a job are done. Knows lines in a file; knows nothing of what a task does.

One writer, the driver, appends a line after a task's output is durable:

    {"format": "hypermosaic-ledger", "version": 3, "fingerprint": "..."}
    {"stage": 3, "block": 17}

A line that a crash tore or lost is missing when the file is read again; the task is then simply done once more.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from storage.fingerprint import FormatError
from storage.formats.atomic import replace_file

VERSION = 3
SYNC_SECONDS = 1.0
_FORMAT = "hypermosaic-ledger"


class Ledger:
    """The done tasks of one job, as (stage, block) pairs, on disk and in memory."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.done: set[tuple[int, int]] = set()
        if path.exists():
            self._load(fingerprint)
        else:
            header = {"format": _FORMAT, "version": VERSION, "fingerprint": fingerprint}
            path.write_text(json.dumps(header) + "\n")
        self._file = path.open("a")
        self._synced = time.monotonic()
        self._lock()

    def record(self, stage: int, block: int) -> None:
        """Append one done task: it outlives this process at once, and a crash of the machine after sync()."""
        self._file.write(json.dumps({"stage": stage, "block": block}) + "\n")
        self._file.flush()
        self.done.add((stage, block))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def forget(self, first: int) -> None:
        """What was done of this stage and later ones is to be done again; the file is replaced whole."""
        self.sync()
        header, *lines = self.path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if task_of(line)[0] < first]
        replace_file(self.path, b"".join([header, *kept]))
        self._file.close()
        self._file = self.path.open("a")
        self._lock()
        self.done = {task for task in self.done if task[0] < first}

    def sync(self) -> None:
        """Make all records durable: due before anything is deleted that their tasks would have to read again."""
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        if not self._file.closed:
            self.sync()
        self._file.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        """One driver a job: the lock goes with the process that holds it."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise BlockingIOError(
                errno.EWOULDBLOCK,
                f"another process is running the job in {self.path.parent}; wait for it or stop it",
            ) from None

    def _load(self, fingerprint: str) -> None:
        header, self.done, whole = read(self.path)
        if header.get("fingerprint") != fingerprint:
            raise FormatError(
                f"{self.path} belongs to another job (fingerprint {str(header.get('fingerprint'))[:12]}, "
                f"this one is {fingerprint[:12]}); choose another folder with --out"
            )
        if whole < self.path.stat().st_size:
            os.truncate(self.path, whole)


def read(path: Path) -> tuple[Mapping[str, Any], set[tuple[int, int]], int]:
    """Header, done tasks, and how many bytes of the file are whole lines."""
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    lines = content[:whole].splitlines()
    header = check_header(lines[0] if lines else b"{}", path)
    return header, {task_of(line) for line in lines[1:]}, whole


def check_header(line: bytes, path: Path) -> Mapping[str, Any]:
    """The first line of a ledger. Raises FormatError where it is of another version."""
    header: Mapping[str, Any] = json.loads(line)
    if header.get("format") != _FORMAT or header.get("version") != VERSION:
        raise FormatError(
            f"{path} has version {header.get('version')!r} of its format; this program reads {VERSION}"
        )
    return header


def task_of(line: bytes) -> tuple[int, int]:
    """(stage, block) of any other line."""
    record = json.loads(line)
    return record["stage"], record["block"]
