"""Listeners of a job's events: a file of JSON lines, bars on a terminal, lines elsewhere. Knows events; knows no plan.

Stages are shown by group, the first word of their names: "denoise 0" .. "denoise 20" are one bar.
"""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cluster.following.events import (
    Event,
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    OnEvent,
    TaskDone,
    TaskRetried,
    Waiting,
    group_of,
)
from cluster.wording import duration, one_line, time_left

EVENTS = "events.jsonl"
RECENT = 64


def fan_out(*listeners: OnEvent) -> OnEvent:
    """One listener that tells several, in order."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell


# --- a file of JSON lines --------------------------------------------------------------------------------------------


class JsonLines:
    """Appends {"time", "event", ...} lines to a file, each flushed, so that others can follow the job."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        if _ends_in_a_line(path):  # which a crash tore
            self._file.write("\n")

    def __call__(self, event: Event) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"time": stamp, "event": type(event).__name__, **asdict(event)}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._file.close()


def _ends_in_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        return file.read() not in (b"", b"\n")


# --- how far a job is ------------------------------------------------------------------------------------------------


@dataclass
class StageGroup:
    """The stages of one kind, added up. ends: when its first task of this run began and the latest ended."""

    name: str
    total: int = 0
    done: int = 0
    ends: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))

    def seconds_left(self) -> float | None:
        """By the pace of its recent tasks; None before there is one."""
        if self.done >= self.total:
            return 0.0
        if len(self.ends) < 2:
            return None
        pace = (self.ends[-1] - self.ends[0]) / (len(self.ends) - 1)
        return pace * (self.total - self.done)


class ProgressTally:
    """Counts events by group."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.groups: dict[str, StageGroup] = {}
        self.retried = 0
        self._clock = clock

    def __call__(self, event: Event) -> None:
        match event:
            case JobStarted():
                self._start(event)
            case TaskDone():
                group = self.groups[group_of(event.stage_name)]
                group.done = min(
                    group.done + 1, group.total
                )  # a task that is done again is no more work done
                if not group.ends:
                    group.ends.append(self._clock() - event.seconds)
                group.ends.append(self._clock())
            case TaskRetried():
                self.retried += 1

    def _start(self, event: JobStarted) -> None:
        """Counts begin anew: a run that makes something again says once more what is done."""
        for name in dict.fromkeys(group_of(stage.name) for stage in event.stages):
            group = self.groups.setdefault(name, StageGroup(name))
            stages = [stage for stage in event.stages if group_of(stage.name) == name]
            group.total, group.done = (
                sum(stage.total for stage in stages),
                sum(stage.done for stage in stages),
            )

    def current(self) -> StageGroup | None:
        """The first group with tasks left."""
        return next((group for group in self.groups.values() if group.done < group.total), None)


# --- for people ------------------------------------------------------------------------------------------------------


class ProgressLines:
    """A line every few seconds, for logs and pipes: `denoise 120/340 (35 %), about 2 min 10 s left`."""

    def __init__(
        self, stream: TextIO, seconds_between: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self._between = seconds_between
        self._clock = clock
        self._tally = ProgressTally(clock)
        self._last = clock()

    def __call__(self, event: Event) -> None:
        self._tally(event)
        match event:
            case TaskDone() if self._clock() - self._last >= self._between:
                self._say(self._where())
            case TaskRetried():
                self._say(_again(event))
            case Waiting():
                self._say(event.what)
            case JobStarted():
                self._say(f"started: {started(self._tally.groups.values(), event.workers)}")
            case JobFinished() | JobFailed() | JobInterrupted():
                self._say(ended(event))

    def _where(self) -> str:
        group = self._tally.current()
        if group is None:
            return "finishing"
        share = 100 * group.done // group.total
        return f"{group.name} {group.done}/{group.total} ({share} %){time_left(group.seconds_left())}"

    def _say(self, text: str) -> None:
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._last = self._clock()


def started(groups: Iterable[StageGroup], workers: int) -> str:
    """ "340 denoise, 4 decode tasks; 2 workers": what is left; and how many tasks earlier runs did."""
    groups = tuple(groups)
    left = {group.name: group.total - group.done for group in groups if group.done < group.total}
    parts = ", ".join(f"{count} {name}" for name, count in left.items()) or "no"
    earlier = sum(group.done for group in groups)
    resumed = f", {earlier} done before" if earlier else ""
    tasks, hands = _plural("task", sum(left.values())), _plural("worker", workers)
    return f"{parts} {tasks}{resumed}; {workers} {hands}"


def _plural(word: str, count: int) -> str:
    return word if count == 1 else f"{word}s"


def _again(event: TaskRetried) -> str:
    return f"{event.stage_name}, block {event.block} runs again: {event.error}"


def ended(event: JobFinished | JobFailed | JobInterrupted) -> str:
    """How a run ended, in a line: how long it took, or what stopped it."""
    match event:
        case JobFinished():
            return f"finished in {duration(event.seconds)}"
        case JobFailed():
            return f"failed: {one_line(event.error) if event.error else 'no reason given'}"
        case JobInterrupted():
            return "interrupted"


ROOM_FOR_ECHO = 3
"""Columns. In a full line the terminal's own ^C would go on in the next one, and leave a bar behind."""


@dataclass(frozen=True)
class Narrow:
    """What is shown again and again, without the last columns of a terminal: not even spaces are written there."""

    shown: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from console.render(self.shown, options.update(width=max(1, options.max_width - ROOM_FOR_ECHO)))


class Narrower(Progress):
    """Bars that leave the last columns of a terminal free."""

    def get_renderable(self) -> RenderableType:
        return Narrow(super().get_renderable())


class Bars:
    """A bar with the time left for each group of stages, while used as a context."""

    def __init__(self, console: Console) -> None:
        self._tally = ProgressTally()
        self._rows: dict[str, TaskID] = {}
        self._progress = Narrower(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("[dim]{task.fields[left]:>12}"),
            TimeElapsedColumn(),
            console=console,
        )

    def __call__(self, event: Event) -> None:
        self._progress.start()  # not before there is something to show: until then questions may be asked
        self._tally(event)
        for group in self._tally.groups.values():
            self._show(group)
        match event:
            case TaskRetried():
                self._say(_again(event))
            case Waiting():
                self._say(event.what)

    def _say(self, text: str) -> None:
        self._progress.console.print(text, style="yellow", markup=False, highlight=False)

    def _show(self, group: StageGroup) -> None:
        if group.name not in self._rows:
            self._rows[group.name] = self._progress.add_task(
                group.name, total=group.total, left="", start=False
            )
        row = self._rows[group.name]
        under_way = 0 < group.done < group.total
        if under_way:
            self._progress.start_task(row)
        seconds = group.seconds_left() if under_way else None
        left = "" if seconds is None else f"{duration(seconds)} left"
        self._progress.update(row, completed=group.done, left=left)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._progress.stop()
