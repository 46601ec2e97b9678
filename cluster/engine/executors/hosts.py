"""Whose process it is in which an executor computes: somebody's program, or ours alone. Knows no task.

Settings of a process (how it gives memory back, what Python looks through for garbage, PyTorch's threads) make the
engine faster, and are not ours to change in a program that calls it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import ExitStack
from typing import Protocol, TypeVar

from cluster.machine import computation_kept, settled

T = TypeVar("T")


class Host(Protocol):
    """The process, from when a worker's model is loaded in it until its executor closes."""

    def settle(self, load: Callable[[], T]) -> T:
        """Load what stays; leave, too, where that raises."""

    def leave(self) -> None:
        """Nothing is computed any more."""


class Guest:
    """Of a process that is somebody's: whatever computing changes in it is as it was, once that is over."""

    def __init__(self) -> None:
        self._changes = ExitStack()

    def settle(self, load: Callable[[], T]) -> T:
        with ExitStack() as changes:
            changes.enter_context(computation_kept())
            loaded = load()
            self._changes = changes.pop_all()
        return loaded

    def leave(self) -> None:
        self._changes.close()


class Owner:
    """Of a process that does nothing else, and ends soon after."""

    def settle(self, load: Callable[[], T]) -> T:
        return settled(load)

    def leave(self) -> None:
        gc.unfreeze()
