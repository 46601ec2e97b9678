"""What a worker does for a batch: the tasks of tasks.py. Reads the plan, writes files, keeps its model."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from PIL import Image

from cluster.datasets.columns import drawn_row, missing_row
from cluster.datasets.faults import is_of_rows, told
from cluster.datasets.filters import FilterError, FilterVerdict, Judge, judged, load_filter
from cluster.datasets.giants import giant_job, giant_worker
from cluster.datasets.names import FAILED, FILTERED
from cluster.datasets.packing import RequestGroup, groups_of
from cluster.datasets.plan import Batch, CheckedRequest
from cluster.datasets.shards import assemble, write_part, write_row
from cluster.datasets.small import SmallPicture, SmallPictures
from cluster.datasets.tasks import ASSEMBLE, GiantTask, RowTask
from cluster.engine.executors.contract import TaskRunner
from cluster.engine.outcomes import Outcome, StartedTask
from cluster.jobs.job import Job
from cluster.jobs.stages import Task
from cluster.machine import give_back_memory
from cluster.spec.fields import SpecError
from cluster.spec.identity import check_inputs
from generation.sampling.packing import Spent
from storage.fingerprint import FormatError


class BatchWorker:
    """A batch in one process, whose model is loaded with the first task, small or large. Satisfies TaskRunner.

    Threads may run two tasks of a large request at once, as of any job; all other tasks go one by one.
    """

    def __init__(self, batch: Batch, small: SmallPictures | None = None) -> None:
        self.batch = batch
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._small = small
        self._shard: tuple[int, list[RequestGroup]] = (-1, [])
        self._giant: tuple[tuple[Task, bool], TaskRunner] | None = None
        self._alone = threading.Lock()

    def begin(self, task: Task) -> StartedTask:
        """Do one task; only those of large requests leave something to wait for.

        Raises what is not the fault of a single request.
        """
        if isinstance(task, GiantTask):
            return self._giant_worker(task).begin(task)
        with self._alone:
            self._giant = None
            return self._run(task)

    def _run(self, task: Task) -> Outcome:
        began = time.perf_counter()
        self._check_settings()
        shard, number = task
        groups = self._groups(shard)
        spent = Spent()
        if number == ASSEMBLE:
            assemble(self.batch, shard, len(groups))
            give_back_memory()
        elif isinstance(task, RowTask):
            row = groups[number].rows[task.place]
            rows, spent = self._draw([row])
            write_row(self.batch, task, task.place, rows[row.index])
        else:
            group = groups[number]
            rows, spent = self._draw(group.rows)
            write_part(self.batch, shard, number, [rows[row.index] for row in group.rows])
        seconds = time.perf_counter() - began
        return Outcome(task, seconds, spent.evaluations, spent.seats, self.name)

    def _check_settings(self) -> None:
        """Raises FormatError where a file that the settings name is not what it was: that is no request's fault."""
        try:
            check_inputs(self.batch.spec, self.batch.inputs)
        except SpecError as error:
            raise FormatError(str(error)) from None

    def _groups(self, shard: int) -> list[RequestGroup]:
        """The groups of the shard at work; its requests are read once."""
        if self._shard[0] != shard:
            self._shard = (shard, groups_of(self.batch.shard(shard), self.batch.budget))
        return self._shard[1]

    def _giant_worker(self, task: GiantTask) -> TaskRunner:
        """The worker of the large request at work."""
        with self._alone:
            key = (task.giant, task.of_map)
            if self._giant is None or self._giant[0] != key:
                self._giant = None
                shard, number = task.giant
                (row,) = self._groups(shard)[number].rows
                job = giant_job(self.batch, row)
                job = job.map if task.of_map and job.map is not None else job
                self._small = self._small or SmallPictures(job)
                self._giant = (key, giant_worker(job, self._small.model_of(job)))
            return self._giant[1]

    # --- small requests

    def _draw(self, rows: Sequence[CheckedRequest]) -> tuple[dict[int, dict[str, Any]], Spent]:
        """What became of each request, by its index, and what all of them took."""
        jobs: list[Job] = []
        asked: list[CheckedRequest] = []
        found: dict[int, dict[str, Any]] = {}
        for row in rows:
            try:
                jobs.append(row.job(self.batch))
                asked.append(row)
            except ValueError as error:
                found[row.index] = missing_row(row, FAILED, str(error))
        pictures, spent = self._pictures(jobs) if jobs else ([], Spent())
        for row, job, picture in zip(asked, jobs, pictures, strict=True):
            found[row.index] = self.row_of(row, picture, job.fingerprint)
        return found, spent

    def _pictures(self, jobs: Sequence[Job]) -> tuple[list[SmallPicture | Exception], Spent]:
        """Drawn together; where that fails as a whole, one by one, so that only those fail that fail alone."""
        self._small = self._small or SmallPictures(jobs[0])
        try:
            return self._small.draw(jobs)
        except Exception as error:
            if not is_of_rows(error):
                raise
            if len(jobs) == 1:
                return [error], Spent()
        alone = [self._pictures([job]) for job in jobs]
        return [pictures[0] for pictures, _ in alone], sum((spent for _, spent in alone), Spent())

    def row_of(
        self, row: CheckedRequest, picture: SmallPicture | Exception, fingerprint: str
    ) -> dict[str, Any]:
        """What becomes of a drawn request: a row of the table, or one that says why there is none."""
        if isinstance(picture, Exception):
            return missing_row(row, FAILED, told(picture))
        try:
            verdict = self._judge(Image.fromarray(picture.pixels))
        except FilterError as error:
            return missing_row(row, FAILED, str(error))
        if not verdict.keep:
            return missing_row(row, FILTERED, f"filter {self.batch.filter} returned False")
        return drawn_row(row, picture, fingerprint, verdict.score if self.batch.filter else None)

    def _judge(self, image: Image.Image) -> FilterVerdict:
        if self.batch.filter is None:
            return FilterVerdict(True, 1.0)
        return judged(self._filter, self.batch.filter, image)

    @cached_property
    def _filter(self) -> Judge:
        assert self.batch.filter is not None
        return self.batch.judge or load_filter(self.batch.filter, self.batch.filter_folder)
