"""Names that people bring from elsewhere, two ways to say a size, seeds that are drawn, and questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner, Result

from cluster.commands import batching
from cluster.commands.app import app
from cluster.commands.flags import SpecFlags
from cluster.datasets.entry import make_batch, table_of
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.job_file import read_fields, sides
from storage.fingerprint import FormatError

CHEAP = ["--device", "cpu", "--executor", "in-process"]
REQUESTS = ["batch", "--label", "desert", "--image-size", "64", "--steps", "1", *CHEAP]


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("size", "found"),
    [
        ("2048", (2048, 2048)), (2048, (2048, 2048)), ("300x200", (300, 200)), (" 300 X 200 ", (300, 200)),
        ("300×200", (300, 200)), ("-4", (-4, -4)),
    ],
)  # fmt: skip
def test_sizes(size: object, found: tuple[int, int]) -> None:
    assert tuple(sides(size).values()) == found
    assert sides(None) == {}


@pytest.mark.parametrize("size", ["big", "1.5", "10x", "x10", True, "1x2x3", "9" * 5000, [1, 2]])
def test_what_is_no_size(size: object) -> None:
    with pytest.raises(
        SpecError, match="is neither a side nor WIDTHxHEIGHT in pixels; write it like 2048"
    ) as refused:
        sides(size)
    assert len(str(refused.value)) < 150


def test_flags_by_other_names(tmp_path: Path) -> None:
    flags = [
        "--steps",
        "2",
        "--cfg-scale",
        "3",
        "--sampler",
        "euler",
        "--width",
        "256",
        "--height",
        "128",
        *CHEAP,
    ]
    made = call("generate", "desert", *flags, "--seed", "random", "-o", tmp_path / "job")
    assert made.exit_code == 0, made.stderr
    saved = yaml.safe_load((tmp_path / "job" / "job.yaml").read_text())["spec"]
    assert (saved["num_inference_steps"], saved["guidance_scale"], saved["scheduler"]) == (2, 3.0, "euler")
    assert (saved["width"], saved["height"]) == (256, 128)
    assert f"seed {saved['seed']}" in made.stderr.splitlines()


def test_settings_by_other_names(tmp_path: Path) -> None:
    text = "prompt: desert\nsteps: 2\ncfg-scale: 3\nsampler: euler\nsize: 512\nseed: Random\n"
    fields = read_fields(written(tmp_path / "spec.yaml", text))
    assert fields == {
        "prompt": "desert", "num_inference_steps": 2, "guidance_scale": 3, "scheduler": "euler",
        "width": 512, "height": 512, "seed": "Random",
    }  # fmt: skip
    spec = SpecFlags({"config": tmp_path / "spec.yaml", "num_inference_steps": "5", "height": "64"}).spec()
    assert (spec.num_inference_steps, spec.width, spec.height) == (5, 512, 64)
    assert spec.seed != SpecFlags({"config": tmp_path / "spec.yaml"}).spec().seed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("steps: 1\nnum_inference_steps: 2", "steps and num_inference_steps are the same; leave one out"),
        ("size: 64\nwidth: 3", "size 64 and width both say how large the picture is; give one"),
        ("size: 64x64\nwidth: 3\nheight: 3", "size 64x64 and height and width both say"),
    ],
)
def test_contradictions_in_files(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as refused:
        read_fields(written(tmp_path / "spec.yaml", text))
    assert words in str(refused.value) and "spec.yaml" in str(refused.value)


@pytest.mark.parametrize(
    "command", [["plan", "desert"], ["generate", "desert"], ["batch", "-n", "2", "--label", "ice"]]
)
def test_contradictions_in_flags(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = call(*command, "--size", "64", "--width", "64")
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert refused.stderr == "error: size 64 and width both say how large the picture is; give one\n"
    alone = call(*command, "--width", "64")
    assert alone.exit_code == 2 and "height" in alone.stderr


def test_a_batch_by_other_names(tmp_path: Path) -> None:
    made = call(
        *REQUESTS,
        "-n",
        "2",
        "--cfg-scale",
        "1",
        "--sampler",
        "ddim",
        "--seed",
        "random",
        "-o",
        tmp_path / "b",
    )
    assert made.exit_code == 0, made.stderr
    saved = json.loads((tmp_path / "b" / "batch.json").read_text())["settings"]
    assert saved["scheduler"] == "ddim"
    seeds = [row["seed"] for row in pq.read_table(tmp_path / "b" / "data").to_pylist()]
    assert sorted(seeds) == [seeds[0], seeds[0] + 1]
    assert f"seed {seeds[0]}" in made.stderr.splitlines()


def test_a_batch_of_another_seed_tells_it(tmp_path: Path) -> None:
    """As one that was begun with a seed that was drawn, and now draws another."""

    def interrupted(spec: JobSpec) -> None:
        raise KeyboardInterrupt

    fields = {"prompt": "ice", "width": 64, "height": 64, "num_inference_steps": 1, "out": tmp_path / "b",
              "executor": "in-process", "device": "cpu"}  # fmt: skip
    with pytest.raises(KeyboardInterrupt):
        make_batch(table_of(None, 2), {**fields, "seed": 7}, on_claimed=interrupted)
    with pytest.raises(FormatError, match="the seed 7, not 8: was it begun with --seed 7"):
        make_batch(table_of(None, 2), {**fields, "seed": 8}, resume=True)
    with pytest.raises(FormatError, match="or version.; choose"):
        make_batch(table_of(None, 3), {**fields, "seed": 7}, resume=True)


def test_large_batches_need_a_yes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "ASK_BYTES", 1000)
    refused = call(*REQUESTS, "-n", "2", "--out", tmp_path / "b")
    assert refused.exit_code == 2
    assert "needs a yes: add --yes" in refused.stderr
    assert not (tmp_path / "b").exists()
    assert call(*REQUESTS, "-n", "2", "--out", tmp_path / "b", "--yes").exit_code == 0


@pytest.mark.parametrize(
    "command",
    [["generate"], ["batch"], ["resume"], ["export"], ["train", "denoiser"], ["train", "autoencoder"]],
)
def test_whatever_makes_something_takes_a_yes(command: list[str]) -> None:
    text: Any = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "120"}).stdout
    assert "--yes" in text
