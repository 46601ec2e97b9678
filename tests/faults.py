"""Attacks on jobs and batches through the command line, one a row: each ends in the undisturbed bytes, or in a refusal
that changed nothing. Not collected by pytest; `make faults` runs all, in minutes, and fails where a row ends otherwise.

    python tests/faults.py            all of them
    python tests/faults.py WORD ...   those whose names hold one of the words
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from engine import files_of, hash_of
from harm import StopsAfter, cut, empty, flip, remove

from cluster import api
from cluster.engine import continuing
from cluster.engine.driver import Interrupted
from cluster.engine.work import JobWork
from cluster.following.events import unheard
from cluster.spec.fields import JobSpec

PROGRAM = [sys.executable, "-m", "cluster.cli"]
ROOT = Path(__file__).parents[1]
PICTURE = {
    "prompt": "desert", "width": 1024, "height": 768, "num_inference_steps": 6, "block": 64, "seed": 5, "tile": 128,
    "executor": "in-process", "device": "cpu", "workers": 1,
}  # fmt: skip
FLAGS = ["desert", "--size", "1024x768", "--steps", "6", "--block", "64", "--seed", "5", "--tile", "128",
         "--device", "cpu"]  # fmt: skip
HERE = ["--executor", "in-process"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
EARLY, LATE, ALL = 12, 29, -1
"""Tasks after which a job is stopped: while it is denoised, while it is decoded, never."""


class BadEndingError(AssertionError):
    """A row did not end as it should."""


def check(holds: bool, what: str) -> None:
    if not holds:
        raise BadEndingError(what)


# --- jobs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bench:
    """Where the attacks happen: a folder, and in it jobs in several states, of which each attack has copies."""

    root: Path

    def prepare(self) -> None:
        for name, stop in (("early", EARLY), ("late", LATE), ("finished", ALL)):
            job = continuing.prepared(JobSpec(**PICTURE, out=self.root / name), check_fit=False)
            executor = StopsAfter.of(JobWork(job))
            executor.left = stop
            try:
                api.run(job, resume=True, on_event=unheard, make=lambda work, made=executor: made)
            except Interrupted:
                check(stop != ALL, "a job that nobody stopped was interrupted")

    def copy(self, state: str) -> Path:
        out = self.root / "attacked" / state
        shutil.rmtree(out.parent, ignore_errors=True)
        shutil.copytree(self.root / state, out)
        return out

    def check_whole(self, out: Path) -> None:
        check(
            files_of(out) == files_of(self.root / "finished"),
            "the bytes differ from those of an undisturbed run",
        )


def call(*arguments: str | Path, code: int = 0, cwd: Path = ROOT) -> str:
    """What a command said on standard error. It must end with this code, and without a traceback."""
    done = subprocess.run(
        [*PROGRAM, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=ENVIRONMENT,
        check=False,
    )
    check(done.returncode == code, f"exit code {done.returncode} instead of {code}: {done.stderr[-300:]}")
    check("Traceback" not in done.stderr, f"a traceback: {done.stderr[-300:]}")
    return done.stderr


def begun(*arguments: str | Path) -> subprocess.Popen[str]:
    """A command that runs meanwhile."""
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=ENVIRONMENT, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # of a run in the background it is ignored
    )  # fmt: skip


def wait_for(path: Path, lines: int, running: subprocess.Popen[str]) -> None:
    """Until a file has more than so many lines, or the command has ended."""
    while running.poll() is None:
        if path.is_file() and path.read_bytes().count(b"\n") > lines:
            return
        time.sleep(0.01)


def tasks_again(out: Path) -> int:
    """How many tasks were done more than once, by the events of all runs."""
    times: Counter[tuple[int, int]] = Counter()
    for line in (out / "events.jsonl").read_text().splitlines() if (out / "events.jsonl").is_file() else ():
        event = json.loads(line)
        if event["event"] == "TaskDone":
            times[event["stage"], event["block"]] += 1
    return sum(count - 1 for count in times.values())


# --- A. data that is missing or damaged ------------------------------------------------------------------------------


def claim_more(ledger: Path) -> None:
    """The ledger says of tasks that were not done that they were."""
    with ledger.open("a") as file:
        file.writelines(
            json.dumps({"stage": stage, "block": block, "bytes": 1}) + "\n"
            for stage in (3, 5)
            for block in (0, 3)
        )


def keep_three_files(out: Path) -> None:
    for path in out.iterdir():
        if path.name not in ("job.yaml", "ledger.jsonl", "events.jsonl"):
            remove(path)


def harmed(state: str, pattern: str, harm: Callable[[Path], None], bench: Bench) -> str:
    """Damage one file or folder of a job, and go on with it; a flipped bit of a finished one is for `verify`."""
    out = bench.copy(state)
    found = sorted(out.glob(pattern)) if pattern else [out]
    check(bool(found), f"nothing is called {pattern}")
    harm(found[len(found) // 2])
    if state == "finished" and harm is flip:
        call("verify", out, code=1)
        call("verify", out, "--repair")
    else:
        call("resume", out)
    bench.check_whole(out)
    return f"{tasks_again(out)} tasks again"


HARM = [
    ("early", "work/sums-*/c.*", remove), ("early", "work/sums-*/c.*", flip), ("early", "work/state-*/c.*", remove),
    ("early", "work/state-*/c.*", cut), ("early", "work/state-*/zarr.json", empty), ("early", "work/state-*", remove),
    ("early", "work", remove), ("late", "latents.zarr/latents/c.*", remove), ("late", "latents.zarr/latents/c.*", flip),
    ("late", "latents.zarr", remove), ("early", "ledger.jsonl", remove), ("early", "ledger.jsonl", empty),
    ("late", "ledger.jsonl", flip), ("early", "ledger.jsonl", claim_more), ("late", "image.zarr/0/c/0/*/*", flip),
    ("finished", "image.zarr/0/c/0/*/*", remove), ("finished", "image.zarr/0/c/0/*/*", flip),
    ("finished", "image_files/*/*.jpg", empty), ("finished", "image_files/*/*.jpg", flip),
    ("finished", "image.dzi", remove), ("finished", "index.html", cut), ("finished", "latents.zarr/latents/c.*", flip),
    ("finished", "", keep_three_files),
]  # fmt: skip


# --- B. one owner of a folder ----------------------------------------------------------------------------------------


def second_owner(bench: Bench) -> str:
    """While a job runs, another `resume` and another `generate` of it are refused, and change nothing."""
    out = bench.copy("early")
    first = begun("resume", out)
    wait_for(out / "ledger.jsonl", EARLY + 1, first)
    first.send_signal(signal.SIGSTOP)  # so that nothing changes but by the others
    before = hash_of(out)
    said = call("resume", out, code=1)
    call("generate", *FLAGS, *HERE, "--out", out, "--resume", code=1)
    check("belongs to another process" in said, said)
    check(hash_of(out) == before, "the refused drivers changed the folder")
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=300)
    bench.check_whole(out)
    return "refused, unchanged"


def second_batch(bench: Bench) -> str:
    """The same of a batch."""
    out = bench.root / "attacked" / "batch"
    shutil.rmtree(out.parent, ignore_errors=True)
    flags = ["batch", "--n-images", "3", "--label", "forest", "--image-size", "512", "--steps", "6", *HERE]
    first = begun(*flags, "--out", out)
    wait_for(out / "timings.jsonl", -1, first)
    first.send_signal(signal.SIGSTOP)
    before = hash_of(out)
    said = call(*flags, "--out", out, "--resume", code=1)
    check("belongs to another process" in said, said)
    check(hash_of(out) == before, "the refused batch changed the folder")
    first.send_signal(signal.SIGCONT)
    first.communicate(timeout=300)
    call("verify", out)
    return "refused, unchanged"


def killed(bench: Bench) -> str:
    """The driver is killed three times, wherever it is."""
    out = bench.root / "attacked" / "killed"
    shutil.rmtree(out.parent, ignore_errors=True)
    for lines in (3, 17, 30):
        running = begun("generate", *FLAGS, *HERE, "--out", out, "--resume")
        wait_for(out / "ledger.jsonl", lines, running)
        running.kill()
        running.communicate()
    call("resume", out)
    bench.check_whole(out)
    return f"{tasks_again(out)} tasks again"


# --- C. one identity of a job ----------------------------------------------------------------------------------------


def moved(bench: Bench) -> str:
    """A folder is moved, and gone on with from another one, by a path with `..` in it."""
    out = bench.copy("early")
    place = out.parent / "elsewhere" / "deep"
    place.mkdir(parents=True)
    out.rename(place / "job")
    call("resume", "../deep/job", cwd=place)
    bench.check_whole(place / "job")
    return "same bytes"


def class_map_changes(bench: Bench) -> str:
    """A painted class map is written over while the job is stopped: the job goes on with what it was."""
    from PIL import Image

    folder = bench.root / "attacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    wanted = ["generate", "painted", "--size", "1024x768", "--steps", "6", "--block", "64", *HERE]
    for name in ("straight", "changed"):
        Image.new("L", (128, 96), 3).save(folder / f"{name}.png")
    call(*wanted, "--classes", folder / "straight.png", "--out", folder / "straight")
    running = begun(*wanted, "--classes", folder / "changed.png", "--out", folder / "changed")
    wait_for(folder / "changed/ledger.jsonl", 5, running)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=60)
    Image.new("L", (128, 96), 5).save(folder / "changed.png")
    call("resume", folder / "changed")
    same = (
        files_of(folder / "changed")["image.zarr/0/c/0/0/0"]
        == files_of(folder / "straight")["image.zarr/0/c/0/0/0"]
    )
    check(same, "the changed map shows")
    return "same bytes"


def pickles_by_file(bench: Bench) -> str:
    """A YAML file may not allow unpickling."""
    config = bench.root / "spec.yaml"
    config.write_text("prompt: desert\nallow_pickle: true\n")
    out = bench.root / "attacked" / "pickles"
    said = call("generate", "--config", config, "--out", out, code=2)
    check("--allow-pickle" in said and not out.exists(), said)
    return "refused"


# --- D. no silent stall ----------------------------------------------------------------------------------------------


def ended(sent: Sequence[signal.Signals], code: int, executor: Sequence[str], bench: Bench) -> str:
    """Signals end a run as Ctrl-C does, and the job goes on."""
    out = bench.copy("early")
    running = begun("resume", out, *executor)
    wait_for(out / "ledger.jsonl", EARLY + 2, running)
    for one in sent:
        running.send_signal(one)
        time.sleep(0.05)
    _, errors = running.communicate(timeout=120)
    check(running.returncode == code, f"exit code {running.returncode} instead of {code}: {errors[-300:]}")
    check("Traceback" not in errors and "***" not in errors, f"a traceback: {errors[-300:]}")
    check(api.status(out).state == "interrupted", "the status is not interrupted")
    call("resume", out)
    bench.check_whole(out)
    return f"{tasks_again(out)} tasks again"


def closed_pipe(bench: Bench) -> str:
    """Whoever reads the output leaves at once."""
    out = bench.copy("early")
    running = begun("resume", out)
    assert running.stdout is not None and running.stderr is not None
    running.stdout.close()
    running.stderr.close()
    check(running.wait(timeout=300) == 0, f"exit code {running.returncode}")
    bench.check_whole(out)
    return "same bytes"


def worker_killed(bench: Bench) -> str:
    """A worker of Ray's is killed under its task."""
    out = bench.copy("early")
    running = begun("resume", out, "--executor", "ray", "--workers", "2")
    wait_for(out / "ledger.jsonl", EARLY + 2, running)
    last = json.loads((out / "events.jsonl").read_text().splitlines()[-1])
    subprocess.run(["kill", "-9", last["worker"].rpartition(":")[2]], check=True)
    _, errors = running.communicate(timeout=300)
    check(running.returncode == 0, f"exit code {running.returncode}: {errors[-300:]}")
    bench.check_whole(out)
    return f"{tasks_again(out)} tasks again"


