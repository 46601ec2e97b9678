"""How far a batch is, from its folder alone: while it runs, after it stopped, and on the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from batches import made
from data_sets import data_set, told
from growing_job import GrowingJob
from tiny_class_models import build_class_map
from typer.testing import CliRunner

import cluster
from cluster.commands.app import app
from cluster.datasets.status import BatchFollower, BatchStatus, read_batch_status
from cluster.following.events import (
    JobFailed,
    JobFinished,
    JobInterrupted,
    JobStarted,
    RowsDone,
    StageTotal,
    TaskDone,
)
from storage.fingerprint import FormatError


def line(folder: Path, event: Any, seconds: float) -> None:
    """An event as it was told at a time."""
    told(folder, event)
    path = folder / "events.jsonl"
    *before, last = path.read_text().splitlines()
    at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    path.write_text("\n".join([*before, json.dumps(json.loads(last) | {"time": at.isoformat()})]) + "\n")


def running(folder: Path) -> Path:
    """30 s of a run by two workers: a large picture in 6 s, then 8 of 20 groups of five, 3 s each."""
    data_set(folder)
    (folder / "events.jsonl").unlink()
    saved = json.loads((folder / "batch.json").read_text()) | {"requests": 101, "shards": 1}
    (folder / "batch.json").write_text(json.dumps(saved))
    stages = StageTotal("giants", 1, 0), StageTotal("draw", 20, 0), StageTotal("shards", 1, 0)
    line(folder, JobStarted(stages, 2), 0)
    line(folder, RowsDone(0, 0, 0, 0), 0)
    line(folder, TaskDone(0, "giants", 0, 6.0, 90, "host:1"), 6)
    line(folder, RowsDone(1, 0, 0, 0), 6)
    for group in range(8):
        line(folder, TaskDone(0, "draw", group, 3.0, 5, "host:1"), 9 + 3 * group)
        line(folder, RowsDone(1 + 5 * (group + 1), 0, 0, 0), 9 + 3 * group)
    return folder


def at(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


def test_a_running_batch_tells_its_pace_and_what_is_left(tmp_path: Path) -> None:
    now = read_batch_status(running(tmp_path / "set"), at(31))
    assert (now.state, now.requests, now.drawn, now.left, now.workers) == ("running", 101, 41, 60, 2)
    assert now.images_per_second == pytest.approx(41 / 30)
    assert now.seconds_left == pytest.approx(
        12 * 3.0 / 2
    )  # 12 groups, two workers; the large picture is done
    assert now.share == pytest.approx(41 / 101)
    assert [(group.name, group.done, group.total) for group in now.groups] == [
        ("giants", 1, 1), ("draw", 8, 20), ("shards", 0, 1),
    ]  # fmt: skip


def test_nobody_knows_how_long_what_has_not_begun_takes(tmp_path: Path) -> None:
    data_set(tmp_path / "set")
    told(tmp_path / "set", JobStarted((StageTotal("draw", 4, 0),), 1), RowsDone(0, 0, 0, 0))
    now = read_batch_status(tmp_path / "set")
    assert (now.state, now.seconds_left, now.images_per_second) == ("running", None, None)


def test_a_batch_that_says_nothing_is_silent_but_not_while_a_large_picture_is_drawn(tmp_path: Path) -> None:
    folder = running(tmp_path / "set")
    assert read_batch_status(folder, at(500)).state == "silent"
    GrowingJob(folder / "work" / "giants" / "00000003").done(0, 0, 1)
    now = read_batch_status(folder, at(500))
    assert (now.state, now.giant) == ("running", pytest.approx(2 / 27))


@pytest.mark.parametrize(
    ("end", "state", "error"),
    [(JobFailed("OSError: full"), "failed", "OSError: full"), (JobInterrupted(), "interrupted", None)],
)
def test_how_it_ended(tmp_path: Path, end: Any, state: str, error: str | None) -> None:
    told(data_set(tmp_path / "set"), end)
    now = read_batch_status(tmp_path / "set")
    assert (now.state, now.error, now.seconds_left) == (state, error, None)
    assert (now.drawn, now.filtered, now.failed, now.shards_done) == (7, 1, 1, 1)


def test_without_events_the_manifests_tell(tmp_path: Path) -> None:
    data_set(tmp_path / "set")
    (tmp_path / "set" / "events.jsonl").unlink()
    now = read_batch_status(tmp_path / "set")
    assert (now.state, now.drawn, now.failed, now.shards_done) == ("not started", 5, 1, 1)
    (tmp_path / "set" / "_SUCCESS").write_text("{}")
    assert read_batch_status(tmp_path / "set").state == "finished"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"requests": "many", "shards": 1, "fingerprint": ""}'])
def test_a_damaged_batch_is_told_in_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "batch.json").write_text(content)
    with pytest.raises(FormatError, match="batch.json is damaged"):
        read_batch_status(tmp_path)
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code != 0 and len(result.stderr.strip().splitlines()) == 1


def test_a_real_batch_is_followed_from_its_first_row_to_its_last(tmp_path: Path) -> None:
    """Every look, at every event, is that of the rows that are there."""
    seen: list[BatchStatus] = []
    out = tmp_path / "set"
    follower = BatchFollower(out)
    rows = [{"id": str(n), "label": "sea", "seed": n, "width": 64, "height": 64} for n in range(9)]
    made(
        build_class_map(tmp_path / "model"), out, rows, batch_size=1,
        on_event=lambda event: seen.append(follower.look()),
    )  # fmt: skip
    drawn = [status.drawn for status in seen]
    assert drawn == sorted(drawn) and drawn[0] == 0 and drawn[-1] == 9 and len(set(drawn)) > 3
    assert {status.state for status in seen[:-1]} == {"running"}
    last = follower.look()
    assert (last.state, last.left, last.shards_done, last.share) == ("finished", 0, 1, 1.0)
    assert last.images_per_second is not None and last.images_per_second == pytest.approx(9 / last.seconds)
    assert last == read_batch_status(out)
    timed = [json.loads(entry) for entry in (out / "timings.jsonl").read_text().splitlines()]
    assert sorted(index for entry in timed for index in entry["rows"] or ()) == list(range(9))


def test_the_command_shows_a_batch(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set")
    shown = CliRunner().invoke(app, ["status", str(folder)])
    assert shown.exit_code == 0
    for words in (
        "running, 75 %",
        "9/12",
        "1/2",
        "7 drawn, 1 left out by the filter, 1 failed, 3 left",
        "2 workers",
    ):
        assert words in " ".join(shown.stdout.split()), shown.stdout
    assert f"hypermosaic view {folder}" in " ".join(shown.stdout.split())
    told(folder, JobFinished(3.0))
    watched = CliRunner().invoke(
        app, ["status", str(folder), "--watch", "--json"]
    )  # ends where there is no more to see
    told_once = json.loads(watched.stdout)
    assert (told_once["state"], told_once["left"], told_once["requests"]) == ("finished", 3, 12)
    refused = CliRunner().invoke(app, ["status", str(folder), "--times", str(tmp_path / "t.png")])
    assert refused.exit_code == 2 and "--times" in refused.stderr


def test_a_batch_without_its_requests_lines_is_no_job(tmp_path: Path) -> None:
    with pytest.raises(cluster.SpecError, match="holds no batch"):
        read_batch_status(tmp_path)
