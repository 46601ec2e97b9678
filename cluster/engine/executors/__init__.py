"""The table of executors: name -> how to build one for a job or a batch. Imports each when asked."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.engine.executors.contract import Executor, Work


def _in_process(work: Work) -> Executor:
    from cluster.engine.executors.in_process import InProcess

    return InProcess.of(work)


def _ray(work: Work) -> Executor:
    from cluster.engine.executors.ray_actors import RayActors

    return RayActors(work)


EXECUTORS: dict[str, Callable[[Work], Executor]] = {"in-process": _in_process, "ray": _ray}


def make(work: Work) -> Executor:
    """The executor that the spec names, with its workers; close() it."""
    return EXECUTORS[work.spec.executor](work)
