"""Which tasks of a job are done, and how large their output is. Knows lines in a file; knows no task.

One writer, the driver, appends a line after a task's output is durable:

    {"format": "hypermosaic-ledger", "version": 4, "fingerprint": "..."}
    {"stage": 3, "block": 17, "bytes": 589824}
    {"stage": 13, "block": 0, "bytes": 3145728, "digest": "9f86d081884c7d65"}
    {"stage": 3, "block": 17, "lost": true}              its output was found damaged: the task is to be done again
    {"closed": {"image.dzi": {"bytes": 201, "digest": "..."}, ...}}      the small files that a finished job ends with

Later lines count. A line that a crash tore, or that is no line of ours, is left out; its task is simply done again. A
file without a whole header is as good as none.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from storage.files import naming, replace_by, replace_file
from storage.fingerprint import FormatError
from storage.task_set import Task, TaskSet

log = logging.getLogger(__name__)

VERSION = 4
SYNC_SECONDS = 1.0
_FORMAT = "hypermosaic-ledger"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""What reading a line raises that nobody here wrote."""
MOST_STAGES, MOST_BLOCKS = 2**16, 2**28
"""More than any job has; the number of a rotten line could be larger than memory."""


@dataclass(frozen=True)
class Written:
    """What is known of files that were written: their bytes in all, and a digest of their names and contents.

    digest: "" where the files tell of damage themselves, by checksums of their own.
    """

    bytes: int
    digest: str = ""


@dataclass(frozen=True)
class Done:
    """A line of a task: what it wrote, or None where that is lost."""

    task: Task
    written: Written | None


@dataclass(frozen=True)
class Closed:
    """The line of a finished job: the files that it ends with, by their paths in its folder."""

    files: Mapping[str, Written]


class LedgerRecord:
    """What the ledger of one job tells: tasks that are done, and whether the job is. Nothing is written.

    totals: how many tasks each stage has; lines of others are left out. closed: how the job ended, unless something
    was lost since; last_closed: how it ended when it last did. is_there: whether there is such a file; one without a
    header, or of another job, is as good as none. Raises FormatError for one of another version.
    """

    def __init__(self, path: Path, fingerprint: str, totals: Sequence[int]) -> None:
        self.path = path
        self.done = TaskSet()
        self.closed: Closed | None = None
        self.last_closed: Closed | None = None
        self._totals = totals
        self.is_there = _is_ours(path, fingerprint)
        for entry in self._entries():
            self._hear(entry)

    def written(self, stages: Collection[int]) -> Iterator[Done]:
        """What each done task of these stages wrote, in ascending order.

        Read from the file, for a job need not remember it while it runs: 16 bytes a task of these stages meanwhile.
        """
        sizes = {stage: np.zeros(self._totals[stage], np.int64) for stage in stages}
        digests = {stage: np.zeros(self._totals[stage], np.uint64) for stage in stages}
        for entry in self._entries():
            if isinstance(entry, Done) and entry.task[0] in stages and entry.written is not None:
                stage, block = entry.task
                sizes[stage][block] = entry.written.bytes
                digests[stage][block] = int(entry.written.digest or "0", 16)
        for stage in stages:
            for block in self.done.blocks(stage).tolist():
                yield Done(
                    (stage, block), Written(int(sizes[stage][block]), _digest(int(digests[stage][block])))
                )

    def _entries(self) -> Iterator[Done | Closed]:
        for entry in lines_of(self.path) if self.is_there else ():
            if isinstance(entry, Closed) or (entry is not None and self._is_task(*entry.task)):
                yield entry

    def _is_task(self, stage: int, block: int) -> bool:
        return stage < len(self._totals) and block < self._totals[stage]

    def _hear(self, entry: Done | Closed) -> None:
        match entry:
            case Closed():
                self.closed = self.last_closed = entry
            case Done(task, None):
                self.done.discard(task)
                self.closed = None
            case Done(task, _):
                self.done.add(task)


