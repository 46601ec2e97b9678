"""Ways to damage a job's folder, and to go on with the job. Not a test itself."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path

from engine import ConvolutionalDenoiser, tiny_worker

from cluster import api
from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.events import unheard
from cluster.jobs.job import Job

Damage = Callable[[Path], None]
BOTH = ("ome-zarr", "deep-zoom")


class StopsAfter(InProcess):
    """Interrupts the job, as a user would, when so many tasks are done."""

    left = 0

    def next(self, patience: float = inf) -> Outcome | None:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().next(patience)


def go_on(job: Job, *, stop_after: int = -1, thorough: bool = False) -> int:
    """Do what is left of a job, or so many tasks of it; patches that were evaluated."""
    denoiser = ConvolutionalDenoiser()
    executor = StopsAfter(tiny_worker(job, denoiser), 1)
    executor.left = stop_after
    try:
        api.run(job, resume=True, on_event=unheard, make=lambda work: executor, thorough=thorough)
    except Interrupted:
        assert stop_after >= 0
    return denoiser.evaluated


BLOCKS, TASKS = 12, 65
"""Of engine.tiny_job, with both outputs."""
WHILE_DENOISING, BEFORE_DECODING, WHILE_DECODING = 30, 5 * BLOCKS, 5 * BLOCKS + 2
"""Tasks after which a job is stopped."""


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flip(path: Path) -> None:
    """A bit in the middle, so the size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def one(folder: Path, pattern: str) -> Path:
    """The middle one of the paths of a pattern, which must be there."""
    found = sorted(folder.glob(pattern))
    assert found, f"nothing is called {pattern}"
    return found[len(found) // 2]


def verdict(folder: Path) -> tuple[bool, int, tuple[str, ...]]:
    found = api.verify(folder)
    return found.finished, found.read, found.damaged
