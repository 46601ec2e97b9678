"""Signals that end a call: Ctrl-C, `kill`, a terminal that closes. Knows signals; knows no job and no message.

The first raises KeyboardInterrupt, whichever it is: all that is under way ends as after Ctrl-C. What follows within a
second is the same wish, for terminals, shells and `timeout` send several; a later one does not wait for the end.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

ECHO_SECONDS = 1.0
ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
Handler = Callable[[int, FrameType | None], Any]


def exit_code(number: int) -> int:
    """What shells call the end by a signal: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
    return 128 + number


class Stops:
    """The handler of a call's ending signals. first: the one that came first; leave: ends the process at once."""

    def __init__(self, leave: Callable[[int], None], clock: Callable[[], float] = time.monotonic) -> None:
        self.first: int | None = None
        self._leave = leave
        self._clock = clock
        self._at = 0.0

    def __call__(self, number: int, frame: FrameType | None = None) -> None:
        if self.first is None:
            self.first, self._at = number, self._clock()
            raise KeyboardInterrupt
        if self._clock() - self._at > ECHO_SECONDS:
            self._leave(exit_code(self.first))

    @contextmanager
    def installed(self, last: bool = False) -> Iterator[None]:
        """For every ending signal that this process does not ignore, as those do that nohup starts.

        last: the process ends with what is done in here. After a signal, others must not change how: they are ignored.
        """
        with handled_by(self) as before:
            _INSTALLED.append(self)
            try:
                yield
            finally:
                _INSTALLED.remove(self)
                if last and self.first is not None:
                    before.update(dict.fromkeys(before, signal.SIG_IGN))


_INSTALLED: list[Stops] = []
"""Those of this process, whose calls are under way."""


def is_heard() -> bool:
    """Whether a signal has come that ends the call, whatever has become of the exception that it raised."""
    return any(stops.first is not None for stops in _INSTALLED)


def check() -> None:
    """Raises KeyboardInterrupt where a signal has come: its own is lost where a destructor was running."""
    if is_heard():
        raise KeyboardInterrupt


@contextmanager
def handled_by(handler: Handler) -> Iterator[dict[int, Any]]:
    """Ending signals that are not ignored go to a handler; gives those before it, which come back at the end.

    Outside the main thread, which alone may ask for signals, nothing changes.
    """
    before = handlers() if threading.current_thread() is threading.main_thread() else {}
    try:
        for number in before:
            signal.signal(number, handler)
        yield before
    finally:
        restore(before)


@contextmanager
def kept(theirs: int) -> Iterator[None]:
    """Handlers that a library installs in here do not outlive it, those below Python's included.

    theirs: the signal for which the library's handler ends the process meanwhile; that goes to ours instead.
    """
    before = handlers() if threading.current_thread() is threading.main_thread() else {}
    try:
        yield
    except SystemExit:
        restore(before)
        if callable(ours := before.get(theirs)):
            ours(theirs, None)
        raise
    finally:
        restore(before)


def handlers() -> dict[int, Any]:
    """Signal -> what it does here, of each ending signal that is not ignored."""
    found = {number: signal.getsignal(number) for number in ENDING}
    return {number: handler for number, handler in found.items() if handler not in (signal.SIG_IGN, None)}


def restore(before: dict[int, Any]) -> None:
    """Install handlers again."""
    for number, handler in before.items():
        signal.signal(number, handler)
