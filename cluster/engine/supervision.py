"""The loop that every run shares: tasks out, outcomes in, and whatever goes wrong in between. Knows no ledger, no plan.

    queue --> executor --> outcome  done, or an error that stays                        --> whoever runs the loop
                 ^   |              its worker was lost: died, or gave no answer in time --+
                 |   |              an error that passes by itself: after a pause ---------+
                 +---|---------------------------------------------------------------------+
                     +------------> nothing for long: people are told what is waited for

An outcome counts while its task is given out: the second of a task that two workers did, or one that comes late, is
nobody's any more. A task is always in one place alone: queued, waiting for its pause to end, or given out.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from cluster import stops
from cluster.engine.executors.contract import Executor, Look
from cluster.engine.outcomes import Outcome
from cluster.following.events import OnEvent, TaskRetried, Waiting, WorkersUp, group_of
from cluster.jobs.stages import Task
from cluster.patience import LIMITS, Deadlines, Limits, passes
from generation.models.errors import first_line

NAMED = 3
"""Workers that a sentence names."""


class TaskFailed(RuntimeError):
    """A task kept losing its worker."""


class Hung(Exception):
    """A worker gave no answer in time."""


@dataclass(frozen=True)
class Named:
    """What people call a task: stage and block as events have them, and both in words."""

    stage: int
    stage_name: str
    block: int
    place: str

    @property
    def kind(self) -> str:
        return group_of(self.stage_name)


class Tasks(Protocol):
    """What the tasks of a job or a batch are."""

    def named(self, task: Task) -> Named:
        """What people call a task."""

    def expected_seconds(self, task: Task) -> float:
        """How long it should take; 0.0 where nobody knows."""


class Supply(Protocol):
    """Tasks that are ready."""

    def __len__(self) -> int: ...

    def pop(self) -> Task | None:
        """The next to give out; None where that need not be done any more."""

    def push(self, task: Task) -> None:
        """One to be given out again."""


def nothing(task: Task | None = None) -> None:
    """What is done where there is nothing to do."""
    del task


class Supervisor:
    """Has an executor do tasks, and sees to it that each ends, once.

    clock: seconds; time passes for it while executor.next() waits.
    """

    def __init__(
        self,
        executor: Executor,
        tasks: Tasks,
        on_event: OnEvent,
        limits: Limits = LIMITS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._executor = executor
        self._tasks = tasks
        self._on_event = on_event
        self._limits = limits
        self._clock = clock
        self._deadlines = Deadlines(limits)
        self._given: dict[Task, float] = {}
        self._paused: list[tuple[float, Task]] = []
        self._losses: Counter[Task] = Counter()
        self._errors: Counter[Task] = Counter()
        self._news = self._looked = clock()
        self._said = False
        self._up = executor.workers

    def outcomes(
        self,
        queue: Supply,
        prepare: Callable[[Task], None] = nothing,
        meanwhile: Callable[[], None] = nothing,
    ) -> Iterator[Outcome]:
        """One outcome of every task of the queue, and of those that are put into it meanwhile.

        prepare: called with each task before it is given out; meanwhile: between giving out and waiting. An outcome
        with an error is lost for the last time, or not to be tried again: raise `failure` of it, or mend it.
        """
        self._hear()
        while queue or self._given or self._paused:
            stops.check()
            self._give_out(queue, prepare)
            meanwhile()
            outcome = self._executor.next(self._patience())
            if outcome is not None and self._ends(outcome, queue):
                yield outcome
            if outcome is None or self._clock() >= self._looked + self._limits.look_seconds:
                self._look()

    @property
    def under_way(self) -> frozenset[Task]:
        """Tasks that are given out, or wait for a pause to end."""
        return frozenset([*self._given, *(task for _, task in self._paused)])

    def failure(self, outcome: Outcome) -> Exception:
        """What to raise for an outcome with an error."""
        assert outcome.error is not None
        if not outcome.lost:
            return outcome.error
        place, times = self._tasks.named(outcome.task).place, self._limits.attempts
        if isinstance(outcome.error, Hung):
            return TaskFailed(
                f"{place}: workers were lost {times} times, at last: {outcome.error}; is a disk or a device stuck?"
            )
        return TaskFailed(f"{place}: the worker died {times} times; is there enough memory?")

    # --- out

    def _give_out(self, queue: Supply, prepare: Callable[[Task], None]) -> None:
        while self._paused and self._paused[0][0] <= self._clock():
            queue.push(heapq.heappop(self._paused)[1])
        while queue and len(self._given) < self._executor.capacity(len(queue)):
            task = queue.pop()
            if task is None or task in self._given or any(task == paused for _, paused in self._paused):
                continue
            prepare(task)
            self._executor.submit(task)
            self._given[task] = self._clock()
            self._hear()

    def _patience(self) -> float:
        """Seconds until there is something else to do than to wait for an outcome."""
        ends = [self._looked + self._limits.look_seconds]
        if self._paused:
            ends.append(self._paused[0][0])
        say = self._news + self._limits.say_seconds
        if not self._said and say > self._looked:
            ends.append(say)
        return max(0.0, min(ends) - self._clock())

    # --- in

    def _ends(self, outcome: Outcome, queue: Supply) -> bool:
        """Whether this is the end of its task; otherwise it is nobody's, or the task is tried again."""
        given = self._given.pop(outcome.task, None)
        if given is None:
            return False
        self._hear()
        again = outcome.error is not None and self._is_tried_again(outcome, outcome.error, queue)
        if again:
            return False
        self._losses.pop(outcome.task, None)
        self._errors.pop(outcome.task, None)
        if outcome.error is None:
            kind = self._tasks.named(outcome.task).kind
            self._deadlines.learn(kind, outcome.worker, given, self._clock(), outcome.seconds)
        return True

    def _is_tried_again(self, outcome: Outcome, error: Exception, queue: Supply) -> bool:
        task = outcome.task
        if outcome.lost:
            self._losses[task] += 1
            if self._losses[task] < self._limits.attempts:
                queue.push(task)
                self._tell_again(task, first_line(error))
                return True
        elif passes(error):
            self._errors[task] += 1
            if self._errors[task] < self._limits.tries:
                pause = self._limits.pause_seconds(self._errors[task])
                heapq.heappush(self._paused, (self._clock() + pause, task))
                self._tell_again(task, f"{first_line(error)}; in {_seconds(pause)} s")
                return True
        return False

    def _tell_again(self, task: Task, why: str) -> None:
        named = self._tasks.named(task)
        self._on_event(TaskRetried(named.stage, named.stage_name, named.block, why))

    # --- what takes long

    def _hear(self) -> None:
        """There is news."""
        self._news, self._said = self._clock(), False

    def _look(self) -> None:
        """End the workers of tasks that are hung; say what is waited for, once, when there was no news for long."""
        self._looked = self._clock()
        look = self._executor.look()
        self._tell_workers(look.up)
        for task, worker in look.running.items():
            if task in self._given:
                self._check(task, worker)
        if not self._said and self._clock() >= self._news + self._limits.say_seconds:
            what = self._waited_for(look)
            if what:
                self._on_event(Waiting(what))
                self._said = True

    def _tell_workers(self, up: int | None) -> None:
        """How many there are, where that has changed. That there are none is told as what is waited for."""
        if up and up != self._up:
            self._up = up
            self._on_event(WorkersUp(up))

    def _check(self, task: Task, worker: str) -> None:
        given, kind = self._given[task], self._tasks.named(task).kind
        expected, losses = self._tasks.expected_seconds(task), self._losses[task]
        limit = self._deadlines.seconds(kind, expected, worker, given, losses)
        if self._clock() - given > limit:
            self._executor.give_up(task, Hung(f"{worker} gave no answer for {_seconds(limit)} s"))

    def _waited_for(self, look: Look) -> str:
        """What is waited for, in words; "" where tasks take no longer than others of their kind did."""
        if look.lack:
            return look.lack
        now = self._clock()
        taken = {task: now - self._given[task] for task in look.running if task in self._given}
        if taken:
            as_ever = all(
                seconds < 2 * self._deadlines.longest(self._tasks.named(task).kind)
                for task, seconds in taken.items()
            )
            return "" if as_ever else _running(max(taken.values()), [look.running[task] for task in taken])
        if self._paused and not self._given:
            due, task = self._paused[0]
            return f"waiting {_seconds(due - now)} s before {self._tasks.named(task).place} is tried again"
        return ""


def _running(seconds: float, workers: list[str]) -> str:
    """ "waiting for 3 tasks that run for 31 s on host:12, host:13"."""
    names = list(dict.fromkeys(workers))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    tasks = f"{len(workers)} tasks that run" if len(workers) > 1 else "a task that runs"
    return f"waiting for {tasks} for {_seconds(seconds)} s on {', '.join(names[:NAMED])}{more}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f}" if seconds >= 10 else f"{seconds:.3g}"
