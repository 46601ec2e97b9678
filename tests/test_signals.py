"""Signals that end a call, and readers of its output that leave: exit codes, what is said, what goes on."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.commands.boundary import judged
from cluster.commands.session import stoppable_session
from cluster.commands.streams import Forgiving
from cluster.stops import ENDING, Stops, handlers, kept
from cluster.training import asked_to_stop

PROGRAM = [sys.executable, "-m", "cluster.cli"]
PICTURE = ["generate", "desert", "--size", "256x256", "--num-inference-steps", "8", "--block", "64",
           "--executor", "in-process", "--device", "cpu"]  # fmt: skip
REQUESTS = ["batch", "--n-images", "64", "--label", "desert", "--image-size", "64", "--num-inference-steps", "4",
            "--executor", "in-process", "--device", "cpu"]  # fmt: skip


def started(arguments: list[str], **streams: int) -> subprocess.Popen[str]:
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | streams
    return subprocess.Popen(
        [*PROGRAM, *arguments], text=True, stdin=subprocess.DEVNULL, **given,
        preexec_fn=lambda: [signal.signal(number, signal.SIG_DFL) for number in ENDING],
    )  # fmt: skip


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not is_so() and process.poll() is None:
        time.sleep(0.01)


def lines_of(path: Path) -> int:
    return len(path.read_bytes().splitlines()) if path.exists() else 0


# --- whole calls -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
@pytest.mark.parametrize(("arguments", "file"), [(PICTURE, "ledger.jsonl"), (REQUESTS, "timings.jsonl")])
def test_other_signals_end_as_ctrl_c_does(
    arguments: list[str], file: str, number: signal.Signals, code: int, tmp_path: Path
) -> None:
    out = tmp_path / "job"
    running = started([*arguments, "--out", str(out)])
    try:
        wait_until(lambda: lines_of(out / file) >= 2, running)
        running.send_signal(number)
        running.send_signal(number)  # as `timeout` and terminals do
        said, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert (running.returncode, said) == (code, ""), errors
    assert "interrupted; nothing done is lost" in errors and "Traceback" not in errors
    assert (out / "events.jsonl").read_text().splitlines()[-1].count("JobInterrupted") == 1


@pytest.mark.ray
def test_on_ray_nothing_but_the_line_is_said(tmp_path: Path) -> None:
    """Ray has a handler of its own for SIGTERM, and below Python one that prints stacks."""
    out = tmp_path / "job"
    picture = ["generate", "desert", "--size", "512", "--steps", "8", "--block", "64", "--device", "cpu"]
    running = started([*picture, "--workers", "1", "--out", str(out)])
    try:
        wait_until(lambda: lines_of(out / "ledger.jsonl") >= 2, running)
        running.send_signal(signal.SIGTERM)
        said, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert (running.returncode, said) == (143, ""), errors
    passing = r"denoise \d+/\d+ |waiting for "  # of the second a busy machine may tell
    lines = [line for line in errors.splitlines() if not re.match(passing, line)]
    assert [line.partition(" ")[0] for line in lines] == [
        "generating", "starting", "started:", "interrupted;", "",
    ], errors  # fmt: skip
    assert "JobInterrupted" in (out / "events.jsonl").read_text().splitlines()[-1]


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_job_whose_reader_leaves_is_finished(closed: str, tmp_path: Path) -> None:
    out = tmp_path / "job"
    reading, writing = os.pipe()
    running = started([*PICTURE, "--out", str(out)], **{closed: writing})
    os.close(writing)
    os.close(reading)
    said, errors = running.communicate(timeout=120)
    assert running.returncode == 0, errors
    assert "Traceback" not in (errors or "") and "Broken" not in (errors or "")
    assert said is None or said.strip() == str(out / "index.html")
    assert (out / "index.html").is_file()


def test_what_is_left_unread_is_no_error() -> None:
    """As `hypermosaic doctor | head -1`, whose output comes after its reader has left."""
    reading, writing = os.pipe()
    running = started(["generate", "--help"], stdout=writing)
    os.close(writing)
    os.close(reading)
    assert running.communicate(timeout=60)[1] == ""
    assert running.returncode == 0


def test_signals_that_nohup_ignores_are_ignored(tmp_path: Path) -> None:
    program = (
        "import signal, os, time; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from cluster.stops import Stops\n"
        "with Stops(lambda code: None).installed(): os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.1); print('here')"
    )
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "here\n"


@pytest.mark.parametrize("last", [True, False])
def test_a_second_signal_at_the_very_end_does_not_change_how_it_ends(last: bool) -> None:
    """Two Ctrl-C in a row: the second finds a process that has said all and is about to end."""
    program = (
        "import signal, os, sys\n"
        "from cluster.stops import Stops\n"
        "try:\n"
        f"    with Stops(lambda code: None).installed(last={last}): os.kill(os.getpid(), signal.SIGINT)\n"
        "except KeyboardInterrupt: pass\n"
        "os.kill(os.getpid(), signal.SIGINT); sys.exit(130)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (ended.returncode, "KeyboardInterrupt" in ended.stderr) == ((130, False) if last else (-2, True))


def test_what_an_interrupted_import_raises_is_the_interrupt() -> None:
    session = stoppable_session()
    assert session.stops is not None
    with pytest.raises(KeyboardInterrupt):
        session.stops(signal.SIGTERM)
    assert judged(ImportError("initialization failed"), session) == (143, "interrupted")


IMPATIENT = """
import contextlib, os, signal, sys
from cluster.cli import main
class Impatient:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            with contextlib.suppress({caught}):
                os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Impatient())
