"""A job's folder followed as it grows: every look is as good as reading it anew, and costs what is new."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import tiny_job
from growing_job import BLOCKS, GrowingJob

from cluster import viewing
from cluster.following import history
from cluster.following.events import JobFailed, JobInterrupted, JobStarted, TaskDone, TaskRetried
from cluster.following.status import Follower, read_status
from cluster.viewing import Passed, blocks_of
from storage.arrays import ArrayStore
from storage.fingerprint import FormatError
from storage.task_set import TaskSet


def test_following_a_job_is_reading_it_anew(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    follower, now = Follower(job.folder), datetime.now(UTC) + timedelta(seconds=1)
    stopped, started = JobInterrupted(), JobStarted(job.stages, workers=3)
    task = TaskDone(1, "denoise 1", 4, 2.5, 5, "host:2")
    for event in (task, TaskRetried(1, "denoise 1", 5, "lost"), stopped, started, task, JobFailed("why")):
        job.tell(event)
        assert follower.look(now) == read_status(job.folder, now)
        job.done(0, 3)
        assert follower.look(now) == read_status(job.folder, now)
    assert follower.look(now).retried == 1


def test_a_look_reads_only_what_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = GrowingJob(tmp_path / "job")
    job.done(0, *range(BLOCKS))
    follower, parsed = Follower(job.folder), [0]
    follower.look()
    loads = json.loads

    def counted(line: Any) -> Any:
        parsed[0] += 1
        return loads(line)

    monkeypatch.setattr(history.json, "loads", counted)
    follower.look()
    assert parsed[0] == 0
    job.done(1, 0)
    parsed[0] = 0
    follower.look()
    assert parsed[0] <= 4  # one event, one line of the ledger
    assert follower.done.count(1) == 1


def test_a_hundred_thousand_tasks_are_followed_in_little_time(tmp_path: Path) -> None:
    """A look after the first is a matter of the new lines; generous, for machines that are busy."""
    job = GrowingJob(tmp_path / "job")
    stage, path = {"stage": 0, "block": 0, "bytes": 1}, job.folder / "ledger.jsonl"
    with path.open("a") as ledger:
        ledger.writelines(
            json.dumps(stage | {"stage": n % 3, "block": n % 8 + n}) + "\n" for n in range(100_000)
        )
    follower = Follower(job.folder)
    follower.look()
    began = time.perf_counter()
    for _ in range(10):
        follower.look()
    assert time.perf_counter() - began < 0.5


def test_torn_lines_and_replaced_files_are_read_right(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    tail = history.Tail(path)
    assert tail.lines() == (False, [])
    path.write_bytes(b"one\ntw")
    assert tail.lines() == (False, [b"one"])
    with path.open("ab") as file:
        file.write(b"o\nthree\n")
    assert tail.lines() == (False, [b"two", b"three"])
    path.write_bytes(b"new\n")  # the same file, shorter
    assert tail.lines() == (True, [b"new"])
    other = tmp_path / "other"
    other.write_bytes(b"newer\nand longer\n")
    other.rename(path)
    assert tail.lines() == (True, [b"newer", b"and longer"])
    path.unlink()
    assert tail.lines() == (True, [])


def test_the_rate_is_that_of_the_latest_tasks() -> None:
    began = datetime(2026, 1, 1, tzinfo=UTC)
    run = history.RunHistory(began, began)
    assert run.patches_per_second() is None
    for n in range(200):
        at = began + timedelta(seconds=10 * n if n < 100 else 1000 + (n - 100) * 2)
        event = {"event": "TaskDone", "stage_name": "denoise 0", "seconds": 2.0, "evaluations": 8}
        run.hear(event, at)
    assert run.patches_per_second() == pytest.approx(4.0)


def test_the_rate_is_no_more_than_workers_can_do() -> None:
    """Two tasks of two seconds each, told of in one moment."""
    began = datetime(2026, 1, 1, tzinfo=UTC)
    run = history.RunHistory(began, began, workers=1)
    for milliseconds in (4000, 4001):
        event = {"event": "TaskDone", "stage_name": "denoise 0", "seconds": 2.0, "evaluations": 8}
        run.hear(event, began + timedelta(milliseconds=milliseconds))
    assert run.patches_per_second() == pytest.approx(4.0)


def test_the_arrays_are_those_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """viewing.py names two arrays itself, and takes blocks for chunks."""
    job = tiny_job(tmp_path / "job", monkeypatch)
    plan, store = job.plan, ArrayStore(tmp_path / "job")
    for array in (plan.state_array(0), plan.state_array(plan.steps)):
        store.create(array)
        expected = plan.canvas.height, plan.canvas.width, plan.grid.block
        assert viewing._grid(tmp_path / "job") == expected
        store.delete(array.name)
    assert viewing._grid(tmp_path / "job") is None


def test_blocks_are_counted_as_if_they_were_counted_anew(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    follower, passed = Follower(job.folder), Passed()
    for stage, blocks in ((0, range(8)), (1, (2, 3)), (1, (3, 4)), (3, (0,)), (2, (4,))):
        job.done(stage, *blocks)
        follower.look()
        told = blocks_of(follower, passed)
        assert told == blocks_of(follower, Passed())
    assert told is not None and told.done == (1, 1, 2, 2, 3, 1, 1, 1)
    shutil.move(job.folder / "ledger.jsonl", tmp_path / "old.jsonl")
    job.done(0, 5)  # another ledger
    follower.look()
    told = blocks_of(follower, passed)
    assert told is not None and told.done == (0, 0, 0, 0, 0, 1, 0, 0)


def test_stages_that_did_not_go_on_are_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    done, passed, counted = TaskSet([(0, 0), (0, 1), (0, 2), (1, 1), (2, 0)]), Passed(), [0]
    assert passed.count(done, 2, 3).tolist() == [1, 2, 1]

    def zeros(*shape: Any, **more: Any) -> Any:
        counted[0] += 1
        return made(*shape, **more)

    made = np.zeros
    monkeypatch.setattr(viewing.np, "zeros", zeros)
    assert passed.count(done, 2, 3).tolist() == [1, 2, 1] and counted[0] == 0
    done.add((1, 0))
    assert passed.count(done, 2, 3).tolist() == [2, 2, 1] and counted[0] == 1
    done.discard((1, 1))
    assert passed.count(done, 2, 3).tolist() == [2, 1, 1] and counted[0] == 2
    with pytest.raises(FormatError, match="block 3 of stage 0"):
        passed.count(TaskSet([(0, 3)]), 1, 3)


def test_without_arrays_there_is_no_map_of_blocks(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    shutil.rmtree(job.folder / "work")
    follower = Follower(job.folder)
    follower.look()
    assert blocks_of(follower, Passed()) is None
