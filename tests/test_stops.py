"""A real Ctrl-C and a real full disk: what is said, and that `resume` ends with the bytes of a run without them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from engine import files_of
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.stops import Stops, check

PROGRAM = [sys.executable, "-m", "cluster.cli"]
PICTURE = ["generate", "desert", "--size", "256x256", "--num-inference-steps", "8", "--block", "64", "--seed", "5",
           "--executor", "in-process", "--device", "cpu"]  # fmt: skip
BEGUN = 3
"""Tasks after which something happens; there are three times as many."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("undisturbed") / "job"
    result = CliRunner().invoke(app, [*PICTURE, "--out", str(out)])
    assert result.exit_code == 0, result.stderr
    return files_of(out)


def tasks_done(folder: Path) -> int:
    ledger = folder / "ledger.jsonl"
    return len(ledger.read_bytes().splitlines()) - 1 if ledger.exists() else 0


def test_after_ctrl_c_the_job_goes_on(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "job"
    running = subprocess.Popen(
        [*PROGRAM, *PICTURE, "--out", str(out)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # of a run in the background it is ignored
    )  # fmt: skip
    try:
        while tasks_done(out) < BEGUN and running.poll() is None:
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said, errors = running.communicate(timeout=120)
    finally:
        running.kill()
    assert running.returncode == 130, errors
    assert said == ""
    assert errors.count("interrupted") == 1, errors
    assert errors.splitlines()[-1].strip() == f"hypermosaic resume {out}"
    assert "Traceback" not in errors
    before = tasks_done(out)
    assert before >= BEGUN
    assert not (out / "image.dzi").exists()
    resumed = CliRunner().invoke(app, ["resume", str(out)])
    assert f"{before} done before" in resumed.stderr
    assert (resumed.exit_code, resumed.stdout.strip()) == (0, str(out / "index.html"))
    assert files_of(out) == undisturbed


FILLED = '''
"""In a mount namespace of its own: a small disk that something else fills while a job runs, and then empties."""
import json, pathlib, subprocess, sys, time

disk, kept, begun, *program = sys.argv[1:]
disk, out = pathlib.Path(disk), pathlib.Path(disk) / "job"
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(disk)], check=True)
print("mounted", flush=True)


def tasks_done():
    ledger = out / "ledger.jsonl"
    return len(ledger.read_bytes().splitlines()) - 1 if ledger.exists() else 0


def fill():
    try:
        with (disk / "filler").open("ab", buffering=0) as filler:
            while True:
                filler.write(bytes(65536))
    except OSError:
        pass


running = subprocess.Popen([*program, "--out", str(out)], stdout=-1, stderr=-1, text=True)
while running.poll() is None:
    if tasks_done() >= int(begun):
        fill()
    time.sleep(0.005)
failed = (running.returncode, *running.communicate())
(disk / "filler").unlink()
resumed = subprocess.run([*program[:3], "resume", str(out)], capture_output=True, text=True)
subprocess.run(["cp", "-r", str(out), kept], check=True)
print(json.dumps({"failed": failed, "resumed": (resumed.returncode, resumed.stdout, resumed.stderr)}))
'''


@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here, to mount a small disk with")
def test_on_a_full_disk_nothing_done_is_lost(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    disk, kept, script = tmp_path / "disk", tmp_path / "kept", tmp_path / "filled.py"
    disk.mkdir()
    script.write_text(FILLED)
    program = [sys.executable, str(script), str(disk), str(kept), str(BEGUN), *PROGRAM, *PICTURE]
    result = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", *program],
        capture_output=True,
        text=True,
        check=False,
    )
    if "mounted" not in result.stdout:
        pytest.skip(f"no small disk can be mounted here: {result.stderr.strip().splitlines()[-1:]}")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout.splitlines()[-1])
    code, said, errors = told["failed"]
    assert (code, said) == (1, ""), errors
    last = errors.splitlines()[-1]
    assert last.startswith("error: the disk is full ("), errors
    assert f"hypermosaic resume {disk / 'job'}" in last
    assert errors.count("disk is full") == 1
    assert "Traceback" not in errors
    assert told["resumed"][0] == 0, told["resumed"]
    assert files_of(kept) == undisturbed


def test_a_signal_whose_exception_a_library_swallowed_is_heard_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As in a destructor: what it raises is printed, and forgotten."""
    stops = Stops(leave=lambda code: None)

    class Freed:
        def __del__(self) -> None:
            stops(signal.SIGTERM)

    check()
    with stops.installed():
        check()
        raised: list[type[BaseException]] = []
        monkeypatch.setattr(sys, "unraisablehook", lambda found: raised.append(found.exc_type))
        Freed()
        assert raised == [KeyboardInterrupt]
        with pytest.raises(KeyboardInterrupt):
            check()
    check()