sys.argv[2:] = ["plan", "desert"]
main()
"""


@pytest.mark.parametrize("module", ["cluster.machine", "typer", "rich.console", "yaml"])
@pytest.mark.parametrize("caught", ["", "KeyboardInterrupt"])
def test_ctrl_c_while_the_commands_are_imported_is_a_line(module: str, caught: str) -> None:
    """caught: by a library that goes on without what it wanted to import."""
    program = [sys.executable, "-c", IMPATIENT.format(caught=caught), module]
    ended = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "interrupted\n")


# --- handlers --------------------------------------------------------------------------------------------------------


def test_the_second_signal_leaves_at_once_unless_it_is_an_echo() -> None:
    left: list[int] = []
    times = iter([10.0, 10.4, 11.5])
    stops = Stops(left.append, clock=lambda: next(times))
    with pytest.raises(KeyboardInterrupt):
        stops(signal.SIGTERM)
    stops(signal.SIGHUP)
    assert (left, stops.first) == ([], signal.SIGTERM)
    stops(signal.SIGINT)
    assert left == [143]


def test_handlers_of_libraries_do_not_outlive_them() -> None:
    before = handlers()
    with kept(signal.SIGTERM):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
    assert handlers() == before


def test_an_exit_by_a_library_s_handler_is_our_interrupt() -> None:
    stops = Stops(lambda code: None)

    def started() -> None:
        with stops.installed(), kept(signal.SIGTERM):
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        started()
    assert stops.first == signal.SIGTERM


@pytest.mark.parametrize("number", ENDING)
def test_training_ends_after_its_step(number: signal.Signals) -> None:
    """The first signal is only remembered; who ends the call is told which it was."""
    stops = Stops(lambda code: None)

    def train() -> None:
        with stops.installed(), asked_to_stop() as stop:
            assert not stop()
            signal.raise_signal(number)
            assert stop() and stops.first is None
            raise KeyboardInterrupt  # of the loop, once it has written its checkpoint

    with pytest.raises(KeyboardInterrupt):
        train()
    assert stops.first == number


# --- streams ---------------------------------------------------------------------------------------------------------


class Full(io.StringIO):
    """A log on a full disk."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_progress_on_a_full_disk_is_no_failure_but_results_are() -> None:
    assert Forgiving(Full(), forgives_all=True).write("12 %") == 4
    with pytest.raises(OSError, match="No space"):
        Forgiving(Full()).write("out/page.html")
