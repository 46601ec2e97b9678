"""Who may compute while a model is loaded in the same process: nobody. Knows threads; knows no model.

diffusers, transformers and accelerate build networks under process-wide settings: PyTorch's default dtype, and
functions of `torch.nn` and `torch.nn.init` that they replace for a while. Whoever computed meanwhile in another thread
could take the dtype for its own numbers, and of two who load at once one could leave the other's replacements behind.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Many compute together, or one loads alone; who waits to load goes before those who begin to compute."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._computing = self._waiting = 0
        self._loader: int | None = None
        self._mine = threading.local()

    @contextmanager
    def together(self) -> Iterator[None]:
        """While this thread computes. It may be inside of it already, or be the one that loads."""
        depth = getattr(self._mine, "depth", 0)
        if depth == 0 and not self._is_mine():
            self._enter()
        self._mine.depth = depth + 1
        try:
            yield
        finally:
            self._mine.depth = depth
            if depth == 0 and not self._is_mine():
                self._leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While this thread loads. Raises RuntimeError for one that computes: it would wait for itself."""
        if self._is_mine():
            yield
            return
        if getattr(self._mine, "depth", 0):
            raise RuntimeError("a thread cannot load a model while it computes")
        self._begin_to_load()
        try:
            yield
        finally:
            with self._changed:
                self._loader = None
                self._changed.notify_all()

    def _begin_to_load(self) -> None:
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: self._loader is None and not self._computing)
                self._loader = threading.get_ident()
            finally:  # a person may interrupt one who waits
                self._waiting -= 1
                self._changed.notify_all()

    def _enter(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._loader is None and not self._waiting)
            self._computing += 1

    def _leave(self) -> None:
        with self._changed:
            self._computing -= 1
            self._changed.notify_all()

    def _is_mine(self) -> bool:
        return self._loader == threading.get_ident()


LOADING = Turns()
"""Of this process: its threads share what is set."""
