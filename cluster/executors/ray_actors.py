"""A pool of Ray actors, each with the model loaded. Only task ids and outcomes cross between them and the driver.

While tasks are plenty, or the actor is the only one, two are in flight for each, so that none waits for the driver
between two; while they are few, each goes to the first actor that is free. Another takes the place of an actor that
dies; its tasks come back as lost, and the driver gives them out again.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, RayTaskError

from cluster.executors.actor import Actor
from cluster.executors.contract import Work
from cluster.executors.ray_tokens import NotLetIn, check_admission, what_to_set
from cluster.machine import OF_A_WORKER, OF_RAY
from cluster.plan import Task
from cluster.stops import kept
from cluster.tasks import Outcome
from storage.containers import cores

IN_FLIGHT = 2
ROOT = Path(__file__).parents[2]
PACKAGES = ("cluster", "generation", "storage")
"""Sent to the nodes of a cluster, so that they run the code of whoever submits the job."""
LOST = (RayActorError, NodeDiedError, OutOfMemoryError)
"""The worker is gone, not the task's fault; another may do it."""
REFUSALS: tuple[type[Exception], ...] = (getattr(ray.exceptions, "AuthenticationError", NotLetIn),)
"""Ray has tokens since 2.52."""
KNOCK_SECONDS = 10
OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's least is 75 MB; nothing larger than a description goes through it."""


class RayActors:
    """Actors on the cluster of RAY_ADDRESS, or on a local one started for the work."""

    def __init__(self, work: Work) -> None:
        spec = work.spec
        gpus = 1 if spec.device == "cuda" else 0
        self._owns_ray = connect((spec.workers or 1) * spec.threads)
        self.workers = spec.workers or cluster_workers(gpus, spec.threads)
        if gpus and self._owns_ray and "RAY_ADDRESS" not in os.environ:
            _check_gpus(self.workers)
        cpus = 0 if gpus else spec.threads
        remote: Any = ray.remote(num_gpus=gpus, num_cpus=cpus)(Actor)
        variables = {name: os.environ.get(name, value) for name, value in OF_A_WORKER.items()}
        actor = remote.options(max_concurrency=work.at_once, runtime_env={"env_vars": variables})
        # not unpacked before the actor has made its process ready, as Ray would
        packed = cloudpickle.dumps(work)  # type: ignore[no-untyped-call]  # Ray's is not annotated
        self._start: Callable[[], Any] = lambda: actor.remote(packed)
        self._actors: list[Any] = [self._start() for _ in range(self.workers)]
        self._load = [0] * self.workers
        self._running: dict[Any, tuple[int, Any, Task]] = {}

    def capacity(self, ready: int) -> int:
        plenty = ready > self.workers * IN_FLIGHT or self.workers == 1
        return self.workers * (IN_FLIGHT if plenty else 1)

    def submit(self, task: Task) -> None:
        index = self._load.index(min(self._load))
        self._load[index] += 1
        actor = self._actors[index]
        self._running[actor.run.remote(task)] = (index, actor, task)

    def next(self) -> Outcome:
        done, _ = ray.wait(list(self._running), num_returns=1)
        index, actor, task = self._running.pop(done[0])
        self._load[index] -= 1
        try:
            outcome: Outcome = ray.get(done[0])
        except RayTaskError as error:
            return Outcome(task, error=error)
        except LOST as error:
            if self._actors[index] is actor:
                ray.kill(actor)
                self._actors[index] = self._start()
            return Outcome(task, error=error, lost=True)
        return outcome

    def close(self) -> None:
        for actor in self._actors:
            ray.kill(actor)
        if self._owns_ray:
            ray.shutdown()


def _check_gpus(workers: int) -> None:
    """Raises ValueError where a local Ray has fewer GPUs than workers: the rest would wait for ever."""
    found = int(resources_of_cluster().get("GPU", 0))
    if workers > found:
        raise ValueError(
            f"{workers} workers need a GPU each, Ray finds {found} here: give --workers {max(1, found)}"
        )


def resources_of_cluster() -> dict[str, float]:
    """ "CPU", "GPU" and others of the Ray that was joined, all nodes together."""
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's is not annotated
    return resources


def cluster_workers(gpus: int, threads: int) -> int:
    """As many workers as the joined cluster has room for: one a GPU, or one for each `threads` processors."""
    resources = resources_of_cluster()
    room = resources.get("GPU", 0) if gpus else resources.get("CPU", 0) // threads
    return max(1, int(room))


def connect(cpus: int) -> bool:
    """Join Ray if this process has not; True where this call started or joined it.

    What its processes print is shown where the root logger is told of information, and lost elsewhere.
    A local Ray is told of at least `cpus` processors: as many workers start as were asked for. Raises
    ConnectionError where nothing answers at RAY_ADDRESS, NotLetIn where it asks for a token.
    """
    if ray.is_initialized():
        return False
    for name, value in OF_RAY.items():
        os.environ.setdefault(name, value)
    heard = logging.getLogger().isEnabledFor(logging.INFO)
    options: dict[str, Any] = {
        "log_to_driver": heard,
        "logging_level": logging.INFO if heard else logging.ERROR,
    }
    address = os.environ.get("RAY_ADDRESS")
    if address is not None:
        options["runtime_env"] = {"py_modules": [str(ROOT / package) for package in PACKAGES]}
    else:
        options |= {"address": "local", "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
        options["num_cpus"] = max(cpus, cores())
    try:
        if address is not None:
            _knock(address)
            check_admission(address)
        with kept(signal.SIGTERM):  # Ray has handlers of its own, one of which prints stacks
            ray.init(**options)
    except NotLetIn:
        raise
    except REFUSALS as error:
        raise NotLetIn(what_to_set(address or "a local address")) from error
    except OSError as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address or 'a local address'}: correct RAY_ADDRESS, or unset it to start a "
            "local Ray; a cluster that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at host:port, for which Ray would ask again for minutes."""
    if place := re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address):
        socket.create_connection((place[1], int(place[2])), timeout=KNOCK_SECONDS).close()
