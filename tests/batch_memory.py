"""Prints how many bytes more of memory many requests take at once than few do. Run by a test, not one itself.

python tests/batch_memory.py MODEL FOLDER FEW MANY: both are checked, planned, drawn with a stub, put together and told.
"""

from __future__ import annotations

import sys
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from batches import settings

from cluster.datasets import run as running
from cluster.datasets.checking import planned
from cluster.datasets.drawing import BatchWorker
from cluster.datasets.extras import Extras
from cluster.datasets.plan import Sizes, enter
from cluster.datasets.requests import Numbered, Table
from cluster.datasets.small import SmallPicture, SmallPictures
from cluster.engine.executors.in_process import InProcess
from cluster.following.events import unheard
from cluster.jobs.job import Job
from cluster.spec.fields import JobSpec
from generation.models.loading import describe
from generation.sampling.packing import Spent

SIDE = 8
SHARD_BYTES = 10**6
"""Of some 230 requests: what is held of one shard is the same for few requests and for many."""


class Stub(SmallPictures):
    """Pictures of one colour."""

    def __init__(self) -> None: ...

    def draw(self, jobs: Sequence[Job]) -> tuple[list[SmallPicture | Exception], Spent]:
        pixels, ids = np.zeros((SIDE, SIDE, 3), np.uint8), np.zeros((SIDE, SIDE), np.uint8)
        return [SmallPicture(pixels, ids) for _ in jobs], Spent(len(jobs), 1)


def make(model: Path, out: Path, requests: int) -> None:
    spec = JobSpec(**settings(model, prompt="sea", width=SIDE, height=SIDE, out=out))
    (out / "work").mkdir(parents=True)
    table = Table("requests", Numbered(requests))
    given = {"prompt", "seed", "width", "height"}
    batch = planned(spec, describe(str(model)), table, given, None, Sizes(shard_bytes=SHARD_BYTES))
    enter(batch, resume=False)
    running.run(batch, Extras(), unheard, lambda work: InProcess(BatchWorker(work.batch, Stub())))


def peak_bytes(model: Path, out: Path, requests: int) -> int:
    """The most that Python's objects and arrays take at once; what allocators keep for later is not among it."""
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    make(model, out, requests)
    return tracemalloc.get_traced_memory()[1] - before


if __name__ == "__main__":
    model, folder, few, many = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    make(model, folder / "warm", few)
    tracemalloc.start()
    print(peak_bytes(model, folder / "many", many) - peak_bytes(model, folder / "few", few))
