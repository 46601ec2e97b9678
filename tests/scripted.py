"""Tasks whose failures are scripted, for any executor; and an executor of which all is. Not a test itself.

A script says what becomes of a task, try by try; of a try that it does not mention, that it is done.
"""

from __future__ import annotations

import heapq
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from math import inf
from pathlib import Path

from cluster.engine.executors.contract import Executor, Look
from cluster.engine.outcomes import Outcome
from cluster.engine.queueing import Queue
from cluster.engine.supervision import Named, Supervisor
from cluster.following.events import Event
from cluster.jobs.stages import Grown, Margin, Read, Stage, StageGraph, Task
from cluster.patience import LIMITS, Limits
from cluster.spec.fields import JobSpec
from storage.geometry import Canvas, Grid
from storage.task_set import TaskSet

# --- what is to be done ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strip:
    """`steps` stages over blocks in a row; each task waits for its block and the two beside it in the stage before."""

    blocks: int = 4
    steps: int = 3

    @cached_property
    def graph(self) -> StageGraph:
        grid = Grid(Canvas(1, self.blocks), 1)
        beside = Grown(grid, Margin(left=1, right=1))
        return StageGraph(
            tuple(
                Stage(f"draw {k}", "draw", k, grid, (Read(f"x{k - 1}", beside),) if k else (), (f"x{k}",))
                for k in range(self.steps)
            )
        )

    def tasks(self) -> list[Task]:
        return [(step, block) for step in range(self.steps) for block in range(self.blocks)]

    def batches(self, task: Task) -> int:
        return 1

    # as a supervisor asks

    def named(self, task: Task) -> Named:
        stage, block = task
        return Named(stage, f"draw {stage}", block, f"draw {stage}, block {block}")

    def expected_seconds(self, task: Task) -> float:
        return 0.0


@dataclass
class Run:
    """What came of it. ended: tasks in order; events: told meanwhile."""

    ended: list[Task] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def told(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]


def drive(
    executor: Executor, strip: Strip, limits: Limits = LIMITS, clock=time.monotonic, run: Run | None = None
) -> Run:
    """Everything done, as the driver does it, without a ledger on a disk. Raises as the driver raises."""
    run, done = run or Run(), TaskSet()
    queue = Queue(strip, done)
    supervisor = Supervisor(executor, strip, run.events.append, limits, clock)
    for outcome in supervisor.outcomes(queue):
        if outcome.error is not None:
            raise supervisor.failure(outcome)
        assert all(before in done for before in strip.graph.dependencies(outcome.task))
        done.add(outcome.task)
        queue.release_after(outcome.task)
        run.ended.append(outcome.task)
    return run


# --- a worker that any executor may have -----------------------------------------------------------------------------


@dataclass(frozen=True)
class ScriptedWork:
    """Its worker fails as the script says: with an error that is raised, or "dies" or "hangs".

    folder: where tries are counted, by all processes. loading: seconds before a worker is there.
    """

    spec: JobSpec
    folder: Path
    script: Mapping[Task, Sequence[Exception | str]] = field(default_factory=dict)
    loading: float = 0.0
    task_seconds: float = 0.0
    tasks_in_flight: int = 1

    def worker(self) -> ScriptedWorker:
        time.sleep(self.loading)
        return ScriptedWorker(self)

    def tries(self) -> Counter[Task]:
        names = [path.name.split("-") for path in self.folder.iterdir()]
        return Counter((int(stage), int(block)) for stage, block, _ in names)


class ScriptedWorker:
    def __init__(self, work: ScriptedWork) -> None:
        self.work = work
        self.name = f"{socket.gethostname()}:{os.getpid()}"

    def begin(self, task: Task) -> Outcome:
        acts = self.work.script.get(task, ())
        number = self._try(task)
        act = acts[number] if number < len(acts) else None
        if isinstance(act, Exception):
            raise act
        if act == "dies":
            os._exit(1)
        if act == "hangs":
            os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(self.work.task_seconds)
        return Outcome(task, worker=self.name)

    def _try(self, task: Task) -> int:
        """How often it was tried before."""
        for number in count():
            try:
                (self.work.folder / f"{task[0]}-{task[1]}-{number}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return number
        raise AssertionError


# --- an executor of which all is scripted ----------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Act:
    """What becomes of one try: outcomes, each some seconds after the task was taken. None of them: it hangs.

    error, lost: of the outcome.
    """

    after: Sequence[float] = (1.0,)
    error: Exception | None = None
    lost: bool = False
    then_done: float | None = None
    """A late return: done after so many seconds, whatever was told before."""


DONE = Act()
TWICE = Act((1.0, 1.5))
LOST = Act(error=RuntimeError("the worker died"), lost=True)
HANGS = Act(())


class Fake:
    """`workers` that are up at the seconds of `up`, one task each; time passes only while an outcome is waited for.

    taken: how often each task was given out; ended: tasks whose workers were ended, and why.
    """

    def __init__(
        self, clock: Clock, script: Mapping[Task, Sequence[Act]], up: Sequence[float] = (0, 0)
    ) -> None:
        self.clock = clock
        self.script = script
        self.workers = len(up)
        self.taken: Counter[Task] = Counter()
        self.ended: list[tuple[Task, str]] = []
        self.most = 0
        self._up = [clock.now + seconds for seconds in up]
        self._has: dict[Task, str] = {}
        self._names = count(1)
        self._coming: list[tuple[float, int, Outcome]] = []
        self._order = count()

    def capacity(self, ready: int) -> int:
        return sum(up <= self.clock.now for up in self._up)

    def submit(self, task: Task) -> None:
        assert len(self._has) < self.capacity(1), "a task for a worker that is not there"
        acts = self.script.get(task, ())
        act = acts[self.taken[task]] if self.taken[task] < len(acts) else DONE
        self.taken[task] += 1
        self._has[task] = f"fake:{next(self._names)}" if act.lost or not act.after else "fake:0"
        self.most = max(self.most, len(self._has))
        for seconds in act.after:
            self._send(seconds, Outcome(task, seconds, error=act.error, lost=act.lost, worker="fake:0"))
        if act.then_done is not None:
            self._send(act.then_done, Outcome(task, worker="fake:0"))

    def _send(self, seconds: float, outcome: Outcome) -> None:
        heapq.heappush(self._coming, (self.clock.now + seconds, next(self._order), outcome))

    def next(self, patience: float = inf) -> Outcome | None:
        until = self.clock.now + patience
        soon = min((up for up in self._up if up > self.clock.now), default=inf)
        if self._coming and self._coming[0][0] <= min(until, soon):
            at, _, outcome = heapq.heappop(self._coming)
            self.clock.now = max(self.clock.now, at)
            self._has.pop(outcome.task, None)
            return outcome
        assert min(until, soon) < inf, "waits for ever"
        self.clock.now = min(until, soon)
        return None

    def look(self) -> Look:
        up = self.capacity(1)
        return Look(dict(self._has), "" if up else f"{self.workers} workers are not there", up)

    def give_up(self, task: Task, why: Exception) -> None:
        self.ended.append((task, str(why)))
        self._send(0.0, Outcome(task, error=why, lost=True))

    def close(self) -> None:
        self._has.clear()
