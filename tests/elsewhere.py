"""An executor whose one worker is a process that stands in another folder, as a cluster's do. Not a test itself."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from concurrent.futures import Future, ProcessPoolExecutor
from math import inf

from cluster.engine.executors.actor import Actor
from cluster.engine.executors.contract import Look, Workload
from cluster.engine.outcomes import Outcome
from cluster.jobs.stages import Task

_actors: list[Actor] = []
"""Of the worker's process."""


def _begin(packed: bytes) -> None:
    os.chdir("/")
    _actors.append(Actor(packed))


def _run(task: Task) -> Outcome:
    assert os.getcwd() == "/"
    return _actors[0].run(task)


class Elsewhere:
    """Runs one task after another. Satisfies Executor."""

    workers = 1

    def __init__(self, work: Workload) -> None:
        context = multiprocessing.get_context("spawn")
        packed = pickle.dumps(work)
        self._pool = ProcessPoolExecutor(1, context, initializer=_begin, initargs=(packed,))
        self._begun: list[Future[Outcome]] = []

    def capacity(self, ready: int) -> int:
        return min(1, ready)

    def submit(self, task: Task) -> None:
        self._begun.append(self._pool.submit(_run, task))

    def next(self, patience: float = inf) -> Outcome | None:
        return self._begun.pop(0).result()

    def look(self) -> Look:
        return Look()

    def give_up(self, task: Task, why: Exception) -> None:
        raise AssertionError(f"{task} was given up: {why}")

    def close(self) -> None:
        self._pool.shutdown()
