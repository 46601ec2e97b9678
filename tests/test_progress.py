"""Events and those who listen: the file, the bars, the lines, and the status that is read back from them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from cluster.commands.looking import progress_words
from cluster.following.events import (
    Event,
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    StageTotal,
    TaskDone,
    TaskRetried,
    Waiting,
    WorkersUp,
    as_map,
    waits_alone,
)
from cluster.following.history import Tail
from cluster.following.progress import EVENTS, Bars, JsonLines, ProgressLines, ProgressTally, fan_out
from cluster.following.status import LEDGER, read_status
from cluster.spec import job_file
from cluster.spec.fields import JobSpec
from storage.ledger import Ledger, Written

STAGES = (StageTotal("denoise 0", 3, 0), StageTotal("denoise 1", 3, 0), StageTotal("decode", 2, 0))
STARTED = JobStarted(STAGES, workers=2)


def done(stage: int, block: int, seconds: float = 2.0) -> TaskDone:
    return TaskDone(stage, STAGES[stage].name, block, seconds, 5, "host:1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_denoising_steps_are_one_group() -> None:
    tally = ProgressTally()
    for event in (STARTED, done(0, 0), done(1, 1)):
        tally(event)
    assert [(group.name, group.done, group.total) for group in tally.groups.values()] == [
        ("denoise", 2, 6),
        ("decode", 0, 2),
    ]


def test_the_time_left_follows_the_pace() -> None:
    clock = Clock()
    tally = ProgressTally(clock)
    tally(STARTED)
    assert tally.groups["denoise"].seconds_left() is None
    for block in range(2):
        clock.now += 7.0
        tally(done(0, block, seconds=7.0))
    assert tally.groups["denoise"].seconds_left() == pytest.approx(28.0)


def test_earlier_runs_count() -> None:
    tally = ProgressTally()
    tally(JobStarted((StageTotal("denoise 0", 3, 2), StageTotal("decode", 2, 0)), 1))
    assert tally.groups["denoise"].done == 2


def test_lines_come_every_few_seconds_and_at_the_ends() -> None:
    clock, stream = Clock(), StringIO()
    lines = ProgressLines(stream, seconds_between=5.0, clock=clock)
    lines(STARTED)
    for stage, block in ((0, 0), (0, 1), (0, 2), (1, 0)):
        clock.now += 2.0
        lines(done(stage, block))
    lines(TaskRetried(1, "denoise 1", 1, "the worker died"))
    lines(Waiting("no worker is up: Ray is asked for 4 x 1 CPU, the cluster has 2"))
    lines(JobFinished(65.0))
    assert stream.getvalue().splitlines() == [
        "started: 6 denoise, 2 decode tasks; 2 workers",
        "denoise 3/6 (50 %), about 6 s left",
        "denoise 1, block 1 runs again: the worker died",
        "no worker is up: Ray is asked for 4 x 1 CPU, the cluster has 2",
        "finished in 1 min 05 s",
    ]


def test_what_is_announced_is_what_is_left() -> None:
    """As where tiles were lost: only what makes them again is to be done."""
    stream = StringIO()
    stages = (StageTotal("denoise 0", 6, 6), StageTotal("decode", 8, 3), StageTotal("pyramid 1", 2, 0))
    ProgressLines(stream)(JobStarted(stages, 1))
    ProgressLines(stream)(JobStarted(stages[:1], 2))
    ProgressLines(stream)(JobStarted((*stages[:1], StageTotal("decode", 8, 7)), 2))
    assert stream.getvalue().splitlines() == [
        "started: 5 decode, 2 pyramid tasks, 9 done before; 1 worker",
        "started: no tasks, 6 done before; 2 workers",
        "started: 1 decode task, 13 done before; 2 workers",
    ]


def test_before_anybody_knows_how_long_it_takes_nothing_is_said_of_it() -> None:
    clock, stream = Clock(), StringIO()
    lines = ProgressLines(stream, seconds_between=0.0, clock=clock)
    lines(JobStarted((StageTotal("decode", 1, 0), StageTotal("pyramid 1", 2, 0)), 1))
    lines(TaskDone(0, "decode", 0, 1.0, 1, "a"))
    assert stream.getvalue().splitlines()[1:] == ["pyramid 0/2 (0 %)"]


def test_bars_show_one_row_a_group() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=100, color_system=None)
    with Bars(console) as bars:
        for event in (
            STARTED,
            done(0, 0),
            done(0, 1),
            done(1, 0),
            TaskRetried(1, "denoise 1", 1, "lost [it]"),
            Waiting("waiting for 3 tasks [so long]"),
        ):
            bars(event)
    assert isinstance(console.file, StringIO)
    text = console.file.getvalue()
    assert "denoise" in text
    assert "3/6" in text
    assert "0/2" in text
    assert "lost [it]" in text
    assert "waiting for 3 tasks [so long]" in text


def test_the_file_holds_every_event_and_survives_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "job" / EVENTS
    with JsonLines(path) as log:
        fan_out(log, log)(done(0, 1))
    path.write_text(path.read_text() + '{"event": "TaskDo')
    first, second = (json.loads(line) for line in Tail(path).lines()[1])
    assert first["event"] == second["event"] == "TaskDone"
    assert (first["stage"], first["block"], first["seconds"]) == (0, 1, 2.0)
    assert datetime.fromisoformat(first["time"]).tzinfo is not None


# --- status ----------------------------------------------------------------------------------------------------------


def job_folder(folder: Path, *events: Event) -> Path:
    """A job's folder after these events, with a ledger that agrees."""
    job_file.save(JobSpec(prompt="islands", width=64, height=32, out=folder), "f00d")
    with Ledger(folder / LEDGER, "f00d", [64] * 16) as ledger, JsonLines(folder / EVENTS) as log:
        for event in events:
            log(event)
            if isinstance(event, TaskDone):
                ledger.record(event.stage, event.block, Written(64))
    return folder


