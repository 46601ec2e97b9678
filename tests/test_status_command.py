"""`status` where nobody sees a terminal: whole lines, whatever they hold, and a last one that ends."""

from __future__ import annotations

import threading
from pathlib import Path

from growing_job import BLOCKS, GrowingJob
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.following.events import JobFinished, JobInterrupted

LONG = (
    "a folder with a name that is longer than the eighty columns which are taken for a terminal that is none"
)


def test_in_a_pipe_no_value_is_wrapped(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / LONG, prompt="many words " * 30)
    job.tell(JobInterrupted())
    said = CliRunner().invoke(app, ["status", str(job.folder)]).stdout
    assert said.splitlines()[-1] == f"go on with: hypermosaic resume '{job.folder}'"
    assert "256: interrupted, 0 %, 0 s so far" in said.splitlines()[0] and "…" not in said


def test_in_a_pipe_a_job_is_followed_in_lines(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    job.done(0, *range(BLOCKS))
    end = threading.Timer(0.3, job.tell, [JobFinished(12.0)])
    end.start()
    said = CliRunner().invoke(app, ["status", "--watch", str(job.folder)]).stdout
    end.join()
    first, *_, last = said.splitlines()
    assert ": running, " in first and said.endswith("\n")
    assert "\x1b" not in said and said.count(first) == 1
    assert last == f"open {job.folder}/index.html, or: hypermosaic view {job.folder}"


def test_how_to_look_at_a_folder_can_be_typed(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "two words")
    job.done(0, 0)
    assert f"hypermosaic view '{job.folder}'" in CliRunner().invoke(app, ["status", str(job.folder)]).stdout
