"""Bytes that can never be read again are made again; those that cannot be read for a moment are waited for."""

from __future__ import annotations

import errno
import os
import pickle
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from engine import ConvolutionalDenoiser, files_of, tiny_job, tiny_worker
from harm import BEFORE_DECODING, BOTH, TASKS, WHILE_DECODING, WHILE_DENOISING, go_on, one
from test_passing_errors import SOON

from cluster.engine.closing import open_ledger
from cluster.engine.driver import Run
from cluster.engine.executors.in_process import InProcess
from cluster.engine.recovery import DamagedInputs
from cluster.engine.written import TaskOutputs
from cluster.following.events import Event, TaskDone, TaskRetried
from cluster.jobs.job import Job
from cluster.patience import Limits, passes
from cluster.rereading import Rereading
from storage.arrays import ArraySpec, ArrayStore
from storage.ledger import Written


def error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "somewhere")


# --- looks -----------------------------------------------------------------------------------------------------------


class Disk:
    """Things that are whole, each after so many errors; and how long was waited."""

    def __init__(self, errors: dict[str, int], number: int = errno.EIO) -> None:
        self.errors, self.number = Counter(errors), number
        self.waited: list[float] = []

    def look(self, name: str) -> bool:
        self.errors[name] -= 1
        if self.errors[name] >= 0:
            raise error(self.number)
        return True

    def looks(self, *names: str) -> list[tuple[str, bool]]:
        return list(Rereading(Limits(), self.waited.append).whole(names, self.look))


def test_what_cannot_be_read_for_a_moment_is_whole() -> None:
    disk = Disk({"b": 1, "d": 4})
    assert disk.looks("a", "b", "c", "d") == [("a", True), ("c", True), ("b", True), ("d", True)]
    assert disk.waited == [1.0, 4.0, 16.0, 64.0]


def test_what_can_never_be_read_is_not_and_is_waited_for_once_whatever_its_number() -> None:
    names = [str(number) for number in range(1000)]
    disk = Disk(dict.fromkeys(names[::2], 99), errno.ESTALE)
    assert dict(disk.looks(*names)) == {name: int(name) % 2 == 1 for name in names}
    assert disk.waited == [1.0, 4.0, 16.0, 64.0]


@pytest.mark.parametrize(("number", "times"), [(errno.ETIMEDOUT, 4), (errno.EACCES, 0)])
def test_errors_that_say_nothing_of_what_is_stored_are_raised(number: int, times: int) -> None:
    """A network that stays away, after all tries; what no time mends, at once."""
    disk = Disk({"a": 99}, number)
    with pytest.raises(OSError, match=r"somewhere") as raised:
        disk.looks("a")
    assert raised.value.errno == number and len(disk.waited) == times


# --- chunks ----------------------------------------------------------------------------------------------------------


