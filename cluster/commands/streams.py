"""Standard output and error whose reader may leave, as `head` does. Knows streams; knows no command."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

GONE = (errno.EPIPE, errno.EIO)
"""The reader of a pipe has left; the terminal has closed."""
UNBOUNDED = 1_000_000
"""Columns."""


class Forgiving:
    """A stream that goes on in silence once nobody reads it. forgives_all: any error of writing, too."""

    def __init__(self, stream: TextIO, forgives_all: bool = False) -> None:
        self.gone = False
        self._stream = stream
        self._forgives_all = forgives_all

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._forgive(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._forgive(error)

    def _forgive(self, error: OSError) -> None:
        if error.errno in GONE:
            self.gone = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(
                nowhere, self._stream.fileno()
            )  # for what is still in the stream, and for what others write
            os.close(nowhere)
        elif not self._forgives_all:
            raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def forgiving_streams() -> Iterator[None]:
    """Standard output and error without their readers are no failure. What is said of progress never is one."""
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, Forgiving(sys.stdout))
    sys.stderr = cast(TextIO, Forgiving(sys.stderr, forgives_all=True))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError):  # closed by somebody else
                stream.flush()
        sys.stdout, sys.stderr = before


def console() -> Console:
    """For the standard output: as wide as the terminal. Where there is none, nothing is wrapped."""
    from rich.console import Console

    return Console(emoji=False, width=None if sys.stdout.isatty() else UNBOUNDED)


def is_read() -> bool:
    """Whether somebody may still read the standard output."""
    return not getattr(sys.stdout, "gone", False)
