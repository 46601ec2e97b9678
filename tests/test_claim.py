"""One owner of a folder: whoever comes second is refused, and has changed nothing."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import multiprocessing
import os
import time
from math import inf
from pathlib import Path
from threading import Event, Thread

import pytest
from engine import hash_of, tiny_job, tiny_worker
from harm import go_on

from cluster import api
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.events import unheard
from storage.claim import Claim, is_abandoned


def test_a_second_claim_is_refused_with_the_owner_s_name(tmp_path: Path) -> None:
    with (
        Claim(tmp_path),
        pytest.raises(BlockingIOError, match=rf"pid {os.getpid()} on .*; wait for it to end"),
    ):
        Claim(tmp_path)
    Claim(tmp_path).close()


def test_a_claim_that_is_withdrawn_leaves_nothing(tmp_path: Path) -> None:
    Claim(tmp_path / "new").withdraw()
    assert not (tmp_path / "new").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    Claim(tmp_path / "other").withdraw()
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["file"]


def _hold(folder: Path, begun: object, end: object) -> None:
    with Claim(folder):
        begun.set()
        end.wait(30)


def test_a_claim_goes_with_its_process(tmp_path: Path) -> None:
    """Even when that is killed."""
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, begun, end))
    owner.start()
    assert begun.wait(30)
    with pytest.raises(BlockingIOError, match=f"pid {owner.pid}"):
        Claim(tmp_path)
    owner.kill()
    owner.join()
    Claim(tmp_path).close()


def test_whether_anybody_holds_a_folder_can_be_asked_without_taking_it(tmp_path: Path) -> None:
    """Also just after its owner was killed; and whoever asks is in nobody's way."""
    assert not is_abandoned(tmp_path)  # nobody ever held it
    context = multiprocessing.get_context("spawn")
    begun, end = context.Event(), context.Event()
    owner = context.Process(target=_hold, args=(tmp_path, begun, end))
    owner.start()
    assert begun.wait(30)
    assert not is_abandoned(tmp_path)
    owner.kill()
    owner.join()
    before = (tmp_path / ".lock").read_bytes()
    assert is_abandoned(tmp_path) and (tmp_path / ".lock").read_bytes() == before
    stop = Event()
    asking = Thread(target=_ask_until, args=(tmp_path, stop))
    asking.start()
    for _ in range(300):
        Claim(tmp_path).close()  # is never refused
    stop.set()
    asking.join()


def _ask_until(folder: Path, stop: Event) -> None:
    while not stop.is_set():
        is_abandoned(folder)


@pytest.mark.parametrize("told", [{"host": "elsewhere"}, {"marked": False}, None])
def test_of_a_folder_that_cannot_be_asked_after_nobody_says_that_it_is_abandoned(
    told: dict[str, object] | None, tmp_path: Path
) -> None:
    Claim(tmp_path).close()
    assert is_abandoned(tmp_path)
    lock = tmp_path / ".lock"
    lock.write_text("rot" if told is None else json.dumps(json.loads(lock.read_text()) | told))
    assert not is_abandoned(tmp_path)


def test_a_killed_run_is_interrupted_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last event is just as it would be of one that runs; only its lock is gone."""
    job = tiny_job(tmp_path, monkeypatch)
    go_on(job, stop_after=3)
    events = tmp_path / "events.jsonl"
    *lines, last = events.read_bytes().splitlines(keepends=True)
    assert b"JobInterrupted" in last
    events.write_bytes(b"".join(lines))
    with Claim(tmp_path):
        assert api.status(tmp_path).state == "running"
    assert api.status(tmp_path).state == "interrupted"
    (tmp_path / ".lock").unlink()
    assert api.status(tmp_path).state == "running"  # as far as its events tell
    go_on(job)
    assert api.status(tmp_path).state == "finished"


def test_a_lock_that_its_owner_removed_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody opened the file just before it was withdrawn: the lock on it is worth nothing."""
    first = Claim(tmp_path / "job")
    taken, lock = [], fcntl.flock

    def late(file: object, how: int) -> None:
        if not taken:
            taken.append(file)
            first.withdraw()
            (tmp_path / "job").mkdir(exist_ok=True)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    second = Claim(tmp_path / "job")
    with pytest.raises(BlockingIOError):
        Claim(tmp_path / "job")
    second.close()


def test_a_file_system_without_locks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def without(file: object, how: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", without)
    with caplog.at_level(logging.WARNING):
        Claim(tmp_path).close()
    assert "has no locks" in caplog.text and "make sure that no other process works there" in caplog.text


def test_a_refused_driver_changes_no_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job(tmp_path, monkeypatch)
    refused = []

    class TriedTwice(InProcess):
        """While a task is under way, somebody else wants to run the job."""

        def next(self, patience: float = inf) -> Outcome | None:
            outcome = super().next(patience)
            while any(tmp_path.glob("work/.*")):  # arrays that the driver itself is removing
                time.sleep(0.001)
            before = hash_of(tmp_path)
            with pytest.raises(BlockingIOError, match="belongs to another process"):
                api.run(job, resume=True, on_event=unheard, make=lambda work: TriedTwice(tiny_worker(job)))
            refused.append(hash_of(tmp_path) == before)
            return outcome

    api.run(job, resume=True, on_event=unheard, make=lambda work: TriedTwice(tiny_worker(job), 1))
    assert refused and all(refused)
