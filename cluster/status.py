"""How far a job is, from its folder alone. Knows job.yaml, the ledger and the events; starts and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from cluster import job_file
from cluster.progress import EVENTS, group_of, read_events
from storage import ledger

LEDGER = "ledger.jsonl"
SILENCE = 60.0
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
    saved = job_file.load(folder)
    events = read_events(folder / EVENTS)
    groups = _groups(events, _done_by_stage(folder / LEDGER))
    run = _last_run(events)
    state = _state(run, now or datetime.now(UTC))
    return Status(
        folder=str(folder),
        prompt=saved.spec.prompt,
        size=(saved.spec.width, saved.spec.height),
        state=state,
        groups=groups,
        seconds=sum(_span(part) for part in _runs(events)),
        seconds_left=_seconds_left(run, groups) if state == "running" else None,
        retried=sum(event["event"] == "TaskRetried" for event in events),
        error=str(run[-1]["error"]) if state == "failed" else None,
        fingerprint=saved.fingerprint,
    )


def _done_by_stage(path: Path) -> Counter[int]:
    if not path.exists():
        return Counter()
    _, done, _ = ledger.read(path)
    return Counter(stage for stage, _ in done)


def _groups(events: Iterable[Mapping[str, Any]], done: Counter[int]) -> tuple[GroupStatus, ...]:
    """Totals as the last start announced them, done tasks as the ledger has them."""
    starts = [event for event in events if event["event"] == "JobStarted"]
    counts: dict[str, list[int]] = {}
    for index, stage in enumerate(starts[-1]["stages"] if starts else ()):
        count = counts.setdefault(group_of(stage["name"]), [0, 0])
        count[0] += done[index]
        count[1] += stage["total"]
    return tuple(GroupStatus(name, *count) for name, count in counts.items())


def _runs(events: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Events of each run, first run first."""
    runs: list[list[Mapping[str, Any]]] = []
    for event in events:
        if event["event"] == "JobStarted" or not runs:
            runs.append([])
        runs[-1].append(event)
    return runs


def _last_run(events: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    runs = _runs(events)
    return runs[-1] if runs else []


def _state(run: list[Mapping[str, Any]], now: datetime) -> State:
    ends: dict[str, State] = {
        "JobFinished": "finished",
        "JobFailed": "failed",
        "JobInterrupted": "interrupted",
    }
    if not run:
        return "not started"
    if run[-1]["event"] in ends:
        return ends[run[-1]["event"]]
    slowest = max((float(event["seconds"]) for event in run if event["event"] == "TaskDone"), default=0.0)
    silent = (now - _time(run[-1])).total_seconds()
    return "running" if silent < SILENCE + 5 * slowest else "silent"


def _seconds_left(run: list[Mapping[str, Any]], groups: Iterable[GroupStatus]) -> float | None:
    """Of all groups, by the mean time of their tasks in this run; None while one that has tasks left has not begun.

    Groups that have not begun are taken to be as fast, task by task, as the last that has.
    """
    spent: dict[str, list[float]] = {}
    for event in run:
        if event["event"] == "TaskDone":
            spent.setdefault(group_of(event["stage_name"]), []).append(float(event["seconds"]))
    workers = max(1, int(run[0].get("workers", 1)))
    if not spent:
        return None
    left, mean = 0.0, 0.0
    for group in groups:
        if group.name in spent:
            mean = sum(spent[group.name]) / len(spent[group.name])
        left += mean * (group.total - group.done)
    return left / workers


def _span(run: list[Mapping[str, Any]]) -> float:
    return (_time(run[-1]) - _time(run[0])).total_seconds() if run else 0.0


def _time(event: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(str(event["time"]))
