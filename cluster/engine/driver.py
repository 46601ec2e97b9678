"""The scheduling loop: ready tasks to the executor, outcomes to the ledger, what they release to the queue.

Moves no pixel, knows no mathematics.

Tasks are taken stage by stage, but nothing waits for a whole stage: a task is ready when those it depends on are
done. Arrays that no task will read again are deleted. Stopping at any point leaves a job that can be resumed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from cluster import stops
from cluster.engine.closing import Closing
from cluster.engine.executors.contract import Executor
from cluster.engine.outcomes import Outcome
from cluster.engine.queueing import Queue
from cluster.engine.recovery import DamagedInputs, missing, to_redo
from cluster.engine.supervision import Named, Supervisor
from cluster.following.events import (
    Event,
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    StageTotal,
    TaskDone,
)
from cluster.jobs.job import Job
from cluster.jobs.plan import Plan
from cluster.jobs.report import guessed_pace, task_seconds
from cluster.jobs.stages import Task
from cluster.patience import LIMITS, Limits
from cluster.rereading import Rereading
from storage.arrays import ArrayStore
from storage.damage import DamagedData
from storage.ledger import Ledger
from storage.task_set import TaskSet

log = logging.getLogger(__name__)

ATTEMPTS = 4
"""How often the output of one task may be found damaged."""


class Interrupted(Exception):
    """The user stopped the job; it can be resumed."""


def run(
    job: Job,
    executor: Executor,
    ledger: Ledger,
    on_event: Callable[[Event], None],
    limits: Limits = LIMITS,
) -> None:
    """Do every task of a job that its ledger does not have, close its outputs, and check that all of them are whole.

    What is found missing or damaged is made again. For a process that has claimed the job's folder. Raises
    Interrupted, or what a task raised.
    """
    began = time.perf_counter()
    try:
        Run(job, executor, ledger, on_event, limits).to_the_end()
    except KeyboardInterrupt:
        on_event(JobInterrupted())
        raise Interrupted from None
    except Exception as error:
        if stops.is_heard():  # a library has made another error of it
            on_event(JobInterrupted())
            raise Interrupted from error
        on_event(JobFailed(f"{type(error).__name__}: {error}"))
        raise
    on_event(JobFinished(time.perf_counter() - began))


class Run:
    """One run of a job."""

    def __init__(
        self,
        job: Job,
        executor: Executor,
        ledger: Ledger,
        on_event: Callable[[Event], None],
        limits: Limits,
    ) -> None:
        self.job = job
        self.plan = job.plan
        self.executor = executor
        self.ledger = ledger
        self.on_event = on_event
        self.supervisor = Supervisor(executor, JobTasks(job), on_event, limits)
        self.closing = Closing(job, ledger, Rereading(limits))
        self.outputs = self.closing.outputs
        self._damaged: Counter[Task] = Counter()
        self._again = 0

    def to_the_end(self) -> None:
        """Tasks, then the check of what they wrote, until nothing is left to be made again."""
        self.closing.begin()
        self._make_again(missing(self.plan, self.ledger.done, self.outputs.serves))
        with closing(Arrays(self.job, self.ledger)) as arrays:
            while True:
                arrays.mend()
                self.on_event(_started(self.plan, self.ledger.done, self.executor.workers))
                self._do_tasks(arrays)
                redo = self._make_again(self.closing.damaged())
                if not redo:
                    break
                arrays.undo(redo)
        self.closing.end(self.ledger)
        if self._again:
            log.warning("%s", _was_done_again(self._again))

    def _do_tasks(self, arrays: Arrays) -> None:
        queue = Queue(self.plan, self.ledger.done)
        for outcome in self.supervisor.outcomes(queue, prepare=arrays.need, meanwhile=arrays.tidy):
            if isinstance(outcome.error, DamagedInputs):
                redo = self._make_again(outcome.error.tasks, found_by=outcome)
                arrays.undo(redo)
                self.closing.begin()
                arrays.mend()
                queue.renew(self.supervisor.under_way)
                if redo:
                    self.on_event(_started(self.plan, self.ledger.done, self.executor.workers))
            elif outcome.error is not None:
                raise self.supervisor.failure(outcome)
            else:
                self.ledger.record(*outcome.task, outcome.written)
                queue.release_after(outcome.task)
                arrays.done(outcome.task)
                self.on_event(_done(self.plan, outcome))
        arrays.tidy()

    def _make_again(self, damaged: Iterable[Task], found_by: Outcome | None = None) -> set[Task]:
        """Forget these tasks, and before them those whose output is gone; says so in a line. Returns all of them."""
        told = tuple(damaged)
        damaged = [task for task in told if task in self.ledger.done]  # the others are being made already
        for task in damaged if told or found_by is None else [found_by.task]:
            self._count_damage(task, found_by)
        redo = to_redo(self.plan, self.ledger.done, damaged, self.outputs.serves)
        if redo:
            self.ledger.forget(sorted(redo))
            self._again += len(redo)
            log.warning("%s", _to_be_done_again(self.plan, redo))
        return redo

    def _count_damage(self, task: Task, found_by: Outcome | None) -> None:
        """Raises DamagedData where a task's output, or what it reads, is damaged again and again."""
        self._damaged[task] += 1
        if self._damaged[task] >= ATTEMPTS:
            how = f" ({found_by.error})" if found_by else ""
            raise DamagedData(
                f"{self.outputs.name(task)} was found damaged {ATTEMPTS} times{how}; is the disk in order?"
            )


