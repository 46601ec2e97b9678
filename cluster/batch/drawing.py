"""What a worker does for a batch: draw one group of requests, or put one shard together. Reads the plan, writes a file.

A task is (shard, group), and (shard, ASSEMBLE) once all groups of a shard have their parts.
"""

from __future__ import annotations

import os
import socket
import time
from functools import cached_property
from typing import Any

from PIL import Image

from cluster.batch.columns import drawn_row, missing_row
from cluster.batch.filters import FilterError, Judge, Verdict, judged, load_filter
from cluster.batch.names import FAILED, FILTERED
from cluster.batch.packing import Group, groups_of
from cluster.batch.plan import Asked, Batch
from cluster.batch.shards import assemble, write_part
from cluster.batch.small import Picture, SmallPictures
from cluster.job import Job, prepare_described
from cluster.machine import give_back_memory
from cluster.plan import Task
from cluster.tasks import Outcome

ASSEMBLE = -1


class BatchWorker:
    """A batch in one process; its model is loaded with the first group. Satisfies Runs."""

    def __init__(self, batch: Batch, small: SmallPictures | None = None) -> None:
        self.batch = batch
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._small = small
        self._shard: tuple[int, list[Group]] = (-1, [])

    def run(self, task: Task) -> Outcome:
        """Do one task; its file is durable when this returns. Raises what is not the fault of a single request."""
        began = time.perf_counter()
        shard, number = task
        groups = self._groups(shard)
        evaluations = 0
        if number == ASSEMBLE:
            assemble(self.batch, shard, len(groups))
            give_back_memory()
        else:
            evaluations = self._draw(shard, number, groups[number])
        return Outcome(task, time.perf_counter() - began, evaluations, self.name)

    def _groups(self, shard: int) -> list[Group]:
        """Of the shard at work; its requests are read once."""
        if self._shard[0] != shard:
            self._shard = (shard, groups_of(self.batch.shard(shard), self.batch.budget))
        return self._shard[1]

    def _draw(self, shard: int, number: int, group: Group) -> int:
        jobs: list[Job] = []
        asked: list[Asked] = []
        rows: dict[int, dict[str, Any]] = {}
        for row in group.rows:
            try:
                jobs.append(prepare_described(row.spec(self.batch.spec), self.batch.info, check_fit=False))
                asked.append(row)
            except ValueError as error:
                rows[row.index] = missing_row(row, FAILED, str(error))
        evaluations = 0
        if jobs:
            self._small = self._small or SmallPictures(jobs[0])
            pictures, spent = self._small.draw(jobs)
            evaluations = spent.evaluations
            for row, job, picture in zip(asked, jobs, pictures, strict=True):
                rows[row.index] = self.row_of(row, picture, job.fingerprint)
        write_part(self.batch, shard, number, [rows[row.index] for row in group.rows])
        return evaluations

    def row_of(self, row: Asked, picture: Picture | Exception, fingerprint: str) -> dict[str, Any]:
        """What becomes of a drawn request: a row of the table, or one that says why there is none."""
        if isinstance(picture, Exception):
            return missing_row(row, FAILED, str(picture))
        try:
            verdict = self._judge(Image.fromarray(picture.pixels))
        except FilterError as error:
            return missing_row(row, FAILED, str(error))
        if not verdict.keep:
            return missing_row(row, FILTERED, f"filter {self.batch.filter} returned False")
        return drawn_row(self.batch, row, picture, fingerprint, verdict.score if self.batch.filter else None)

    def _judge(self, image: Image.Image) -> Verdict:
        if self.batch.filter is None:
            return Verdict(True, 1.0)
        return judged(self._filter, self.batch.filter, image)

    @cached_property
    def _filter(self) -> Judge:
        assert self.batch.filter is not None
        return load_filter(self.batch.filter, self.batch.filter_folder)