TERM, HANGUP, CTRL_C = signal.SIGTERM, signal.SIGHUP, signal.SIGINT
RAY = ["--executor", "ray", "--workers", "2"]
ATTACKS: dict[str, Callable[[Bench], str]] = {
    **{
        f"A {state}: {pattern or 'all but three files'} {harm.__name__}": partial(
            harmed, state, pattern, harm
        )
        for state, pattern, harm in HARM
    },
    "B a second driver": second_owner,
    "B a second batch": second_batch,
    "B the driver is killed, three times": killed,
    "C the folder is moved": moved,
    "C the class map is written over": class_map_changes,
    "C a file allows pickles": pickles_by_file,
    "D SIGTERM": partial(ended, [TERM], 143, HERE),
    "D SIGHUP": partial(ended, [HANGUP], 129, HERE),
    "D SIGTERM on Ray": partial(ended, [TERM], 143, RAY),
    "D Ctrl-C, twice": partial(ended, [CTRL_C, CTRL_C], 130, HERE),
    "D the reader of the output leaves": closed_pipe,
    "D a worker of Ray's is killed": worker_killed,
}


def main(words: Sequence[str]) -> int:
    chosen = {
        name: attack for name, attack in ATTACKS.items() if not words or any(word in name for word in words)
    }
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(Path(scratch))
        bench.prepare()
        for name, attack in chosen.items():
            began = time.monotonic()
            try:
                how = attack(bench)
            except (BadEndingError, OSError, subprocess.SubprocessError) as error:
                failures += 1
                how = f"FAILED: {error}"
            print(f"{name:<58} {how:<24} {time.monotonic() - began:5.1f} s", flush=True)
    print(f"{len(chosen) - failures} passed, {failures} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
