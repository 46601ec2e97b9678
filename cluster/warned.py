"""What a job's plan has to say to people, in their log; nothing in a thread that asked for silence. Knows no job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOG = logging.getLogger("cluster.job")
SILENT: ContextVar[bool] = ContextVar("silent", default=False)
"""Of a thread, and not the logger's level, which is every thread's."""


def warn(message: str, *values: object) -> None:
    """One line, in logging's format, unless this thread is silent."""
    if not SILENT.get():
        LOG.warning(message, *values)


@contextmanager
def unwarned() -> Iterator[None]:
    """Of a single picture one is told that its class map is stretched; of thousands one is not."""
    before = SILENT.set(True)
    try:
        yield
    finally:
        SILENT.reset(before)
