"""What an export is asked for, and how its output appears. Knows paths and wishes; knows no format's bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

OnProgress: TypeAlias = Callable[[int, int], None]
"""Told (done, total) as an export goes on, in units of its own: rows, tiles or frames."""


class ExportError(ValueError):
    """An export that cannot be; the message is one line with the value, the limit and what to change."""


@dataclass(frozen=True)
class Wishes:
    """How a picture is written. quality: 1 to 100 of lossy encoders; None is the format's own default.

    dpi: pixels an inch that the file claims. iiif_id: the address where a IIIF folder will be.
    """

    quality: int | None = None
    dpi: float = 300.0
    iiif_id: str | None = None

    def __post_init__(self) -> None:
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ExportError(f"quality {self.quality} is out of range: give 1 to 100; 90 is usual")
        if not 1 <= self.dpi <= 100_000:
            raise ExportError(f"dpi {self.dpi:g} is out of range: give 1 to 100000; 300 is usual for print")


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write a file or a folder to; it takes the place of `path` when all went well.

    Otherwise, Ctrl-C included, it is removed and whatever was at `path` stays.
    """
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        yield unfinished
        remove(path)
        unfinished.rename(path)
    finally:
        remove(unfinished)


def remove(path: Path) -> None:
    """Remove a file or a folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
