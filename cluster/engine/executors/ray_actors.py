"""A pool of Ray actors, each with the model loaded. Only task ids and outcomes cross between them and the driver.

While tasks are plenty, or the actor is the only one, two are in flight for each, so that none waits for the driver
between two; while they are few, each goes to the first actor that is free. Tasks go to actors that are up: one whose
node is gone, or that waits for a node with room, gets none. Another takes the place of an actor that dies or hangs; its
tasks come back as lost, and the driver gives them out again.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
)

from cluster.engine.executors.actor import Actor
from cluster.engine.executors.contract import Look, Workload
from cluster.engine.executors.ray_tokens import NotLetIn, check_admission, what_to_set
from cluster.engine.outcomes import Outcome
from cluster.jobs.stages import Task
from cluster.machine import OF_A_WORKER, OF_RAY, variables_set
from cluster.stops import kept
from generation.models.errors import first_line
from storage.containers import cores

IN_FLIGHT = 2
ROOT = Path(__file__).parents[3]
PACKAGES = ("cluster", "generation", "storage", "viewer")
"""Sent to the nodes of a cluster, so that they run the code of whoever submits the job."""
LOST = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError)
"""The worker is gone, or what it told; not the task's fault, and another may do it."""
LOOK_SECONDS = 5.0
"""Between two looks at what the cluster has."""
ANSWER_SECONDS = 60.0
"""In which a member without tasks says that it is there."""
STARTS = 4
"""Of each member that may fail in a row before Ray's reason is the driver's."""
REFUSALS: tuple[type[Exception], ...] = (getattr(ray.exceptions, "AuthenticationError", NotLetIn),)
"""Ray has tokens since 2.52."""
KNOCK_SECONDS = 10
OBJECT_STORE_BYTES = 128 * 2**20
"""Ray's least is 75 MB; nothing larger than a description goes through it."""


@dataclass(eq=False)
class Member:
    """An actor of the pool. up: it answered when it was last asked, which it can when a node has room and it runs.

    name: of its process; "" before its first answer. load: tasks that it has. asked: when it was, by the clock.
    """

    handle: Any
    name: str = ""
    up: bool = False
    load: int = 0
    asked: float = 0.0


