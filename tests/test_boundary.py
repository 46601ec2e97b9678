"""What the command line says when something is wrong: one line, once, whatever was wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_class_models import build_class_map
from typer.testing import CliRunner, Result

from cluster.commands import doctor
from cluster.commands.app import app
from cluster.commands.boundary import judged
from cluster.commands.session import Session
from cluster.engine.executors.ray_tokens import what_to_set


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="hypermosaic")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["generate", "desert", "--sede", "3"], ["no such option: --sede", "--seed", "generate --help"]),
        (["genrate", "desert"], ["no such command 'genrate'", "Did you mean 'generate'?"]),
        (["generate", "desert", "--size"], ["--size", "requires an argument"]),
        (["generate", "a", "b"], ["unexpected extra argument", "(b)"]),
        (["resume", "out", "--workers", "x"], ["--workers", "integer"]),
        (["resume"], ["missing argument", "DIR"]),
        (["--foo"], ["no such option: --foo"]),
        (["evaluate", "seams"], ["missing argument", "evaluate seams --help"]),
        (["train", "denoisr"], ["denoisr"]),
    ],
)
def test_wrong_flags_are_one_line_too(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert [word for word in words if word not in line] == []
    assert list(tmp_path.iterdir()) == []


def test_a_full_gpu_is_told_with_what_to_do() -> None:
    full = torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of ..."
    )
    code, message = judged(full, Session())
    assert code == 1 and "--batch-size" in message and len(message.splitlines()) == 1


def test_help_is_help() -> None:
    assert call("generate", "--help").exit_code == 0
    assert "Usage" in call().output
    assert call("--version").stdout.strip()


def test_a_run_that_fails_says_why_once(tmp_path: Path) -> None:
    model = build_class_map(tmp_path / "model")
    weights = model / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file(
        {name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items()},
        weights,
        {"format": "pt"},
    )
    flags = ["--size", "64x64", "--num-inference-steps", "1", "--executor", "in-process", "--device", "cpu"]
    result = call("generate", "sea", "--model", model, *flags, "--out", tmp_path / "out")
    assert (result.exit_code, result.stdout) == (1, "")
    started, line = result.stderr.splitlines()
    assert started.startswith("started: ")
    assert line.startswith("error: the network returned NaN at step 0")
    assert "in block at latent (y 0, x 0)" in line
    assert line.endswith(f"hypermosaic resume {tmp_path / 'out'}")
    assert '"JobFailed"' in (tmp_path / "out" / "events.jsonl").read_text()


# --- doctor ----------------------------------------------------------------------------------------------------------


def found(check: doctor.Check) -> doctor.Finding:
    (finding,) = doctor.examine([check])
    return finding


def test_no_cluster_is_no_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    finding = found(doctor.ray_cluster)
    assert finding.verdict == "ok"
    assert "not set" in finding.text


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1"])
def test_a_cluster_that_nobody_answers_for_is_missing(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    finding = found(doctor.ray_cluster)
    assert (finding.verdict, address in finding.text) == ("missing" if ":" in address else "note", True)


def test_a_port_that_answers_is_all_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{server.getsockname()[1]}")
        finding = found(doctor.ray_cluster)
    assert finding.verdict == "note"
    assert "something answers" in finding.text
    assert "not joined" in finding.text


def test_a_cluster_that_asks_for_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """What to set, by whether a token was to be taken along."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert "asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to" in what_to_set("10.0.0.1:6379")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    assert "refuses the token, or there is none: set RAY_AUTH_TOKEN to" in what_to_set("10.0.0.1:6379")


class Hub:
    """Answers, or does not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def __call__(self, *arguments: object, **more: object) -> None:
        if self.error is not None:
            raise self.error


def test_the_hub_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "ask_hub", Hub())
    assert (found(doctor.hub).verdict, "answers" in found(doctor.hub).text) == ("ok", True)
    monkeypatch.setattr(doctor, "ask_hub", Hub(OSError("no route to host")))
    finding = found(doctor.hub)
    assert finding.verdict == "note"
    assert "does not answer (no route to host)" in finding.text
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "ask_hub", Hub(AssertionError("asked though offline")))
    assert "was not asked" in found(doctor.hub).text


def test_a_hub_that_refuses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    assert found(doctor.hub).verdict == "note"