def test_the_status_of_a_running_job(tmp_path: Path) -> None:
    status = read_status(job_folder(tmp_path / "job", STARTED, done(0, 0), done(0, 1, seconds=4.0)))
    assert (status.state, status.prompt, status.size) == ("running", "islands", (64, 32))
    assert [(group.name, group.done, group.total) for group in status.groups] == [
        ("denoise", 2, 6),
        ("decode", 0, 2),
    ]
    assert status.share == 0.25
    assert status.seconds_left == pytest.approx((4 + 2) * 3.0 / 2)  # mean of 2 s and 4 s, two workers


def test_the_status_follows_the_number_of_workers(tmp_path: Path) -> None:
    status = read_status(job_folder(tmp_path / "job", STARTED, done(0, 0), done(0, 1, 4.0), WorkersUp(3)))
    assert (STARTED.workers, status.workers) == (2, 3)
    assert status.seconds_left == pytest.approx((4 + 2) * 3.0 / 3)


def test_what_a_job_waits_for_is_told_until_there_is_news(tmp_path: Path) -> None:
    waits = Waiting("waiting for a task that runs for 31 s on host:1")
    folder = job_folder(tmp_path / "job", STARTED, done(0, 0), waits)
    status = read_status(folder)
    assert (status.state, status.waiting, status.retried) == ("running", waits.what, 0)
    assert progress_words(status).endswith(f", {waits.what}")
    assert read_status(folder, now=datetime.now(UTC) + timedelta(minutes=5)).state == "running"
    assert read_status(folder, now=datetime.now(UTC) + timedelta(minutes=15)).state == "silent"
    with JsonLines(folder / EVENTS) as log:
        log(done(0, 1))
    assert read_status(folder).waiting is None
    with JsonLines(folder / EVENTS) as log:
        fan_out(log, log)(waits)
        log(JobInterrupted())
    assert read_status(folder).waiting is None


def test_waits_of_jobs_within_are_heard() -> None:
    """Of the job that invents a map, and of a large picture of a batch."""
    heard: list[Event] = []
    waits = Waiting("waiting")
    for within in (as_map(heard.append), waits_alone(heard.append)):
        within(waits)
        within(WorkersUp(3))
    waits_alone(heard.append)(done(0, 0))
    assert heard == [waits, WorkersUp(3)] * 2


@pytest.mark.parametrize(
    ("last", "state"),
    [(JobFinished(3.0), "finished"), (JobFailed("disk full"), "failed"), (JobInterrupted(), "interrupted")],
)
def test_how_the_last_run_ended(tmp_path: Path, last: Event, state: str) -> None:
    status = read_status(job_folder(tmp_path / "job", STARTED, done(0, 0), last))
    assert status.state == state
    assert status.error == ("disk full" if state == "failed" else None)
    assert status.seconds_left is None


def test_a_job_that_was_begun_again_runs(tmp_path: Path) -> None:
    status = read_status(job_folder(tmp_path / "job", STARTED, JobInterrupted(), STARTED))
    assert status.state == "running"


def test_a_run_that_says_nothing_for_long_is_silent(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", STARTED, done(0, 0))
    assert read_status(folder, now=datetime.now(UTC) + timedelta(minutes=5)).state == "silent"


def test_a_job_before_its_first_event(tmp_path: Path) -> None:
    status = read_status(job_folder(tmp_path / "job"))
    assert (status.state, status.share) == ("not started", 0.0)
