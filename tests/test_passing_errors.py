"""A disk that is away for a moment costs a job time, and nothing else."""

from __future__ import annotations

import errno
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from engine import files_of, run, run_here, tiny_job, tiny_worker

from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import StartedTask
from cluster.following.events import Event, TaskRetried
from cluster.jobs.stages import Task
from cluster.patience import Limits
from storage.arrays import as_os_error

SOON = Limits(first_pause_seconds=0.001, growth=1.0)


class OnABadDisk:
    """A worker; its first `times` tries of every third task find the disk away, as TensorStore tells it."""

    def __init__(self, worker: Any, times: int) -> None:
        self.worker, self.times = worker, times
        self.name = worker.name
        self.tries: Counter[Task] = Counter()

    def begin(self, task: Task) -> StartedTask:
        self.tries[task] += 1
        if sum(task) % 3 == 0 and self.tries[task] <= self.times:
            told = f"Error reading file [source locations='x.cc:1'] os_error_code='{errno.ESTALE}'"
            raise as_os_error(ValueError(told), "work/state-0001.zarr")
        return self.worker.begin(task)


def test_it_is_tried_again_until_it_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = tiny_job(tmp_path / "straight", monkeypatch)
    shaky = tiny_job(tmp_path / "shaky", monkeypatch)
    run_here(straight)
    events: list[Event] = []
    worker = OnABadDisk(tiny_worker(shaky), SOON.tries - 1)
    run(shaky, InProcess(worker), events.append, SOON)
    assert files_of(shaky.spec.out) == files_of(straight.spec.out)
    third = [task for task in worker.tries if sum(task) % 3 == 0]
    assert len(third) > 10
    assert worker.tries == Counter({task: SOON.tries if task in third else 1 for task in worker.tries})
    retried = [event for event in events if isinstance(event, TaskRetried)]
    assert len(retried) == (SOON.tries - 1) * len(third)


def test_what_stays_away_ends_the_job_which_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch)
    with pytest.raises(OSError, match="Stale file handle") as raised:
        run(job, InProcess(OnABadDisk(tiny_worker(job), SOON.tries)), lambda event: None, SOON)
    assert raised.value.errno == errno.ESTALE
    run_here(job)
    straight = tiny_job(tmp_path / "straight", monkeypatch)
    run_here(straight)
    assert files_of(job.spec.out) == files_of(straight.spec.out)
