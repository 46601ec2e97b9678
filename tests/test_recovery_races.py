"""Damage that several tasks find at once, and runs that are stopped in the middle of a recovery."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest
from engine import files_of, tiny_job, tiny_worker
from harm import BEFORE_DECODING, BOTH, WHILE_DENOISING, flip, go_on, one, remove, verdict

from cluster import api
from cluster.engine.closing import LEDGER
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.events import Event, TaskDone, unheard
from cluster.jobs.job import Job


class Scattered(InProcess):
    """Eight tasks under way, which end in a random order; harm is done once, after so many of them."""

    chance = random.Random(0)
    harm: Callable[[], None] = lambda self: None
    after = 30

    def capacity(self, ready: int) -> int:
        return 8

    def next(self, patience: float = inf) -> Outcome | None:
        self.after -= 1
        if self.after == 0:
            self.harm()
        self._waiting.rotate(self.chance.randrange(8))
        return super().next(patience)


def scattered(job: Job, seed: int, harm: Callable[[], None]) -> Counter[tuple[int, int]]:
    """Run a job so; how often each task was done."""
    times: Counter[tuple[int, int]] = Counter()

    def hear(event: Event) -> None:
        if isinstance(event, TaskDone):
            times[event.stage, event.block] += 1

    executor = Scattered(tiny_worker(job), 8)
    executor.chance, executor.harm = random.Random(seed), harm
    api.run(job, resume=True, on_event=hear, make=lambda work: executor)
    return times


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("harm", [flip, remove])
def test_one_damage_that_many_find_is_mended_once(
    harm: Callable[[Path], None], seed: int, tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    """All neighbours that are under way report the same chunk; its maker is done once more."""
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    times = scattered(job, seed, lambda: harm(sorted(tmp_path.glob("work/state-*/c.*"))[-1]))
    assert files_of(tmp_path) == undisturbed
    again = {task: count for task, count in times.items() if count > 1}
    assert set(again.values()) <= {2}
    assert len(again) <= 1 + 9 + 12  # the maker; its neighbours, where their array was freed; theirs


def test_verify_of_a_job_in_the_middle_of_a_recovery_sees_no_damage(tmp_path: Path, monkeypatch) -> None:
    """Stages that were over are begun again for a few tasks alone; the arrays of the others were rightly freed."""
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=BEFORE_DECODING)
    remove(one(tmp_path, "latents.zarr/latents/c.*"))
    assert len(verdict(tmp_path)[2]) == 1
    go_on(job, stop_after=5)  # of the cone of tasks that it takes
    assert verdict(tmp_path)[2] == ()


def test_verify_begins_nothing(tmp_path: Path, monkeypatch) -> None:
    """Of a ledger without a header it says that nothing is done, and leaves it as it is."""
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=WHILE_DENOISING)
    ledger = tmp_path / LEDGER
    for content in (b"rot\n", ledger.read_bytes().replace(job.fingerprint.encode(), b"0" * 64)):
        ledger.write_bytes(content)
        assert verdict(tmp_path) == (False, 0, (LEDGER,))
        assert ledger.read_bytes() == content
    go_on(job)
    assert (tmp_path / "ledger.damaged.jsonl").read_bytes() == content


def test_what_killed_writers_left_is_in_nobodys_way(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch)
    left = job.spec.out / ".job.yaml.0123456789abcdef0123456789abcdef"
    left.parent.mkdir()
    left.write_text("format_ver")
    api.run(job, resume=False, on_event=unheard, make=lambda work: InProcess(tiny_worker(job)))
    assert not left.exists()


def test_a_finished_job_whose_events_cannot_be_read_is_finished(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path, monkeypatch)
    go_on(job)
    (tmp_path / "events.jsonl").write_text('{"event": "TaskDone"}\n')
    assert api.run(job, resume=True, on_event=unheard, make=no_executor).before
    assert api.status(tmp_path).state == "finished"


def test_a_torn_last_event_does_not_swallow_the_next(tmp_path: Path, monkeypatch) -> None:
    """A finished job stays finished whatever its events have lost, and the next event is a line of its own."""
    job = tiny_job(tmp_path, monkeypatch)
    go_on(job)
    events = tmp_path / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-5])
    assert api.status(tmp_path).state == "finished"
    api.run(job, resume=True, on_event=unheard, make=no_executor)
    assert json.loads(events.read_text().splitlines()[-1])["event"] == "JobFinished"


def no_executor(work: object) -> InProcess:
    raise AssertionError("there is nothing to do")
