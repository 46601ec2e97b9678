"""Looks at what is stored, and again where a look fails with an error that passes. Knows pauses; knows no file.

A disk that is away for a moment is no damage, and a sector that stays unreadable is: its makers run again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from cluster.patience import LIMITS, Limits, passes
from storage.damage import is_unreadable

log = logging.getLogger(__name__)

T = TypeVar("T")
Failed = list[tuple[T, OSError]]

READERS = 4
"""Threads that look at once; reading and hashing release Python's lock."""
AT_ONCE = 256
"""Things that are looked at before the next are asked for: memory is bounded whatever their number."""


@dataclass(frozen=True)
class Rereading:
    """Reads again what could not be read, as patiently as a run tries its tasks. sleep: waits for so many seconds."""

    limits: Limits = LIMITS
    sleep: Callable[[float], None] = time.sleep

    def whole(self, items: Iterable[T], look: Callable[[T], bool]) -> Iterator[tuple[T, bool]]:
        """Each item, and whether `look` finds it whole; those that cannot be read just now come last.

        They are looked at again after each pause, all of them, so that a disk that is away is waited for once. What
        cannot be read at the last try either is not whole. Raises an error that does not pass, and one that should
        have passed and says nothing of what is stored.
        """
        failed: Failed[T] = []
        with ThreadPoolExecutor(READERS) as readers:
            for turn in range(self.limits.tries):
                if turn:
                    self._wait(turn, failed)
                    items = [item for item, _ in failed]
                failed = []
                yield from _looked(readers, items, look, failed)
                if not failed:
                    return
        for item, error in failed:
            if not is_unreadable(error):
                raise error
            yield item, False

    def is_whole(self, look: Callable[[], bool]) -> bool:
        """Whether one thing is whole, read as patiently as `damaged` reads many."""
        return all(whole for _, whole in self.whole([None], lambda _: look()))

    def _wait(self, errors: int, failed: Failed[T]) -> None:
        pause = self.limits.pause_seconds(errors)
        times = f"{len(failed)} outputs" if len(failed) > 1 else "an output"
        log.warning("%s cannot be read just now (%s): once more in %g s", times, failed[0][1], pause)
        self.sleep(pause)


REREADING = Rereading()


def _looked(
    readers: ThreadPoolExecutor, items: Iterable[T], look: Callable[[T], bool], failed: Failed[T]
) -> Iterator[tuple[T, bool]]:
    """Each item that can be looked at, and whether it is whole; the others go to `failed`."""

    def caught(item: T) -> bool | OSError:
        try:
            return look(item)
        except OSError as error:
            if passes(error):
                return error
            raise

    left = iter(items)
    while some := list(islice(left, AT_ONCE)):
        for item, found in zip(some, readers.map(caught, some), strict=True):
            if isinstance(found, OSError):
                failed.append((item, found))
            else:
                yield item, found
