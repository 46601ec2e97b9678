"""The table of executors: name -> how to build one for a job. Imports each when asked."""

from __future__ import annotations

from collections.abc import Callable

from cluster.executors.contract import Executor
from cluster.job import Job


def _in_process(job: Job) -> Executor:
    from cluster.executors.in_process import InProcess

    return InProcess.of(job)


def _ray(job: Job) -> Executor:
    from cluster.executors.ray_actors import RayActors

    return RayActors(job)


EXECUTORS: dict[str, Callable[[Job], Executor]] = {"in-process": _in_process, "ray": _ray}


def make(job: Job) -> Executor:
    """The executor that the job's spec names, with its workers; close() it."""
    return EXECUTORS[job.spec.executor](job)
