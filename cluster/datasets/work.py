"""A batch as something that has tasks: what executors are given, and send to their workers."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.datasets.drawing import BatchWorker
from cluster.datasets.plan import Batch
from cluster.spec.fields import JobSpec


@dataclass(frozen=True)
class BatchWork:
    """The tasks of a batch. Satisfies Workload.

    tasks_in_flight: tasks of a large request; of others a worker does one after another.
    """

    batch: Batch
    tasks_in_flight: int = 2

    @property
    def spec(self) -> JobSpec:
        return self.batch.spec

    def worker(self) -> BatchWorker:
        return BatchWorker(self.batch)
