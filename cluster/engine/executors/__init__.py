"""The table of executors: name -> how to build one for a job or a batch. Imports each when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.engine.executors.contract import Executor, Workload
    from cluster.engine.executors.hosts import Host


def _in_process(work: Workload, host: Host | None) -> Executor:
    from cluster.engine.executors.in_process import InProcess

    return InProcess.of(work, host)


def _ray(work: Workload, host: Host | None) -> Executor:
    del host  # nothing is computed here
    from cluster.engine.executors.ray_actors import RayActors

    return RayActors(work)


EXECUTORS: dict[str, Callable[[Workload, Host | None], Executor]] = {"in-process": _in_process, "ray": _ray}


def make(work: Workload, host: Host | None = None) -> Executor:
    """The executor that the spec names, with its workers; close() it. host: this process; None: it is somebody's."""
    return EXECUTORS[work.spec.executor](work, host)


def make_here(work: Workload) -> Executor:
    """The same, for a process that does nothing else."""
    from cluster.engine.executors.hosts import Owner

    return make(work, Owner())