class Ledger(LedgerRecord):
    """A ledger that is read and appended to.

    For the one process that has claimed the job's folder, whose job.yaml is the job's.

    A damaged file is mended: lines that are none are left out; one without a header, or of another job, gets another
    name and is begun anew.
    """

    def __init__(self, path: Path, fingerprint: str, totals: Sequence[int]) -> None:
        _mend(path, fingerprint)
        super().__init__(path, fingerprint, totals)
        self._file = path.open("ab")
        self._synced = time.monotonic()

    def record(self, stage: int, block: int, written: Written) -> None:
        """Append one done task: it outlives this process at once, and a crash of the machine after sync()."""
        digest = {"digest": written.digest} if written.digest else {}
        self._append({"stage": stage, "block": block, "bytes": written.bytes, **digest})
        self.done.add((stage, block))
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self.sync()

    def forget(self, tasks: Iterable[Task]) -> None:
        """What these tasks wrote is lost, and with it the end of a finished job; durable when this returns."""
        for stage, block in tasks:
            self._append({"stage": stage, "block": block, "lost": True})
            self.done.discard((stage, block))
        self.closed = None
        self.sync()

    def close_job(self, files: Mapping[str, Written]) -> None:
        """The job is finished, and these files are what it ends with; durable when this returns."""
        told = {name: {"bytes": written.bytes, "digest": written.digest} for name, written in files.items()}
        self._append({"closed": told})
        self.closed = self.last_closed = Closed(dict(files))
        self.sync()

    def sync(self) -> None:
        """Make all records durable: due before anything is deleted that their tasks would have to read again."""
        self._file.flush()
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

    def _append(self, record: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(record).encode() + b"\n")
        self._file.flush()


# --- lines -----------------------------------------------------------------------------------------------------------


def lines_of(path: Path) -> Iterator[Done | Closed | None]:
    """The lines of a ledger after its header, read one by one; None for one that is torn or rotten."""
    with path.open("rb") as file:
        next(file, b"")
        for line in file:
            try:
                yield entry_of(line) if line.endswith(b"\n") else None
            except DAMAGE:
                yield None


def is_readable(path: Path) -> bool:
    """Read all of it, if there is one, whatever it says. Raises OSError where that cannot be done."""
    if path.is_file():
        with naming(path), path.open("rb") as file:
            for _ in file:
                pass
    return True


def entry_of(line: bytes) -> Done | Closed:
    """What a line says. Raises one of DAMAGE where it is none of ours."""
    record = json.loads(line)
    if "closed" in record:
        return Closed({str(name): _written(told) for name, told in record["closed"].items()})
    stage, block = record["stage"], record["block"]
    if not (_is_number(stage, MOST_STAGES) and _is_number(block, MOST_BLOCKS)):
        raise ValueError(f"stage {stage!r} and block {block!r} name no task")
    return Done((stage, block), None if record.get("lost") else _written(record))


def _is_number(value: object, limit: int) -> bool:
    return type(value) is int and 0 <= value < limit


def _written(record: Mapping[str, Any]) -> Written:
    digest = int(record.get("digest", "") or "0", 16)
    return Written(int(record["bytes"]), _digest(digest))


def _digest(number: int) -> str:
    return f"{number:016x}" if number else ""


def check_header(line: bytes, path: Path) -> Mapping[str, Any]:
    """The first line of a ledger.

    Raises FormatError where it is of another version, ValueError where it is nobody's: no version is no number.
    """
    header: Mapping[str, Any] = json.loads(line)
    version = header.get("version")
    if header.get("format") != _FORMAT or type(version) is not int:
        raise ValueError(f"{path} does not begin as a ledger does")
    if version != VERSION:
        raise FormatError(f"{path} has version {version} of its format; this program reads {VERSION}")
    return header


def _is_ours(path: Path, fingerprint: str) -> bool:
    """Whether a file begins with the header of this job's ledger. Raises FormatError for another version's."""
    try:
        with path.open("rb") as file:
            line = file.readline()
        header = check_header(line, path)
    except FormatError:
        raise
    except (FileNotFoundError, ValueError, AttributeError, RecursionError):
        return False
    return line.endswith(b"\n") and header.get("fingerprint") == fingerprint


def _mend(path: Path, fingerprint: str) -> None:
    """Make of the file, or of none, one that everybody can read and that can be appended to."""
    if _is_ours(path, fingerprint):
        if any(entry is None for entry in lines_of(path)):
            _leave_out_rotten(path)
        return
    if path.is_file() and path.stat().st_size:
        set_aside(path)
    header = {"format": _FORMAT, "version": VERSION, "fingerprint": fingerprint}
    replace_file(path, (json.dumps(header) + "\n").encode())


def set_aside(path: Path) -> None:
    """Give a ledger that nobody can go on with another name; nothing of it is read."""
    aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
    log.warning("%s is damaged: it is begun anew, and what it told is in %s", path, aside.name)
    path.replace(aside)


def _leave_out_rotten(path: Path) -> None:
    """Write the file anew with its whole lines, so that everybody can read it and go on with it."""

    def write(unfinished: Path) -> None:
        with path.open("rb") as old, unfinished.open("wb") as new:
            new.write(next(old))
            for line, entry in zip(old, lines_of(path), strict=True):
                if entry is not None:
                    new.write(line)

    replace_by(path, write)
