"""How far a batch is, from its folder alone. Knows batch.json, events and manifests; starts and changes nothing."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cluster.datasets.names import FAILED, FILTERED, GIANT, GIANTS, MANIFESTS, NAME, SUCCESS, WORK, WRITE
from cluster.following.history import Events
from cluster.following.progress import EVENTS, RECENT
from cluster.following.status import GroupStatus, State, read_status, state_of
from cluster.spec.fields import SpecError
from storage.fingerprint import FormatError


@dataclass(frozen=True)
class BatchStatus:
    """The state of a batch. drawn, filtered, failed, left: its requests; groups: its tasks by kind.

    seconds: spent by its runs, waiting between them not counted; seconds_left: of this run. images_per_second: over the
    latest tasks while it runs, over all runs afterwards. giant: how far the large picture under way is, in [0, 1].
    waiting: what it waits for, when there was no news for long.
    """

    folder: str
    state: State
    requests: int
    drawn: int
    filtered: int
    failed: int
    shards: int
    shards_done: int
    groups: tuple[GroupStatus, ...]
    seconds: float
    seconds_left: float | None
    images_per_second: float | None
    workers: int
    retried: int
    error: str | None
    model: str
    fingerprint: str
    giant: float | None = None
    waiting: str | None = None

    @property
    def left(self) -> int:
        """Requests of which nothing has become yet."""
        return max(0, self.requests - self.drawn - self.filtered - self.failed)

    @property
    def share(self) -> float:
        """Requests that are done of all of them, in [0, 1]."""
        return 1 - self.left / self.requests if self.requests else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return asdict(self) | {"left": self.left, "share": self.share}


def read_batch_status(folder: Path, now: datetime | None = None) -> BatchStatus:
    """The status of a batch's folder. Raises SpecError where there is no batch, FormatError where it cannot be read."""
    return BatchFollower(folder).look(now)


class BatchEvents(Events):
    """Events of a batch. rows: the last count; begun: tasks of earlier runs; counts: (time, requests done)."""

    def _clear(self) -> None:
        super()._clear()
        self.rows: dict[str, int] | None = None
        self.begun: dict[str, int] = {}
        self.counts: deque[tuple[datetime, int]] = deque(maxlen=RECENT)

    def _hear(self, event: Mapping[str, Any]) -> None:
        super()._hear(event)
        if event["event"] == "JobStarted":
            self.begun = {str(stage["name"]): int(stage["done"]) for stage in event["stages"]}
            self.counts.clear()
        if event["event"] == "RowsDone":
            self.rows = {name: int(event[name]) for name in ("drawn", "filtered", "failed", "shards")}
            at = datetime.fromisoformat(str(event["time"]))
            self.counts.append((at, sum(self.rows.values()) - self.rows["shards"]))

    def per_second(self) -> float | None:
        """Requests, over the latest tasks; None before there are some."""
        if not self.counts:
            return None
        (began, before), (ended, after) = self.counts[0], self.counts[-1]
        seconds = (ended - began).total_seconds()
        return (after - before) / seconds if after > before and seconds > 0 else None

    def groups(self) -> tuple[GroupStatus, ...]:
        spent = self.run.spent if self.run else {}
        return tuple(
            GroupStatus(name, self.begun.get(name, 0) + spent.get(name, (0, 0.0))[0], total)
            for name, total in self.stages
        )


class BatchFollower:
    """The status of one folder, again and again; a look costs what was written since the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.events = BatchEvents(folder / EVENTS)
        self._saved: tuple[tuple[int, int], Mapping[str, Any]] | None = None

    def look(self, now: datetime | None = None) -> BatchStatus:
        """Raises SpecError where there is no batch, FormatError where it cannot be read."""
        saved = self.saved()
        self.events.look()
        run, groups = self.events.run, self.events.groups()
        rows = self.events.rows or _by_manifests(self.folder)
        giant = giant_under_way(self.folder)
        state: State = (
            "finished"
            if (self.folder / SUCCESS).is_file()
            else state_of(run, now or datetime.now(UTC), self.folder)
        )
        if state == "silent" and giant is not None:
            state = "running"
        running, seconds = state == "running", self.events.seconds
        pace = self.events.per_second() if running else rows["drawn"] / seconds if seconds else None
        return BatchStatus(
            folder=str(self.folder),
            state=state,
            requests=int(saved["requests"]),
            drawn=rows["drawn"],
            filtered=rows["filtered"],
            failed=rows["failed"],
            shards=int(saved["shards"]),
            shards_done=rows["shards"],
            groups=groups,
            seconds=seconds,
            seconds_left=_seconds_left(self.events, groups) if running else None,
            images_per_second=pace or None,
            workers=run.workers if run else 0,
            retried=self.events.retried,
            error=run.error if run and state == "failed" else None,
            model=str(saved.get("model", "")),
            fingerprint=str(saved["fingerprint"]),
            giant=giant if running else None,
            waiting=run.waiting if run and running else None,
        )

    def saved(self) -> Mapping[str, Any]:
        """batch.json, read again when it has changed."""
        path = self.folder / NAME
        if not path.is_file():
            raise SpecError(f"{self.folder} holds no batch (no {NAME})")
        status = path.stat()
        stamp = status.st_mtime_ns, status.st_size
        if self._saved is None or self._saved[0] != stamp:
            self._saved = stamp, _read(path)
        return self._saved[1]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        saved = json.loads(path.read_bytes())
        if not isinstance(saved, dict):
            raise TypeError(f"it holds {type(saved).__name__}")
        int(saved["requests"]), int(saved["shards"]), str(saved["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(
            f"{path} is damaged ({type(error).__name__}: {error}); make the batch anew"
        ) from None
    return saved


def giant_under_way(folder: Path) -> float | None:
    """How far the large picture is that is being drawn, in [0, 1]; None where there is none, or nobody draws it."""
    for job in sorted((folder / WORK / GIANTS).glob("[0-9]*")):
        try:
            now = read_status(job)
        except (ValueError, OSError):  # just begun, or just removed
            continue
        if now.state in ("running", "finished"):
            return now.share
    return None


def _by_manifests(folder: Path) -> dict[str, int]:
    """What whole shards tell, where no run told anything."""
    found = {"drawn": 0, "filtered": 0, "failed": 0, "shards": 0}
    for path in (folder / MANIFESTS).glob("*.json"):
        try:
            manifest = json.loads(path.read_bytes())
            kinds = [str(request["kind"]) for request in manifest["missing"]]
            found["drawn"] += int(manifest["rows"])
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{path} is damaged ({type(error).__name__}: {error}); resume the batch"
            ) from None
        found["filtered"] += kinds.count(FILTERED)
        found["failed"] += kinds.count(FAILED)
        found["shards"] += 1
    return found


def _seconds_left(events: BatchEvents, groups: tuple[GroupStatus, ...]) -> float | None:
    """By the mean time of each kind of task in this run; None while one that takes long has not begun.

    Large pictures are drawn one after another, each by all workers; all others are shared among them.
    """
    assert events.run is not None
    left = 0.0
    for group in groups:
        count, seconds = events.run.spent.get(group.name, (0, 0.0))
        undone = group.total - group.done
        if undone and not count and group.name != WRITE:
            return None
        if count:
            left += undone * seconds / count / (1 if group.name == GIANT else events.run.workers)
    return left
