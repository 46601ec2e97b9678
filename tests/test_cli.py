"""The command line: flags and YAML, refusals, exit codes, and one small job from end to end in this process."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster import api
from cluster.commands import doctor, making
from cluster.commands.app import app
from cluster.commands.flags import SpecFlags
from cluster.engine import continuing, driver, supervision
from cluster.following.events import OnEvent
from cluster.jobs.report import Pace
from cluster.spec import job_file
from cluster.spec.defaults import slug
from cluster.spec.fields import JobSpec
from storage.claim import Claim

SMALL = ["--size", "256x256", "--num-inference-steps", "2", "--executor", "in-process", "--device", "cpu"]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


# --- flags -----------------------------------------------------------------------------------------------------------


def test_flags_override_the_file_and_the_file_the_defaults(tmp_path: Path) -> None:
    config = tmp_path / "spec.yaml"
    config.write_text("prompt: desert\nsize: 400x300\nseed: 5\nmethod: hann\nout: from-file\n")
    spec = SpecFlags({"config": config, "seed": "7", "loras": ["a", "b:0.5"]}).spec()
    assert (spec.prompt, spec.width, spec.height, spec.seed, spec.method) == ("desert", 400, 300, 7, "hann")
    assert spec.loras == ("a", "b:0.5")
    assert spec.out == Path("from-file").absolute()
    assert SpecFlags({"config": config, "size": "50x60"}).spec().width == 50


def test_a_prompt_is_enough() -> None:
    spec = SpecFlags({"prompt": "Many Islands, at night!"}).spec()
    assert (spec.width, spec.height, spec.out) == (2048, 2048, Path("out/many-islands-at-night").absolute())
    assert slug("!?") == "picture"


FLAGS = """--out --size --model --lora --method --overlap --scheduler --num-inference-steps --guidance-scale
    --cond-scale --negative-prompt --seed --classes --class-labels --clean-map --topology --dtype --device --executor
    --workers --batch-size --block --output --config --allow-pickle"""


@pytest.mark.parametrize("command", ["generate", "plan"])
def test_help_names_every_flag(command: str) -> None:
    text = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).stdout
    assert [flag for flag in FLAGS.split() if flag not in text] == []


@pytest.mark.parametrize("module", ["cluster.commands.app", "cluster.engine.executors.actor"])
def test_help_and_an_actor_of_ray_begin_without_torch(module: str) -> None:
    program = f"import {module}, sys; print([name for name in ('torch', 'ray', 'diffusers') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate"], "prompt is missing"),
        (["generate", " "], "prompt is empty"),
        (["generate", "desert", "--size", "0x10"], "width 0"),
        (["generate", "desert", "--size", "big"], "WIDTHxHEIGHT"),
        (["generate", "desert", "--overlap", "1"], "overlap"),
        (["generate", "desert", "--method", "mean"], "unknown method"),
        (["generate", "desert", "--scheduler", "eulr"], "unknown scheduler"),
        (["generate", "desert", "--model", "no/such/model"], "unknown model"),
        (["generate", "a teapot"], "teapot"),
        (
            ["generate", "desert", "--config", "none.yaml"],
            "none.yaml does not exist; give a YAML file of settings",
        ),
        (["batch"], "no requests given"),
        (["generate", "desert", "--size", "9999999x9999999"], "1.77 PB"),
        (["generate", "desert", "--classes", "none.png"], "none.png"),
        (["resume", "nowhere"], "job.yaml"),
        (["status", "nowhere"], "job.yaml"),
        (["plan", "desert", "--seed", "x"], "seed 'x'"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in one_line(result)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    result = call("generate", "desert", *SMALL, "--out", tmp_path)
    assert result.exit_code == 2
    assert "other files" in one_line(result)


def test_a_folder_of_another_job_says_how_to_go_on_with_it(tmp_path: Path) -> None:
    out = tmp_path / "two words"
    out.mkdir()
    flags = ["generate", "desert", *SMALL, "--out", out]
    given = {"prompt": "desert", "size": "256", "num_inference_steps": "2"}
    asked = SpecFlags({**given, "executor": "in-process", "device": "cpu"})
    job_file.save(
        continuing.prepared(asked.spec(), check_fit=False).spec.model_copy(update={"out": out}), "another"
    )
    unlike = call(*flags, "--seed", "random", "--resume")
    assert unlike.exit_code == 2
    *_, last = unlike.stderr.splitlines()
    assert "other seed" in last and last.endswith(f"or go on with that one: hypermosaic resume '{out}'")
    alike = call(
        *flags, "--resume"
    )  # but for the files of the model, say, so that it could not be gone on with
    assert "holds another job" in one_line(alike) and "hypermosaic resume" not in alike.stderr


def failing_with(error: BaseException, begun: bool = True) -> Callable[..., Any]:
    def run(
        job: Any, *, resume: bool, on_event: OnEvent, make: Any, thorough: bool, on_begun: Callable[[], None]
    ) -> Any:
        if begun:
            on_begun()
        raise error

    return run


class NumericalError(ArithmeticError):
    """As the engine's."""


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), 1, "disk is full"),
        (NumericalError("NaN at step 3, block 4, patch 5"), 1, "NaN at step 3"),
        (supervision.TaskFailed("denoise 3, block 4: the worker died 4 times"), 1, "worker died"),
        (MemoryError(), 1, "--workers"),
        (driver.Interrupted(), 130, "resume"),
        (KeyboardInterrupt(), 130, "resume"),
        (ZeroDivisionError("a bug"), 1, "a bug"),
        (RuntimeError("another\nbug"), 1, "hypermosaic-"),
    ],
)
def test_failures_say_how_to_go_on(
    error: BaseException, code: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "run", failing_with(error))
    out = tmp_path / "job"
    result = call("generate", "desert", *SMALL, "--out", out)
    assert result.exit_code == code, result.output
    assert words in result.stderr
    assert f"hypermosaic resume {out}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), PermissionError(13, "Permission denied"), MemoryError()]
)
def test_what_never_began_is_not_gone_on_with(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "run", failing_with(error, begun=False))
    result = call("generate", "desert", *SMALL, "--out", tmp_path / "job")
    assert result.exit_code in (1, 130) and result.stderr.strip()
    assert "resume" not in result.stderr and "nothing done is lost" not in result.stderr


