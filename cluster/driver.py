"""The scheduling loop: ready tasks to the executor, outcomes to the ledger, what they release to the queue.

Moves no pixel, knows no mathematics.

Tasks are taken stage by stage, but nothing waits for a whole stage: a task is ready when those it depends on are
done. Arrays that no task will read again are deleted. Stopping at any point leaves a job that can be resumed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cluster.events import (
    Event,
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    StageTotal,
    TaskDone,
)
from cluster.executors.contract import Executor
from cluster.job import Job
from cluster.outputs import outputs_for
from cluster.patience import LIMITS, Limits
from cluster.plan import WORK, Plan, Task
from cluster.queueing import Queue
from cluster.report import guessed_pace, task_seconds
from cluster.supervision import Named, Supervisor
from cluster.tasks import Outcome
from storage.arrays import ArrayStore
from storage.formats.contract import MissingPixels
from storage.ledger import Ledger

log = logging.getLogger(__name__)

LEDGER = "ledger.jsonl"


class Interrupted(Exception):
    """The user stopped the job; it can be resumed."""


def run(job: Job, executor: Executor, on_event: Callable[[Event], None], limits: Limits = LIMITS) -> None:
    """Do every task of a job that its ledger does not have. Raises Interrupted, or what a task raised."""
    began = time.perf_counter()
    outputs = outputs_for(job)
    outputs.create()
    try:
        with Ledger(Path(job.spec.out) / LEDGER, job.fingerprint) as ledger:
            on_event(_started(job.plan, ledger.done, executor.workers))
            _loop(job, executor, ledger, on_event, limits)
            try:
                outputs.finish()
            except MissingPixels as missing:  # done by an earlier run, and lost since
                log.warning("%s; the pixels are drawn again from the latents", missing)
                ledger.forget(job.plan.decode_stage)
                on_event(_started(job.plan, ledger.done, executor.workers))
                _loop(job, executor, ledger, on_event, limits)
                outputs.finish()
        ArrayStore(job.spec.out).delete(WORK)
    except KeyboardInterrupt:
        on_event(JobInterrupted())
        raise Interrupted from None
    except Exception as error:
        on_event(JobFailed(f"{type(error).__name__}: {error}"))
        raise
    on_event(JobFinished(time.perf_counter() - began))


def _loop(
    job: Job,
    executor: Executor,
    ledger: Ledger,
    on_event: Callable[[Event], None],
    limits: Limits,
) -> None:
    arrays = Arrays(job, ledger)
    queue = Queue(job.plan, ledger.done)
    supervisor = Supervisor(executor, JobTasks(job), on_event, limits)
    for outcome in supervisor.outcomes(queue, prepare=arrays.need, meanwhile=arrays.tidy):
        if outcome.error is not None:
            raise supervisor.failure(outcome)
        ledger.record(*outcome.task)
        queue.release_after(outcome.task)
        arrays.done(outcome.task)
        on_event(_done(job.plan, outcome))
    arrays.tidy()


class JobTasks:
    """What the tasks of a job are called, and how long they should take."""

    def __init__(self, job: Job) -> None:
        self._plan = job.plan
        self._pace = guessed_pace(job)

    def named(self, task: Task) -> Named:
        stage, block = task
        name = self._plan.stages[stage].name
        return Named(stage, name, block, f"{name}, block {block}")

    def expected_seconds(self, task: Task) -> float:
        return task_seconds(self._plan, self._pace, task)


class Arrays:
    """Creates a stage's arrays before its first task, deletes them after the last task that reads them.

    Both at leisure, while workers work: those of the next stage are there before it begins.
    """

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self.plan = job.plan
        self._store = ArrayStore(job.spec.out)
        self._ledger = ledger
        self._created: set[int] = set()
        self._wanted: set[int] = set()
        self._left = [stage.tasks for stage in self.plan.stages]
        for stage, _ in ledger.done:
            self._left[stage] -= 1
        self._over = [stage for stage, left in enumerate(self._left) if left == 0]

    def need(self, task: Task) -> None:
        stage = task[0]
        self._create(stage)
        if stage + 1 < len(self.plan.stages):
            self._wanted.add(stage + 1)

    def done(self, task: Task) -> None:
        stage = task[0]
        self._left[stage] -= 1
        if self._left[stage] == 0:
            self._over.append(stage)

    def tidy(self) -> None:
        """What need not be done before the workers go on."""
        for stage in self._wanted:
            self._create(stage)
        names = [name for stage in self._over for name in self.plan.arrays_freed_by(stage)]
        self._wanted, self._over = set(), []
        if names:
            self._ledger.sync()
        for name in names:
            self._store.delete(name)

    def _create(self, stage: int) -> None:
        if stage not in self._created:
            for array in self.plan.arrays_of(stage):
                self._store.create(array)
            self._created.add(stage)


def _started(plan: Plan, done: set[Task], workers: int) -> JobStarted:
    finished = Counter(stage for stage, _ in done)
    totals = (StageTotal(stage.name, stage.tasks, finished[index]) for index, stage in enumerate(plan.stages))
    return JobStarted(tuple(totals), workers)


def _done(plan: Plan, outcome: Outcome) -> TaskDone:
    stage, block = outcome.task
    name = plan.stages[stage].name
    return TaskDone(stage, name, block, outcome.seconds, outcome.evaluations, outcome.worker)
