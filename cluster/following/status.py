"""How far a job is, from its folder alone. Knows job.yaml, the ledger and the events; starts and changes nothing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cluster.following.events import group_of
from cluster.following.history import DoneTasks, Events, RunHistory
from cluster.following.progress import EVENTS
from cluster.spec import job_file
from storage.claim import is_abandoned

LEDGER = "ledger.jsonl"
SILENCE = 60.0
SILENCE_OF_WAITING = 600.0
"""Of a run that has said that it waits, which it says once."""
State = Literal["not started", "running", "silent", "interrupted", "failed", "finished"]


@dataclass(frozen=True)
class GroupStatus:
    """Stages of one kind: how many tasks there are and how many are done."""

    name: str
    done: int
    total: int


@dataclass(frozen=True)
class Status:
    """The state of a job. seconds: spent by its runs, waiting between them not counted; seconds_left: of this run.

    workers: of the last run, that were there last; patches_per_second: over its latest tasks, while it runs; waiting:
    what it waits for then.
    "silent": its last run has neither ended nor said anything for longer than its tasks take; it was probably killed.
    """

    folder: str
    prompt: str
    size: tuple[int, int]
    state: State
    groups: tuple[GroupStatus, ...]
    seconds: float
    seconds_left: float | None
    retried: int
    error: str | None
    fingerprint: str
    workers: int = 0
    patches_per_second: float | None = None
    waiting: str | None = None

    @property
    def share(self) -> float:
        """Done tasks of all tasks, in [0, 1]."""
        total = sum(group.total for group in self.groups)
        return sum(group.done for group in self.groups) / total if total else 0.0

    def as_json(self) -> dict[str, Any]:
        """Plain values under the same names."""
        return asdict(self) | {"share": self.share}


def read_status(folder: Path, now: datetime | None = None) -> Status:
    """The status of a job's folder. Raises SpecError where there is no job, FormatError where it cannot be read."""
    return Follower(folder).look(now)


class Follower:
    """The status of one folder, again and again; a look costs what was written since the last one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done = DoneTasks(folder / LEDGER)
        self.events = Events(folder / EVENTS)
        self._saved: tuple[tuple[int, int], job_file.SavedJob] | None = None

    def look(self, now: datetime | None = None) -> Status:
        """Raises SpecError where there is no job, FormatError where it cannot be read."""
        saved = self.saved()
        self.events.look()
        self.done.look()
        run, groups = self.events.run, self._groups()
        state = state_of(run, now or datetime.now(UTC), self.folder)
        state = "finished" if self.done.is_closed else state
        running = state == "running"
        return Status(
            folder=str(self.folder),
            prompt=saved.spec.prompt,
            size=(saved.spec.width, saved.spec.height),
            state=state,
            groups=groups,
            seconds=self.events.seconds,
            seconds_left=_seconds_left(run, groups) if run and running else None,
            retried=self.events.retried,
            error=run.error if run and state == "failed" else None,
            fingerprint=saved.fingerprint,
            workers=run.workers if run else 0,
            patches_per_second=run.patches_per_second() if run and running else None,
            waiting=run.waiting if run and running else None,
        )

    def saved(self) -> job_file.SavedJob:
        """job.yaml, read again when it has changed."""
        path = self.folder / job_file.NAME
        stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else (0, 0)
        if self._saved is None or self._saved[0] != stamp:
            self._saved = stamp, job_file.load(self.folder)
        return self._saved[1]

    def _groups(self) -> tuple[GroupStatus, ...]:
        """Totals as the last start announced them, done tasks as the ledger has them."""
        counts: dict[str, list[int]] = {}
        for index, (name, total) in enumerate(self.events.stages):
            count = counts.setdefault(group_of(name), [0, 0])
            count[0] += min(self.done.count(index), total)  # a ledger may hold what this plan has not
            count[1] += total
        return tuple(GroupStatus(name, *count) for name, count in counts.items())


def state_of(run: RunHistory | None, now: datetime, folder: Path) -> State:
    """By the last run's last event, whether anybody works in its folder, and how long ago the event was."""
    ends: dict[str, State] = {
        "JobFinished": "finished",
        "JobFailed": "failed",
        "JobInterrupted": "interrupted",
    }
    if run is None:
        return "not started"
    if run.last_event in ends:
        return ends[run.last_event]
    if is_abandoned(folder):
        return "interrupted"
    silent = (now - run.latest).total_seconds()
    patience = SILENCE_OF_WAITING if run.waiting else SILENCE + 5 * run.slowest
    return "running" if silent < patience else "silent"


def _seconds_left(run: RunHistory, groups: Iterable[GroupStatus]) -> float | None:
    """Seconds that all groups will take, by the mean time of their tasks in this run; None while one that has tasks
    left has not begun.

    Groups that have not begun are taken to be as fast, task by task, as the last that has.
    """
    if not run.spent:
        return None
    left, mean = 0.0, 0.0
    for group in groups:
        if group.name in run.spent:
            count, seconds = run.spent[group.name]
            mean = seconds / count
        left += mean * (group.total - group.done)
    return left / run.workers
