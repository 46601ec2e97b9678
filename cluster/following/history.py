"""What a job's files tell, read again and again as they grow. Knows the ledger and the events; judges nothing.

Each look reads what was appended since the last one, so following a job of a hundred thousand tasks costs no more
than following one of ten.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cluster.following.events import group_of
from cluster.following.progress import RECENT
from storage import ledger
from storage.damage import is_unreadable
from storage.fingerprint import FormatError
from storage.task_set import TaskSet

log = logging.getLogger(__name__)


def set_damaged_events_aside(path: Path) -> None:
    """Give events that nobody can read another name, so that a run that begins now can be followed."""
    try:
        Events(path).look()
    except (FormatError, OSError) as error:
        if not (isinstance(error, FormatError) or is_unreadable(error)):
            raise
        aside = path.with_name(f"{path.stem}.damaged{path.suffix}")
        log.warning("%s: what it told of earlier runs is in %s", error, aside.name)
        path.replace(aside)


class Tail:
    """The whole lines that were appended to a file since the last look."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.begin_anew()

    def begin_anew(self) -> None:
        """Forget what was read."""
        self._offset = 0
        self._file: tuple[int, int] | None = None

    def lines(self) -> tuple[bool, list[bytes]]:
        """Whether the file was replaced, so that what was read before counts no longer; and the new lines.

        A last line without its end, which is being written or was torn, is left for the next look.
        """
        try:
            status = self.path.stat()
        except FileNotFoundError:
            anew = self._file is not None
            self.begin_anew()
            return anew, []
        identity = status.st_dev, status.st_ino
        anew = self._file is not None and (identity != self._file or status.st_size < self._offset)
        if anew:
            self.begin_anew()
        self._file = identity
        if status.st_size == self._offset:
            return anew, []
        with self.path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content.rfind(b"\n") + 1
        self._offset += whole
        return anew, content[:whole].splitlines()


class DoneTasks:
    """The ledger: which blocks each stage has done."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._clear()

    def look(self) -> None:
        """Raises FormatError for a ledger that is damaged or of another version, at every look."""
        anew, lines = self._tail.lines()
        if anew:
            self._clear()
        try:
            self._hear(lines)
        except ledger.DAMAGE as error:
            self._tail.begin_anew()
            self._clear()
            raise _damaged(self._tail.path, error) from None

    def _clear(self) -> None:
        self.tasks = TaskSet()
        self.is_closed = False
        self._header = False

    def _hear(self, lines: list[bytes]) -> None:
        if lines and not self._header:
            ledger.check_header(lines.pop(0), self._tail.path)
            self._header = True
        for line in lines:
            self._hear_entry(ledger.entry_of(line))

    def _hear_entry(self, entry: ledger.Done | ledger.Closed) -> None:
        match entry:
            case ledger.Closed():
                self.is_closed = True
            case ledger.Done(task, None):
                self.tasks.discard(task)
                self.is_closed = False
            case ledger.Done(task, _):
                self.tasks.add(task)

    def count(self, stage: int) -> int:
        return self.tasks.count(stage)


@dataclass
class RunHistory:
    """One run of a job, from its start on.

    spent: (tasks, seconds) of each group; recent: (time, patches, seconds) of its latest tasks.
    waiting: what it said that it waits for, if there was no news since.
    """

    began: datetime
    latest: datetime
    last_event: str = ""
    workers: int = 1
    error: str | None = None
    waiting: str | None = None
    slowest: float = 0.0
    spent: dict[str, tuple[int, float]] = field(default_factory=dict)
    recent: deque[tuple[datetime, int, float]] = field(default_factory=lambda: deque(maxlen=RECENT))

    @property
    def seconds(self) -> float:
        return (self.latest - self.began).total_seconds()

    def hear(self, event: Mapping[str, Any], at: datetime) -> None:
        self.latest, self.last_event = at, str(event["event"])
        self.waiting = str(event["what"]) if self.last_event == "Waiting" else None
        match self.last_event:
            case "JobStarted":
                self.workers = max(1, int(event.get("workers", 1)))
            case "WorkersUp":
                self.workers = max(1, int(event["workers"]))
            case "JobFailed":
                self.error = str(event["error"])
            case "TaskDone":
                self._add(event, at)

    def _add(self, event: Mapping[str, Any], at: datetime) -> None:
        seconds, group = float(event["seconds"]), group_of(str(event["stage_name"]))
        count, before = self.spent.get(group, (0, 0.0))
        self.spent[group] = count + 1, before + seconds
        self.slowest = max(self.slowest, seconds)
        self.recent.append((at, int(event.get("evaluations", 0)), seconds))

    def patches_per_second(self) -> float | None:
        """Over the latest tasks; None before there are two, and where they evaluate nothing.

        Tasks may be told of in pairs, so it is no more than busy workers could do.
        """
        later = list(self.recent)[1:]
        patches, busy = sum(count for _, count, _ in later), sum(seconds for _, _, seconds in later)
        told = (self.recent[-1][0] - self.recent[0][0]).total_seconds() if later else 0.0
        seconds = max(told, busy / self.workers)
        return patches / seconds if patches and seconds > 0 else None


class Events:
    """The events: the stages as the last start announced them, the last run, and sums over all of them."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._clear()

    def _clear(self) -> None:
        self.stages: tuple[tuple[str, int], ...] = ()
        self.run: RunHistory | None = None
        self.earlier_seconds = 0.0
        self.retried = 0

    def look(self) -> None:
        """Raises FormatError where an event is not of this program's kind, at every look."""
        anew, lines = self._tail.lines()
        if anew:
            self._clear()
        try:
            for line in lines:
                self._hear_line(line)
        except ledger.DAMAGE as error:
            self._tail.begin_anew()
            self._clear()
            raise _damaged(self._tail.path, error) from None

    def _hear_line(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:  # torn by a crash, and the next run began in the same line
            return
        if isinstance(event, dict) and "event" in event:
            self._hear(event)

    def _hear(self, event: Mapping[str, Any]) -> None:
        at = datetime.fromisoformat(str(event["time"]))
        if event["event"] == "JobStarted" or self.run is None:
            self.earlier_seconds += self.run.seconds if self.run else 0.0
            self.run = RunHistory(at, at)
        if event["event"] == "JobStarted":
            self.stages = tuple((str(stage["name"]), int(stage["total"])) for stage in event["stages"])
        if event["event"] == "TaskRetried":
            self.retried += 1
        self.run.hear(event, at)

    @property
    def seconds(self) -> float:
        """Seconds of all runs, without the time between them."""
        return self.earlier_seconds + (self.run.seconds if self.run else 0.0)


def _damaged(path: Path, error: Exception) -> FormatError:
    if isinstance(error, FormatError):
        return error
    return FormatError(
        f"{path} is damaged ({type(error).__name__}: {error}); it is mended when the job, or the batch, goes on"
    )
