"""How long tasks may take, how often they are tried, and which errors pass by themselves. Knows seconds; runs nothing.

A task is hung when it has taken many times as long as the longest of its kind so far, or as its plan expects. Nobody
can tell a worker that is stuck from one that is slow, so all of it is generous, and twice as generous at each new try.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from storage.damage import UNREADABLE

PASSING = UNREADABLE | {
    errno.ETIMEDOUT, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ECONNRESET, errno.ECONNREFUSED, errno.ECONNABORTED,
    errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET,
}  # fmt: skip
"""What file systems and networks say that are away for a while; a full disk stays full, a missing file missing."""


@dataclass(frozen=True)
class Limits:
    """When a task is called hung, tried again, or spoken of.

    attempts: how often its worker may be lost. tries: how often it may end with an error that passes, with a pause
    of first_pause_seconds before the second try, `growth` times as long before each later one.
    least_seconds: no task is hung sooner; times: the longest of its kind, or what its plan expects, whichever is more;
    loading_seconds: no task of a worker that has not answered yet is hung sooner, nor one of a kind never seen to end.
    say_seconds: without news, before people are told what is waited for; look_seconds: between two looks at workers.
    """

    attempts: int = 4
    tries: int = 5
    first_pause_seconds: float = 1.0
    growth: float = 4.0
    least_seconds: float = 600.0
    times: float = 20.0
    loading_seconds: float = 3600.0
    say_seconds: float = 30.0
    look_seconds: float = 5.0

    def pause_seconds(self, errors: int) -> float:
        """Before a task is tried again that has ended so often with an error that passes."""
        return self.first_pause_seconds * self.growth ** (errors - 1)


LIMITS = Limits()


def passes(error: Exception) -> bool:
    """Whether an error may be gone when the same is tried a little later."""
    return isinstance(error, OSError) and error.errno in PASSING


class Deadlines:
    """How long a task may take; learns from those that are done."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._longest: dict[str, float] = {}
        self._answered: dict[str, float] = {}

    def learn(self, kind: str, worker: str, given: float, now: float, computing: float) -> None:
        """A task is done that was given out at `given`, of which its worker computed for `computing` seconds.

        What a worker was given before its first answer has waited for the model, too: there only computing counts.
        """
        loaded = self._answered.setdefault(worker, now)
        seconds = now - given if given >= loaded else computing
        self._longest[kind] = max(self._longest.get(kind, 0.0), seconds)

    def longest(self, kind: str) -> float:
        """Seconds of the longest done task of a kind; 0.0 before there is one."""
        return self._longest.get(kind, 0.0)

    def seconds(self, kind: str, expected: float, worker: str, given: float, losses: int) -> float:
        """After which a task is hung that was given to a worker at `given`, and was lost `losses` times before."""
        seconds = max(self._limits.least_seconds, self._limits.times * max(self.longest(kind), expected))
        if kind not in self._longest or given < self._answered.get(worker, float("inf")):
            seconds = max(seconds, self._limits.loading_seconds)
        return seconds * 2.0**losses