class RayActors:
    """Actors on the cluster of RAY_ADDRESS, or on a local one started for the work.

    As many as the work asks for, of which those that find no room wait for nodes to come; or where it does not say, as
    many as the cluster has room for, looked at again every few seconds.
    """

    def __init__(self, work: Workload, look_seconds: float = LOOK_SECONDS) -> None:
        spec = work.spec
        self._gpus, self._cpus = (1, 0) if spec.device == "cuda" else (0, spec.threads)
        self._members: list[Member] = []
        before = set(os.environ)
        self._owns_ray = connect((spec.workers or 1) * spec.threads)
        self._set_by_ray = set(os.environ) - before
        try:
            self._begin(work, look_seconds)
        except BaseException:  # Ctrl-C among them: a Ray that was started here would go on alone
            self.close()
            raise

    def _begin(self, work: Workload, look_seconds: float) -> None:
        spec = work.spec
        self._asked = spec.workers
        self.workers = self._wanted()
        if self._gpus and self._owns_ray and "RAY_ADDRESS" not in os.environ:
            _check_gpus(self.workers)
        remote: Any = ray.remote(num_gpus=self._gpus, num_cpus=self._cpus)(Actor)
        variables = {name: os.environ.get(name, value) for name, value in OF_A_WORKER.items()}
        actor = remote.options(max_concurrency=work.tasks_in_flight, runtime_env={"env_vars": variables})
        # not unpacked before the actor has made its process ready, as Ray would
        packed = cloudpickle.dumps(work)  # type: ignore[no-untyped-call]  # Ray's is not annotated
        self._start: Callable[[], Any] = lambda: actor.remote(packed)
        self._look_seconds = look_seconds
        self._waking: dict[Any, Member] = {}
        self._running: dict[Any, tuple[Member, Task]] = {}
        self._lost: deque[Outcome] = deque()
        self._failed_starts = 0
        self._fill()
        self._looked = time.monotonic()

    def capacity(self, ready: int) -> int:
        """While tasks are few, one for each actor that has none, however many others still have."""
        up = self._up
        plenty = ready > len(up) * IN_FLIGHT or self.workers == 1
        return sum(max(member.load, IN_FLIGHT if plenty else 1) for member in up)

    def submit(self, task: Task) -> None:
        member = min(self._up, key=lambda member: member.load)
        member.load += 1
        self._running[member.handle.run.remote(task)] = (member, task)

    def next(self, patience: float = inf) -> Outcome | None:
        if time.monotonic() >= self._looked + self._look_seconds:
            self._fit()
        if self._lost:
            return self._lost.popleft()
        seconds, refs = min(patience, self._look_seconds), [*self._waking, *self._running]
        if not refs:
            time.sleep(seconds)
            return None
        done, _ = ray.wait(refs, num_returns=1, timeout=seconds)
        if not done:
            return None
        if done[0] in self._waking:
            self._woken(done[0])
            return None
        return self._ended(done[0])

    def look(self) -> Look:
        running = {task: member.name for member, task in self._running.values()}
        up = len(self._up)
        return Look(running, "" if up else self._lack(), up)

    def give_up(self, task: Task, why: Exception) -> None:
        for member in [member for member, running in self._running.values() if running == task]:
            self._lose(member, why)

    def close(self) -> None:
        try:
            for member in self._members:
                with suppress(RayError):  # one that is gone
                    ray.kill(member.handle)
        finally:
            if self._owns_ray:
                ray.shutdown()
                for name in self._set_by_ray:
                    os.environ.pop(name, None)

    # --- tasks

    def _ended(self, ref: Any) -> Outcome:
        member, task = self._running[ref]
        try:
            outcome: Outcome = ray.get(ref)
        except RayTaskError as error:
            outcome = Outcome(task, error=error)
        except LOST as error:
            self._lose(member, error)
            return self._lost.popleft()
        del self._running[ref]
        member.load -= 1
        return outcome

    def _lose(self, member: Member, why: Exception) -> None:
        """All that a member has is lost, at once; another takes its place.

        Those that have nothing may have gone with it, as with a node, unheard of: the next task would be lost, too.
        """
        theirs = {ref: task for ref, (owner, task) in self._running.items() if owner is member}
        for ref in theirs:
            del self._running[ref]
        self._lost.extend(Outcome(task, error=why, lost=True, worker=member.name) for task in theirs.values())
        self._let_go(member)
        for idle in [other for other in self._up if not other.load]:
            self._ask(idle)
        self._fill()

    # --- members

    @property
    def _up(self) -> list[Member]:
        return [member for member in self._members if member.up]

    def _wanted(self) -> int:
        return self._asked or cluster_workers(self._gpus, self._cpus)

    def _fill(self) -> None:
        while len(self._members) < self.workers:
            member = Member(self._start())
            self._members.append(member)
            self._ask(member)

    def _ask(self, member: Member) -> None:
        """Whether it is up; until it answers it is given nothing."""
        member.up, member.asked = False, time.monotonic()
        self._waking[member.handle.name.remote()] = member

    def _fit(self) -> None:
        """Keep as many members as the cluster has room for now; those that work are left alone.

        One that was up and does not answer any more is hung. One that never was up may wait for room for ever.
        """
        self._looked = time.monotonic()
        self.workers = self._wanted()
        for member in list(self._waking.values()):
            if member.name and self._looked > member.asked + ANSWER_SECONDS:
                self._let_go(member)
        for member in list(self._waking.values())[: max(0, len(self._members) - self.workers)]:
            self._let_go(member)
        self._fill()

    def _woken(self, ref: Any) -> None:
        """A member is up; or it died before it answered, and another is started at the next look at the cluster.

        Raises what Ray tells of where none is up and all that were started died, again and again.
        """
        member = self._waking.pop(ref)
        try:
            member.name, member.up = ray.get(ref), True
            self._failed_starts = 0
        except RayError:
            self._let_go(member)
            self._failed_starts += 1
            if not self._up and self._failed_starts >= STARTS * self.workers:
                raise

    def _let_go(self, member: Member) -> None:
        ray.kill(member.handle)
        self._members.remove(member)
        self._waking = {ref: waking for ref, waking in self._waking.items() if waking is not member}

    def _lack(self) -> str:
        what, each = ("GPU", self._gpus) if self._gpus else ("CPU", self._cpus)
        there = resources_of_cluster().get(what, 0.0)
        asked = f"{self.workers} x {each}" if self.workers > 1 else str(each)
        return f"no worker is up: Ray is asked for {asked} {what}, the cluster has {there:g}"


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
    """How many workers the joined cluster has room for: one a GPU, or one for each `threads` processors."""
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
        with variables_set(OF_RAY), kept(signal.SIGTERM):  # Ray's own handlers: one of them prints stacks
            ray.init(**options)
    except NotLetIn:
        raise
    except REFUSALS as error:
        raise NotLetIn(what_to_set(address or "a local address")) from error
    except OSError as error:
        if address is None:
            raise ConnectionError(
                f"no local Ray could be started ({first_line(error)}); --executor in-process needs none"
            ) from error
        raise ConnectionError(
            f"no Ray cluster answers at {address}: correct RAY_ADDRESS, or unset it to start a local Ray; a cluster "
            "that asks for a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN"
        ) from error
    return True


def _knock(address: str) -> None:
    """Raises OSError where nothing listens at host:port, for which Ray would ask again for minutes."""
    if place := re.fullmatch(r"(?:ray://)?\[?([^/\]]+?)\]?:(\d+)", address):
        socket.create_connection((place[1], int(place[2])), timeout=KNOCK_SECONDS).close()
