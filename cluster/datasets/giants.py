"""Requests of more than one block: each a job, by the block engine, in a folder of the batch's work.

Its tasks go to the workers that draw the small requests, too. The job writes its OME-Zarr master; the picture and its
classes are read back from there into a part of its shard.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from cluster.datasets.columns import missing_row
from cluster.datasets.faults import is_of_rows, told
from cluster.datasets.names import FAILED, GIANTS
from cluster.datasets.packing import RequestGroup
from cluster.datasets.plan import Batch, CheckedRequest
from cluster.datasets.shards import write_part
from cluster.datasets.small import SmallPicture, legend_of_job
from cluster.datasets.tasks import GiantTask
from cluster.engine.executors.contract import Executor, Look, TaskRunner, Workload
from cluster.engine.outcomes import Outcome
from cluster.engine.outputs import outputs_for
from cluster.engine.running import run
from cluster.engine.supervision import Hung, TaskFailed
from cluster.engine.tasks import Worker
from cluster.engine.watching import watching
from cluster.engine.work import JobWork
from cluster.following.events import OnEvent, waits_alone
from cluster.jobs.fitting import check_fits
from cluster.jobs.job import Job, prepare_described
from cluster.jobs.stages import Task
from cluster.patience import LIMITS, Limits
from cluster.spec import job_file
from cluster.spec.fields import SpecError
from cluster.spec.identity import check_inputs
from generation.models.contracts import Model
from storage.damage import DamagedData
from storage.fingerprint import FormatError

RowOf = Callable[[CheckedRequest, SmallPicture | Exception, str], dict[str, Any]]
"""What becomes of a drawn request, from its picture and its fingerprint."""


def draw_giant(
    batch: Batch, task: Task, group: RequestGroup, executor: Executor, row_of: RowOf, on_event: OnEvent
) -> Outcome:
    """Make the picture of a group's one request and write its part; goes on where an earlier run stopped.

    An error of the picture itself (numbers that are none, a class map that went away) becomes the request's. Others are
    raised: TaskFailed where its workers died each time. Nothing else may be under way. on_event: told of long waits.
    """
    began = time.perf_counter()
    (row,) = group.rows
    tasks = GiantTasks(executor, task)
    evaluations = seats = 0
    try:
        asked = row.job(batch)
    except ValueError as error:
        values = _failed(row, error)
    else:
        job = asked_job(batch, row)
        check_fits(job.plan, job.spec)
        evaluations, seats = job.plan.spent.conditional, job.plan.spent.seats
        try:
            values = row_of(row, _drawn(job, on_event, tasks), asked.fingerprint)
        except (SpecError, FormatError):  # of its folder, or of a file that all requests read
            raise
        except Exception as error:
            if not is_of_rows(error):
                raise
            tasks.drain()
            if isinstance(error, TaskFailed):
                raise
            values = _failed(row, error)
    _write(batch, task, row, values)
    return Outcome(task, time.perf_counter() - began, evaluations, seats, tasks.worker)


def _drawn(job: Job, on_event: OnEvent, tasks: GiantTasks) -> SmallPicture:
    """The picture of a request's job, once that is finished. What rots before it is read is made again, once."""
    run(job, resume=True, on_event=waits_alone(on_event), make=tasks.of)
    try:
        return _picture(job)
    except DamagedData:
        run(job, resume=True, on_event=waits_alone(on_event), make=tasks.of, thorough=True)
        return _picture(job)


def give_up(batch: Batch, task: Task, group: RequestGroup, error: Exception) -> Outcome:
    """The request fails for good."""
    (row,) = group.rows
    _write(batch, task, row, _failed(row, error))
    return Outcome(task)


def _write(batch: Batch, task: Task, row: CheckedRequest, values: dict[str, Any]) -> None:
    write_part(batch, *task, [values])
    shutil.rmtree(_folder(batch, row), ignore_errors=True)


def asked_job(batch: Batch, row: CheckedRequest) -> Job:
    """The job of a request, in a folder of its own. Raises SpecError where it cannot be."""
    return row.job(batch, out=_folder(batch, row), outputs=("ome-zarr",), preview_every=0)


def giant_job(batch: Batch, row: CheckedRequest) -> Job:
    """The job of a request as its folder tells it, once it has begun: it reads copies that lie there."""
    saved = job_file.load(_folder(batch, row)).spec
    spec = saved.model_copy(update={"allow_pickle": batch.spec.allow_pickle})
    job = prepare_described(spec, batch.info, check_fit=False, map_info=batch.map_info)
    check_inputs(job.spec, {**batch.inputs, "classes": row.classes_hash or ""})
    return job


def giant_worker(job: Job, model: Model) -> TaskRunner:
    """Runs the tasks of a request's job, or of its map's, with a model that is loaded already."""
    from cluster.engine.worker import build_sampler, labels_of

    classes = labels_of(job)
    worker = Worker(job, build_sampler(job, model, classes), model.codec, outputs_for(job), classes)
    return watching(worker, job)


@dataclass
class GiantTasks:
    """The tasks of one request's jobs on the executor of the batch, as an executor. giant: (shard, group)."""

    executor: Executor
    giant: Task
    limits: Limits = LIMITS
    of_map: bool = False
    worker: str = ""
    under_way: set[Task] = field(default_factory=set)

    def of(self, work: Workload) -> GiantTasks:
        """The executor of the request's job, or of its map's, which has no map."""
        self.of_map = isinstance(work, JobWork) and work.spec.out.parent.name != GIANTS
        return self

    @property
    def workers(self) -> int:
        return self.executor.workers

    def capacity(self, ready: int) -> int:
        return self.executor.capacity(ready)

    def submit(self, task: Task) -> None:
        self.executor.submit(GiantTask.of(task, self.giant, self.of_map))
        self.under_way.add(task)

    def next(self, patience: float = inf) -> Outcome | None:
        outcome = self.executor.next(patience)
        if outcome is None:
            return None
        stage, block = outcome.task
        self.under_way.discard((stage, block))
        self.worker = outcome.worker or self.worker
        return replace(outcome, task=(stage, block))

    def look(self) -> Look:
        return self.executor.look()

    def give_up(self, task: Task, why: Exception) -> None:
        self.executor.give_up(task, why)

    def drain(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Wait for what is under way, whatever becomes of it; workers that take too long are ended."""
        until = clock() + self.limits.least_seconds
        while self.under_way:
            if self.next(self.limits.look_seconds) is None and clock() > until:
                stuck = next(iter(self.look().running))
                self.give_up(stuck, Hung("no answer after another task failed"))

    def close(self) -> None:
        """The workers go on with what the batch has for them."""


def _folder(batch: Batch, row: CheckedRequest) -> Path:
    return batch.work / GIANTS / f"{row.index:08d}"


def _failed(row: CheckedRequest, error: Exception) -> dict[str, Any]:
    return missing_row(row, FAILED, told(error))


def _picture(job: Job) -> SmallPicture:
    """The picture of a finished job, and its classes."""
    outputs = outputs_for(job)
    whole = job.plan.layout.whole(0).box
    labels = outputs.labels
    classes = None if labels is None else (labels.read_level(0, whole).astype(np.int16) - 1).astype(np.uint8)
    return SmallPicture(outputs.master.read_level(0, whole), classes, legend_of_job(job))
