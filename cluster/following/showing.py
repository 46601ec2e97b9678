"""How far a call is, for whoever called it: bars where they can be drawn, lines elsewhere. Knows no job.

wanted    True: lines where no bar can be drawn; None: nothing there; False: nothing anywhere

All of it goes to standard error, so that standard output is the program's own.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn

from cluster.following.events import Event, JobFailed, JobInterrupted, OnEvent, unheard
from cluster.following.progress import Bars, Narrower, ProgressLines

SECONDS_BETWEEN_LINES = 5.0
OnCount = Callable[[int, int], None]
"""Told how much is done, of how much."""


@contextmanager
def shown(wanted: bool | None = True) -> Iterator[OnEvent]:
    """A listener to a job's events that shows its groups of stages."""
    console = Console(stderr=True, emoji=False)
    if wanted is not False and draws_bars(console):
        with Bars(console) as bars:
            yield unless_it_fails(bars)
    else:
        yield unless_it_fails(ProgressLines(sys.stderr)) if wanted else unheard


@contextmanager
def counted(what: str, wanted: bool | None = True) -> Iterator[OnCount]:
    """A listener to counts that shows one bar; what: its name."""
    console = Console(stderr=True, emoji=False)
    if wanted is False or not draws_bars(console):
        yield CountedLines(what) if wanted else unconcerned
        return
    columns = TextColumn(what), BarColumn(bar_width=None), TaskProgressColumn(), TimeRemainingColumn()
    with Narrower(*columns, console=console) as progress:
        row = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(row, completed=min(done, total), total=total)


class CountedLines:
    """A line every few seconds: `export 35 %`."""

    def __init__(self, what: str) -> None:
        self._what, self._last = what, time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(f"{self._what} {min(100, 100 * done // max(1, total))} %", file=sys.stderr, flush=True)


def unconcerned(done: int, total: int) -> None:
    """Hears of counts, and does nothing."""


def draws_bars(console: Console) -> bool:
    """Whether it can draw over what it has drawn: notebooks do so with widgets."""
    return find_spec("ipywidgets") is not None if console.is_jupyter else console.is_terminal


def unless_it_fails(listener: OnEvent) -> OnEvent:
    """A listener that hears of no bad end: the last line of a call says it, or its error, once."""

    def tell(event: Event) -> None:
        if not isinstance(event, JobFailed | JobInterrupted):
            listener(event)

    return tell
