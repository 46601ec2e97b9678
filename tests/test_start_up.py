"""How soon the command answers: what it does not import before it must. Modules are counted, not seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands.app import COMMANDS, built
from cluster.commands.helping import first_sentence
from cluster.machine import GPU_DEVICES, count_gpus

SLOW = ("torch", "diffusers", "transformers", "ray", "zarr")
SLOW_FOR_HELP = (*SLOW, "numpy", "pydantic", "yaml", "rich", "tensorstore", "PIL", "importlib.metadata")
CALLED = """
import sys
from cluster.commands.app import app
from cluster.commands.session import Session
try:
    app(sys.argv[1:], obj=Session())
except SystemExit as end:
    print(end.code or 0, *sorted(sys.modules), file=sys.stderr)
"""


def loaded_by(*arguments: str) -> tuple[int, set[str]]:
    """The exit code of a call of the command in a process of its own, and the modules that it has imported."""
    found = subprocess.run(
        [sys.executable, "-c", CALLED, *arguments], capture_output=True, text=True, check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    code, *modules = found.stderr.splitlines()[-1].split()
    return int(code), set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["--version-of-nothing"]])
def test_what_the_command_can_do_is_said_without_any_library(arguments: list[str]) -> None:
    _, modules = loaded_by(*arguments)
    assert "cluster.commands.app" in modules
    assert modules & set(SLOW_FOR_HELP) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "no such class"],
        ["generate", "archipelago", "--sizee", "1024"],
        ["generate", "archipelago", "--overlap", "2"],
        ["generate", "archipelago", "--scheduler", "eulr"],
        ["plan", "desert", "--model", "no/such/folder"],
        ["plan", "forest", "--classes", "none.png"],
    ],
)
def test_a_refusal_waits_for_no_slow_library(arguments: list[str], tmp_path: Path) -> None:
    found, modules = loaded_by(*arguments, "--out", str(tmp_path / "out"))
    assert found == 2
    assert modules & set(SLOW) == set()


@pytest.mark.skipif(
    any(map(os.path.exists, GPU_DEVICES)),
    reason="a driver of GPUs is here, so a plan must ask PyTorch whether it can compute with them",
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "archipelago", "--size", "16384x16384"],
        ["plan", "60% deep ocean, mountains", "--size", "4096"],
        ["plan", "archipelago", "--model", "embedded/fast", "--topology", "torus"],
    ],
)
def test_a_plan_waits_for_no_slow_library(arguments: list[str], tmp_path: Path) -> None:
    found, modules = loaded_by(*arguments, "--out", str(tmp_path / "out"))
    assert found == 0
    assert modules & set(SLOW) == set()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_list_of_commands_says_what_their_own_help_says(name: str) -> None:
    assert first_sentence(built(name).help) == COMMANDS[name][1]


def test_without_a_file_of_a_driver_there_is_no_gpu(tmp_path: Path) -> None:
    assert count_gpus([str(tmp_path / "nvidia0")]) == 0