def _to_be_done_again(plan: Plan, redo: set[Task]) -> str:
    """In a line, how much is made again, and from where."""
    first = plan.stages[min(stage for stage, _ in redo)].name
    total = sum(stage.tasks for stage in plan.stages)
    return f"stored data is missing or damaged: {len(redo)} of {total} tasks are to be done again, from {first} on"


def _was_done_again(tasks: int) -> str:
    return f"{tasks} task{'s were' if tasks > 1 else ' was'} done again; all that was missing or damaged is whole"


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

    Both at leisure, while workers work: those of the next stage are there before it begins, and a thread of its own
    removes files. Arrays whose removal has begun have no name by which anyone could read them.
    """

    def __init__(self, job: Job, ledger: Ledger) -> None:
        self.plan = job.plan
        self._store = ArrayStore(job.spec.out)
        self._ledger = ledger
        self._created: set[int] = set()
        self._wanted: set[int] = set()
        self._left = [stage.tasks - ledger.done.count(index) for index, stage in enumerate(self.plan.stages)]
        self._over = [stage for stage, left in enumerate(self._left) if left == 0]
        self._remover = ThreadPoolExecutor(1)

    def need(self, task: Task) -> None:
        self._create(task[0])
        self._wanted |= self.plan.graph.after(task[0])

    def done(self, task: Task) -> None:
        stage = task[0]
        self._left[stage] -= 1
        if self._left[stage] == 0:
            self._over.append(stage)

    def undo(self, tasks: Iterable[Task]) -> None:
        """These are to be done again: their arrays are needed, and those that they read."""
        for stage, _ in tasks:
            self._left[stage] += 1
            self._created.discard(stage)
            if stage in self._over:
                self._over.remove(stage)

    def mend(self) -> None:
        """Write damaged metadata anew, of all arrays that are there or should be: they hold something to be read."""
        self._created.clear()
        for index, stage in enumerate(self.plan.stages):
            begun = self._left[index] < stage.tasks
            to_be_read = any(self._left[reader] for reader in self.plan.graph.after(index))
            if begun and (to_be_read or index in self.plan.kept_stages):
                self._create(index)

    def tidy(self) -> None:
        """What need not be done before the workers go on."""
        for stage in self._wanted:
            self._create(stage)
        names = [name for stage in self._over for name in self.plan.arrays_freed_by(stage)]
        self._wanted, self._over = set(), []
        if names:
            self._ledger.sync()
        for name in names:
            self._remover.submit(self._store.set_aside(name))

    def close(self) -> None:
        """Wait for what is being removed."""
        self._remover.shutdown()

    def _create(self, stage: int) -> None:
        if stage not in self._created:
            for array in self.plan.arrays_of(stage):
                self._store.create(array)
            self._created.add(stage)


def _started(plan: Plan, done: TaskSet, workers: int) -> JobStarted:
    totals = (
        StageTotal(stage.name, stage.tasks, done.count(index)) for index, stage in enumerate(plan.stages)
    )
    return JobStarted(tuple(totals), workers)


def _done(plan: Plan, outcome: Outcome) -> TaskDone:
    stage, block = outcome.task
    name = plan.stages[stage].name
    return TaskDone(stage, name, block, outcome.seconds, outcome.evaluations, outcome.worker, outcome.seats)
