"""What a call says before it has anything to show: at once what begins, then what it waits for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cluster.commands.making import subject, waited_for
from cluster.spec.fields import JobSpec


def spec_of(**fields: object) -> JobSpec:
    return JobSpec(**{"prompt": "desert", "width": 4096, "height": 64, "out": Path("out")} | fields)


@pytest.mark.parametrize(
    ("fields", "address", "line"),
    [
        ({"executor": "in-process"}, "", "loading the model"),
        ({"workers": 1}, "", "starting Ray and 1 worker, which load the model"),
        ({"workers": 8}, "", "starting Ray and 8 workers, which load the model"),
        ({}, "10.0.0.1:6379", "joining the Ray cluster at 10.0.0.1:6379, whose workers load the model"),
    ],
)
def test_what_is_waited_for(
    fields: dict[str, object], address: str, line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address) if address else monkeypatch.delenv(
        "RAY_ADDRESS", raising=False
    )
    assert waited_for(spec_of(**fields)) == line


def test_what_is_made_in_few_words() -> None:
    assert subject(spec_of()) == "'desert', 4,096 x 64 pixels"
    long = subject(spec_of(prompt="a meadow\nof " + "flowers " * 1000))
    assert long.startswith("'a meadow of flowers") and len(long) < 100


@pytest.mark.parametrize(
    ("arguments", "first", "then"),
    [
        (["plan", "desert", "--no-calibrate"], "planning 'desert', 2,048 x 2,048 pixels", ""),
        (
            [
                "generate",
                "desert",
                "--size",
                "64",
                "--steps",
                "1",
                "--executor",
                "in-process",
                "--out",
                "job",
            ],
            "generating 'desert', 64 x 64 pixels, in job: reading the model",
            "loading the model",
        ),
        (
            [
                "batch",
                "-n",
                "1",
                "--label",
                "ice",
                "--size",
                "64",
                "--steps",
                "1",
                "--executor",
                "in-process",
            ],
            "a batch, 1 of 'ice', in out/ice: reading the model and checking all requests",
            "loading the model",
        ),
    ],
)
def test_it_is_said_before_anything_large_is_imported(
    arguments: list[str], first: str, then: str, tmp_path: Path
) -> None:
    """-X importtime prints a line for each module, to the same stream."""
    program = [sys.executable, "-X", "importtime", "-m", "cluster.cli", *arguments]
    result = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path, check=True)
    lines = [line for line in result.stderr.splitlines() if not line.startswith("import time:")]
    assert lines[0] == first
    before = result.stderr.partition(first)[0]
    modules = {line.rpartition("|")[2].strip() for line in before.splitlines()}
    assert not {"torch", "ray", "diffusers", "pyarrow.parquet", "tensorstore"} & modules
    assert not then or then in lines
