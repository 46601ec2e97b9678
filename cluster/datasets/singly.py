"""A group whose worker dies each time, drawn a request at a time, alone, until the one that it dies of is found."""

from __future__ import annotations

import time

from cluster.datasets.columns import missing_row
from cluster.datasets.names import FAILED
from cluster.datasets.packing import groups_of
from cluster.datasets.plan import Batch
from cluster.datasets.shards import join_rows, write_row
from cluster.datasets.tasks import RowTask
from cluster.engine.outcomes import Outcome
from cluster.engine.queueing import Line
from cluster.engine.supervision import Supervisor, TaskFailed
from cluster.jobs.stages import Task

TRIES = 2
"""Of a request with nothing else under way, so that no other can be what its worker dies of."""


def draw_singly(batch: Batch, supervisor: Supervisor, task: Task, can_draw: bool) -> Outcome:
    """Write the group's part; requests that their worker dies of fail. Nothing else may be under way.

    supervisor: of TRIES attempts. can_draw: whether workers have drawn anything. Raises TaskFailed where they have not
    and cannot: no request is to blame for that.
    """
    began = time.perf_counter()
    shard, number = task
    group = groups_of(batch.shard(shard), batch.budget)[number]
    evaluations, seats, worker = 0, 0, ""
    for place, row in enumerate(group.rows):
        outcome = _drawn(supervisor, RowTask.of(task, place))
        evaluations, seats = evaluations + outcome.evaluations, seats + outcome.seats
        worker = outcome.worker or worker
        if outcome.error is not None:
            error = f"the worker died {TRIES} times of this request alone; is there enough memory?"
            write_row(batch, task, place, missing_row(row, FAILED, error))
        can_draw = can_draw or outcome.error is None
    if not can_draw:
        raise TaskFailed(
            f"the worker died of every request, last {len(group.rows)} alone; is there enough memory?"
        )
    join_rows(batch, task, len(group.rows))
    return Outcome(task, time.perf_counter() - began, evaluations, seats, worker)


def _drawn(supervisor: Supervisor, task: RowTask) -> Outcome:
    """The outcome of the last try: done, or lost."""
    (outcome,) = supervisor.outcomes(Line([task]))
    if outcome.error is not None and not outcome.lost:
        raise outcome.error
    return outcome
