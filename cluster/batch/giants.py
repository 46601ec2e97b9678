"""Requests of more than one block: each a job of its own, by the block engine, in a folder of the batch's work.

The job writes its OME-Zarr master; the picture and its classes are read back from there into a part of its shard.
"""

from __future__ import annotations

import shutil
import time

import numpy as np

from cluster.batch.columns import missing_row
from cluster.batch.drawing import BatchWorker
from cluster.batch.names import FAILED, GIANTS
from cluster.batch.packing import Group
from cluster.batch.plan import Asked, Batch
from cluster.batch.shards import write_part
from cluster.batch.small import Picture
from cluster.events import unheard
from cluster.job import Job, prepare_described
from cluster.outputs import outputs_for
from cluster.plan import Task
from cluster.tasks import Outcome


def draw_giant(batch: Batch, task: Task, group: Group) -> Outcome:
    """Make the picture of a group's one request and write its part; goes on where an earlier run stopped.

    An error of the picture itself (numbers that are none) becomes the request's; others are raised.
    """
    from cluster import api

    began = time.perf_counter()
    (row,) = group.rows
    spec = row.spec(batch.spec)
    folder = batch.work / GIANTS / f"{row.index:08d}"
    asked = prepare_described(spec, batch.info, check_fit=False)
    alone = spec.model_copy(update={"out": folder, "outputs": ("ome-zarr",), "preview_every": 0})
    job = prepare_described(alone, batch.info, check_fit=True)
    worker = BatchWorker(batch)
    try:
        api.run(job, resume=True, on_event=unheard)
        values = worker.row_of(row, _picture(job), asked.fingerprint)
    except ArithmeticError as error:
        values = _failed(row, error)
    write_part(batch, *task, [values])
    shutil.rmtree(folder)
    return Outcome(task, time.perf_counter() - began, job.plan.evaluations, worker.name)


def _failed(row: Asked, error: Exception) -> dict[str, object]:
    return missing_row(row, FAILED, str(error))


def _picture(job: Job) -> Picture:
    """Of a finished job."""
    outputs = outputs_for(job)
    whole = job.plan.layout.whole(0).box
    labels = outputs.labels
    classes = None if labels is None else (labels.read_level(0, whole).astype(np.int16) - 1).astype(np.uint8)
    return Picture(outputs.master.read_level(0, whole), classes)