def test_a_folder_where_another_process_works_is_only_named(tmp_path: Path) -> None:
    with Claim(tmp_path / "job"):
        result = call("generate", "desert", *SMALL, "--out", tmp_path / "job")
    assert result.exit_code == 1
    assert str(tmp_path / "job") in one_line(result)
    assert "resume" not in result.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    program = [
        "import cluster.api as api, cluster.cli, sys",
        "def run(*a, **k): raise RuntimeError('a bug')",
        "api.run = run",
        f"sys.argv = ['x', 'generate', 'desert', '--debug', '--out', {str(tmp_path / 'j')!r}, *{SMALL!r}]",
        "cluster.cli.main()",
    ]
    found = subprocess.run(
        [sys.executable, "-c", "\n".join(program)], capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "Traceback" in found.stderr


def test_long_jobs_need_a_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr(making, "ASK_BYTES", 1000)
    monkeypatch.setattr(making, "finish", lambda context, job: ran.append(job))
    arguments = ["generate", "desert", *SMALL, "--out", tmp_path / "job"]
    refused = call(*arguments)
    assert refused.exit_code == 2
    assert "--yes" in one_line(refused)
    assert call(*arguments, "--yes").exit_code == 0
    assert len(ran) == 1


# --- commands --------------------------------------------------------------------------------------------------------


def test_a_plan_in_json_and_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    report = json.loads(call("plan", "desert", "--size", "1024x512", "--json").stdout)
    assert (report["width"], report["height"], report["measured"]) == (1024, 512, False)
    assert report["evaluations"] >= report["patches"] > 0
    assert set(report["bytes_by_output"]) == {"ome-zarr", "deep-zoom", "latents"}
    monkeypatch.setattr(api, "measured", lambda job: Pace(0.25, 0.5, measured=True))
    words = call("plan", "desert", "--size", "1024x512", "--calibrate").stdout
    assert "measured: 0.25 s an evaluation" in words
    assert list(tmp_path.iterdir()) == []


def test_a_small_job_from_end_to_end(tmp_path: Path) -> None:
    out = tmp_path / "job"
    made = call("generate", "desert", *SMALL, "--out", out)
    assert made.exit_code == 0, made.stderr
    assert made.stdout.strip() == str(out / "index.html")
    for name in (
        "job.yaml",
        "latents.zarr",
        "image.zarr",
        "index.html",
        "image.dzi",
        "events.jsonl",
        "ledger.jsonl",
    ):
        assert (out / name).exists(), name
    document = yaml.safe_load((out / "job.yaml").read_text())
    assert document["spec"]["num_inference_steps"] == 2
    assert len(document["fingerprint"]) == 64

    state = json.loads(call("status", out, "--json").stdout)
    assert (state["state"], state["share"]) == ("finished", 1.0)
    assert "finished" in call("status", out, "--watch").stdout

    before = (out / "events.jsonl").read_bytes()
    again = call("generate", "desert", *SMALL, "--out", out)
    assert again.exit_code == 2
    assert "--resume" in one_line(again)
    other = call("generate", "desert", *SMALL, "--seed", "3", "--out", out, "--resume")
    assert other.exit_code == 2
    assert "another job" in one_line(other)
    assert "seed" in one_line(other)
    for arguments in (
        ["generate", "desert", *SMALL, "--out", out, "--resume", "--block", "32"],
        ["resume", out],
    ):
        finished = call(*arguments)
        assert finished.exit_code == 0, finished.stderr
        assert finished.stdout.strip() == str(out / "index.html")
    assert (out / "events.jsonl").read_bytes() == before


def test_an_interrupted_job_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "job"

    def stop(event: Any) -> None:
        if type(event).__name__ == "TaskDone":
            raise KeyboardInterrupt

    spec = JobSpec(
        prompt="desert",
        width=256,
        height=256,
        num_inference_steps=2,
        executor="in-process",
        device="cpu",
        out=out,
    )
    with pytest.raises(driver.Interrupted):
        api.generate(spec, on_event=stop)
    assert api.status(out).state == "interrupted"
    heard: list[Any] = []
    result = api.resume(out, on_event=heard.append)
    assert result.page.is_file()
    assert sum(stage.done for stage in heard[0].stages) == 1
    assert api.status(out).state == "finished"


def test_doctor_tells_what_is_missing() -> None:
    def broken() -> list[doctor.Finding]:
        raise OSError("no such thing")

    findings = list(doctor.examine([doctor.python, broken]))
    assert [finding.verdict for finding in findings] == ["ok", "missing"]


def test_doctor_on_this_machine() -> None:
    result = call("doctor", "--json")
    findings = {finding["name"]: finding["verdict"] for finding in json.loads(result.stdout)}
    assert findings["torch"] == findings["embedded model"] == "ok"
    assert result.exit_code == (1 if "missing" in findings.values() else 0)