class BadSectors(ArrayStore):
    """Of some chunks' files no byte can be read; of those that take their place, all."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._bad: dict[Path, tuple[int, int]] = {}

    def spoil(self, path: Path) -> None:
        self._bad[path] = self._stamp(path)

    def begin_read(self, name: str, index: Any) -> Callable[[], Any]:
        array = self._array(name)
        ranges = [
            range(place, place + 1)
            if isinstance(place, int)
            else range(
                place.start // side, -(-whole // side) if place.stop is None else -(-place.stop // side)
            )
            for place, side, whole in zip(
                index, array.chunk_layout.write_chunk.shape, array.shape, strict=True
            )
        ]
        for chunk in product(*ranges):
            self._read_sectors(name, chunk)
        return super().begin_read(name, index)

    def read_chunk(self, spec: ArraySpec, chunk: tuple[int, ...]) -> Any:
        self._read_sectors(spec.name, chunk)
        return super().read_chunk(spec, chunk)

    def _read_sectors(self, name: str, chunk: tuple[int, ...]) -> None:
        path = Path(self.root) / name / ".".join(("c", *map(str, chunk)))
        if path in self._bad and self._stamp(path) == self._bad[path]:
            raise error(errno.EIO)

    @staticmethod
    def _stamp(path: Path) -> tuple[int, int]:
        return path.stat().st_ino, path.stat().st_mtime_ns


def go_on_with(job: Job, store: ArrayStore) -> tuple[list[Event], int]:
    """To the end, with everybody reading arrays through a store; events, and patches that were evaluated."""
    denoiser, events = ConvolutionalDenoiser(), []
    worker = tiny_worker(job, denoiser)
    worker.store, worker.written = store, replace(worker.written, store=store)
    with open_ledger(job) as ledger:
        run = Run(job, InProcess(worker, 1), ledger, events.append, SOON)
        run.closing.outputs = replace(run.closing.outputs, store=store)
        run.to_the_end()
    return events, denoiser.evaluated


@pytest.mark.parametrize(
    ("stop_after", "pattern"),
    [
        (WHILE_DENOISING, "work/sums-*/c.*"),
        (WHILE_DENOISING, "work/state-*/c.*"),
        (BEFORE_DECODING, "latents.zarr/latents/c.*"),
        (WHILE_DECODING, "latents.zarr/latents/c.*"),
        (TASKS, "latents.zarr/latents/c.*"),
    ],
)
def test_a_chunk_on_a_bad_sector_is_made_again_in_a_file_of_its_own(
    stop_after: int, pattern: str, tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=stop_after)
    store, bad = BadSectors(tmp_path), one(tmp_path, pattern)
    store.spoil(bad)
    events, _ = go_on_with(job, store)
    assert files_of(tmp_path) == undisturbed
    retried = [event for event in events if isinstance(event, TaskRetried)]
    assert (
        not retried or len(retried) >= SOON.tries - 1
    )  # whoever met it first tried it as often as any other
    assert bool(retried) == (stop_after != TASKS)  # nobody but the check at the end reads it then


def test_what_a_worker_tells_of_it_reaches_the_driver_whole() -> None:
    told = pickle.loads(pickle.dumps(DamagedInputs("not read", ((3, 1), (3, 2)), errno.EIO)))
    assert (str(told), told.tasks, told.errno) == ("not read", ((3, 1), (3, 2)), errno.EIO)
    assert passes(told) and not passes(DamagedInputs("rotten", ((3, 1),)))


def test_a_ledger_that_can_never_be_read_is_begun_anew(
    tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    class Unread(Rereading):
        def is_whole(self, look: Callable[[], bool]) -> bool:
            return False

    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=WHILE_DENOISING)
    told = (tmp_path / "ledger.jsonl").read_bytes()
    with open_ledger(job, Unread()) as ledger:
        assert ledger.done.count(0) == 0
    assert (tmp_path / "ledger.damaged.jsonl").read_bytes() == told
    go_on(job)
    assert files_of(tmp_path) == undisturbed


# --- the end of a job ------------------------------------------------------------------------------------------------


class Shaky(TaskOutputs):
    """A disk that is away for so many of the looks at each output."""

    looks: Counter[Any]
    away = SOON.tries - 1

    def is_as(self, task: Any, told: Written) -> bool:
        self.looks[task] += 1
        if self.looks[task] <= self.away:
            raise error(errno.EIO)
        return super().is_as(task, told)


@pytest.mark.parametrize("stays", [False, True])
def test_an_error_at_the_end_of_a_job_is_damage_only_when_it_stays(
    stays: bool, tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=TASKS - 1)
    events: list[Event] = []
    with open_ledger(job) as ledger:
        run = Run(job, InProcess(tiny_worker(job), 1), ledger, events.append, SOON)
        shaky = Shaky(job.plan, run.outputs.store, run.outputs.outputs)
        object.__setattr__(shaky, "looks", Counter())
        object.__setattr__(shaky, "away", SOON.tries - (not stays))
        run.closing.outputs = shaky
        run.to_the_end()
    done = sum(isinstance(event, TaskDone) for event in events)
    assert (done > 1) == stays
    assert files_of(tmp_path) == undisturbed
