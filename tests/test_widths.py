"""What is shown on terminals of 60, 80 and 120 columns: nothing is cut, and nothing goes beyond."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import typer.main
from rich.console import Console

from cluster.commands import doctor, seams
from cluster.commands.app import app
from cluster.commands.looking import headline, picture_of, progress_words
from cluster.commands.making import rows_of, table_of
from cluster.following.events import JobStarted, StageTotal, TaskDone
from cluster.following.progress import Bars, ProgressTally
from cluster.following.status import GroupStatus, Status
from cluster.jobs.report import PlanReport

WIDTHS = [60, 80, 120]


def commands(command: Any, name: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command and group, by the words that call it."""
    yield name
    for word, below in getattr(command, "commands", {}).items():
        yield from commands(below, (*name, word))


ALL = sorted(commands(typer.main.get_command(app)))


def printed(renderable: Any, width: int) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(renderable)
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_help_is_whole(name: tuple[str, ...], width: int, capsys: pytest.CaptureFixture[str]) -> None:
    command: Any = typer.main.get_command(app)
    with pytest.raises(SystemExit) as ended:
        command.main([*name, "--help"], prog_name="hypermosaic", terminal_width=width - 2)
    text = capsys.readouterr().out
    assert ended.value.code == 0
    assert [line for line in text.splitlines() if len(line) > width] == []
    assert not re.search(r"…|<\w+>|\[as before\]| \.$|\w-$", text, re.MULTILINE)
    for word in name:
        command = command.commands[word]
    flags = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}
    assert [flag for flag in flags if not re.search(rf"(?<![\w-]){flag}(?![\w-])", text)] == []


# --- tables ----------------------------------------------------------------------------------------------------------


def seam(ratio: float, error: float) -> Any:
    return SimpleNamespace(ratio=ratio, error=error, pixels=10)


def kinds() -> Any:
    names = {
        "patches of all steps": "seam: edge",
        "output tiles as jpg": "inside",
        "decode tiles, moved": "unclear",
    }
    one, other = seam(1.012, 0.008), seam(117.012, 0.108)
    rows = [
        SimpleNamespace(
            name=name, about="mean of 12 steps", horizontal=one, vertical=other, both=one, worst=other, verdict=verdict,
            is_seam=verdict.startswith("seam"),
        )
        for name, verdict in names.items()
    ]  # fmt: skip
    return SimpleNamespace(rows=rows)


@pytest.mark.parametrize(("width", "header"), [(60, "worst direction"), (80, "horizontal"), (120, "mean of")])
def test_the_table_of_seams(width: int, header: str) -> None:
    console = Console(file=io.StringIO(), width=width)
    text = printed(seams.fitting(kinds(), console), width)
    assert header in text and "…" not in text
    assert "patches of all steps" in text and "117.012 ± 0.108" in text and "seam: edge" in text
    assert max(map(len, text.splitlines())) <= width


def status_of(**fields: Any) -> Status:
    usual = dict(
        folder="out/islands", prompt="archipelago", size=(4096, 4096), state="running",
        groups=(GroupStatus("denoise", 11_999, 12_000), GroupStatus("decode", 0, 144)), seconds=130.0,
        seconds_left=240.0, retried=0, error=None, fingerprint="",
    )  # fmt: skip
    return Status(**{**usual, **fields})


@pytest.mark.parametrize("width", WIDTHS)
def test_status(width: int) -> None:
    text = printed(picture_of(status_of()), width)
    assert "11,999/12,000" in text and "…" not in text
    assert max(map(len, text.splitlines())) <= width


def test_a_finished_job_is_not_so_far() -> None:
    finished = status_of(state="finished", seconds_left=None)
    assert headline(finished) == "archipelago, 4096x4096: finished in 2 min 10 s"
    assert progress_words(status_of()) == "running, 98 %, 2 min 10 s so far, about 4 min 00 s left"


def test_no_more_than_everything_is_done() -> None:
    """A task whose worker was thought dead may be told of twice."""
    tally = ProgressTally()
    tally(JobStarted((StageTotal("denoise 0", 2, 0),), 1))
    for _ in range(3):
        tally(TaskDone(0, "denoise 0", 0, 1.0, 1, "a"))
    assert (tally.groups["denoise"].done, tally.groups["denoise"].total) == (2, 2)


@pytest.mark.parametrize("width", WIDTHS)
def test_bars_leave_room_for_what_the_terminal_echoes(width: int) -> None:
    """^C is two columns; a bar that fills its line would be drawn anew one line below."""
    console = Console(file=io.StringIO(), width=width, force_terminal=True)
    with Bars(console) as bars:
        bars(JobStarted((StageTotal("denoise 0", 20, 3), StageTotal("decode", 1, 0)), 2))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", console.file.getvalue())  # type: ignore[attr-defined]
    plain = re.sub(r"\n+", "\n", text)
    assert "denoise" in plain
    console = Console(file=io.StringIO(), width=width)
    shown = printed(bars._progress.get_renderable(), width)
    assert all(len(line) <= width - 3 for line in shown.splitlines()) and "3/20" in shown


@pytest.mark.parametrize("width", WIDTHS)
def test_plans_and_findings(width: int) -> None:
    report = PlanReport(
        width=16384, height=16384, megapixels=268.4, steps=12, patches=48_000, evaluations=48_000,
        evaluations_exact=False,
        blocks=256, tasks=3_400, workers=2, files=12_000, bytes_by_output={"ome-zarr": 10**9, "deep-zoom": 10**9},
        work_bytes=10**9, disk_peak_bytes=4 * 10**9, task_peak_bytes=10**9, job_peak_bytes=2 * 10**9,
        seconds_per_evaluation=0.25, seconds=7200.0, seconds_range=(7200.0, 9000.0), measured=True, fingerprint="",
    )  # fmt: skip
    text = printed(table_of(report), width)
    assert "…" not in text and all(name.strip() in text for name, _ in rows_of(report))
    found = printed(doctor.table_of([doctor.Finding("embedded model", "missing", "long words " * 30)]), width)
    assert "…" not in found and max(map(len, found.splitlines())) <= width
