"""`train` and its settings: refusals in one line, a run from end to end on a folder, resume, export, Ray Train."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner, Result

from cluster import training
from cluster.commands.app import app
from cluster.commands.training import settled
from generation.training import checkpoints, trainers
from generation.training import denoiser as denoiser_module
from generation.training.config import ConfigError, TrainConfig, read_config, write_config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
TINY: dict[str, Any] = {
    "denoiser": {"steps": 2, "batch": 1, "crop": 64, "widths": [32, 32]},
    "autoencoder": {"steps": 1, "encoder_steps": 1, "batch": 1, "crop": 64, "codec": "tiny"},
}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def one_line(result: Result) -> str:
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four pictures; latents from few crops, and a held-out loss of few."""
    monkeypatch.setattr("generation.training.latents.FIT_CROPS", 20)
    monkeypatch.setattr(denoiser_module, "HELD_OUT_CROPS", 8)
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(4):
        pixels = synthetic.smooth_noise(np.random.default_rng(index), 80 + index, 96)
        Image.fromarray(pixels).save(path / f"{index}.png")
    return path


def config_file(path: Path, **fields: Any) -> Path:
    path.write_text(yaml.safe_dump({**TINY, **fields}), encoding="utf-8")
    return path


# --- settings ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stepz": 1}, "unknown setting stepz"),
        ({"denoiser": {"stps": 1}}, "unknown setting denoiser.stps; did you mean steps?"),
        (
            {"denoiser": {"steps": 0}},
            "denoiser.steps 0 is out of range: it should be greater than or equal to 1",
        ),
        ({"denoiser": {"crop": 100}}, "denoiser.crop 100 is not a multiple of 32, as 2 widths need; try 96"),
        ({"denoiser": {"widths": [10, 20]}}, "each must be a multiple of 32"),
        ({"denoiser": {"learning_rate": "fast"}}, "denoiser.learning_rate 'fast' cannot be used"),
        ({"data": {"folder": "a", "parquet": "b"}}, "both a folder and parquet; give one"),
        ({"data": 5}, "write earth, {folder: PATH} or {parquet: PATH}"),
        ({"classes": ["a"]}, "the Earth's own twelve"),
        ({"data": {"folder": "a"}, "classes": ["a", "a"]}, "two classes have the name 'a'"),
        ({"data": {"folder": "a"}, "classes": [{"name": "a", "colour": "red"}]}, 'write it as "#rrggbb"'),
        ({"precision": "float8"}, "unknown precision 'float8'; choose float32, bfloat16 or float16"),
        ({"precision": "float16", "device": "cpu"}, "precision float16 is for GPUs"),
    ],
)
def test_wrong_settings_say_value_limit_and_what_to_change(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as raised:
        TrainConfig(out="x", **fields)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


def test_settings_survive_their_file(tmp_path: Path) -> None:
    config = TrainConfig(
        out=tmp_path, data="pictures", classes=["sea", "land"], **{"class-map": {"crop": 32}}
    )
    assert TrainConfig(**read_config(write_config(config)), out=tmp_path) == config
    assert config.class_list().names == ("sea", "land")
    earth = TrainConfig(out=tmp_path)
    assert TrainConfig(**read_config(write_config(earth)), out=tmp_path).is_earth


def test_a_path_is_parquet_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    assert TrainConfig(out="x", data=str(tmp_path)).data.parquet == tmp_path
    assert TrainConfig(out="x", data="b.parquet").data.parquet == Path("b.parquet")
    assert TrainConfig(out="x", data="b").data.folder == Path("b")


def test_flags_override_the_file_section_by_section(tmp_path: Path) -> None:
    path = config_file(tmp_path / "c.yaml", seed=3, out="there")
    config = settled(path, {"seed": 4}, "denoiser", {"steps": 9})
    assert (config.seed, config.out, config.denoiser.steps, config.denoiser.crop) == (4, Path("there"), 9, 64)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "denoiser"], "out is missing"),
        (["train", "denoiser", "--out", "r", "--steps", "0"], "denoiser.steps 0"),
        (["train", "denoiser", "--out", "r", "--data", "none"], "none is no folder"),
        (["train", "denoiser", "--config", "none.yaml"], "none.yaml does not exist"),
        (["train", "denoiser", "--config", "list.yaml"], "holds no `name: value` lines"),
        (["train", "autoencoder", "--config", "odd.yaml"], "autoencoder 'much' cannot be used"),
        (["train", "class-map", "--out", "r", "--data", "."], "data: earth only"),
        (["train", "export", "--out", "r"], "first: hypermosaic train denoiser --out r"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(
    arguments: list[str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "odd.yaml").write_text("out: r\nautoencoder: much\n")
    result = call(*arguments, *(["--steps", 1] if "odd.yaml" in arguments else []))
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in one_line(result)


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = call("train", "denoiser", "--out", tmp_path / "r", "--device", "cuda")
    assert result.exit_code == 2
    assert "device cuda needs a GPU" in one_line(result)


# --- runs --------------------------------------------------------------------------------------------------------


def test_two_commands_make_a_model_and_a_second_call_goes_on(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    config = config_file(tmp_path / "c.yaml", data={"folder": str(folder)}, out=str(out))
    for model in ("autoencoder", "denoiser"):
        result = call("train", model, "--config", config)
        assert result.exit_code == 0, result.output
        assert result.stdout.strip() == str(out)
    names = {path.name for path in out.iterdir()}
    assert names >= {"denoiser.pt", "decoder.pt", "encoder.pt", "latents.npz", "train.yaml", "model"}
    assert names >= {"denoiser-loss.png", "decoder-loss.png", "samples-000002.png", "decoder-000001.png"}
    table = json.loads((out / "model" / "classes.json").read_text())
    assert table["classes"] == []
    unet = json.loads((out / "model" / "unet" / "config.json").read_text())
    assert (unet["in_channels"], unet["sample_size"], unet["block_out_channels"]) == (16, 8, [32, 32])

    further = call("train", "denoiser", "--out", out, "--steps", 3)
    assert further.exit_code == 0, further.output
    fields = checkpoints.read(out / "denoiser.pt")
    assert (fields["step"], fields["history"][0]["step"]) == (3, 1)

    other = call("train", "denoiser", "--out", out, "--crop", 128)
    assert other.exit_code == 2
    assert "begun with another denoiser.crop" in one_line(other)

    exported = call("train", "export", "--out", out, "--folder", tmp_path / "model")
    assert (exported.exit_code, exported.stdout.strip()) == (0, str(tmp_path / "model"))


def test_a_run_with_class_maps_is_conditioned_by_them(folder: Path, tmp_path: Path) -> None:
    for index in range(4):
        ids = np.zeros((80 + index, 96), np.uint8)
        ids[:, 40:] = 2
        Image.fromarray(ids).save(folder / f"{index}.classes.png")
    config = config_file(
        tmp_path / "c.yaml", data={"folder": str(folder)}, classes=["a", "b", "c"], out=str(tmp_path / "r")
    )
    result = call("train", "denoiser", "--config", config, "--steps", 1)
    assert result.exit_code == 0, result.output
    weights = checkpoints.read(tmp_path / "r" / "denoiser.pt")["model"]
    assert weights["conv_in.weight"].shape[1] == 16 + 3


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Ctrl-C as at a terminal; a run in the background inherits that it is ignored."""
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, inherited)


@pytest.mark.usefixtures("interruptible")
def test_the_first_ctrl_c_asks_and_the_second_interrupts() -> None:
    with training.asked_to_stop() as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_a_run_that_diverges_is_a_failure(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("generation.training.loop.take_step", lambda *given: float("nan"))
    config = config_file(tmp_path / "c.yaml", data={"folder": str(folder)}, out=str(tmp_path / "r"))
    result = call("train", "denoiser", "--config", config)
    assert result.exit_code == 1
    assert "lower learning_rate" in one_line(result)


# --- several workers ---------------------------------------------------------------------------------------------


def test_more_workers_without_ray_train_say_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray.train", None)
    result = call(
        "train", "denoiser", "--data", folder, "--out", tmp_path / "r", "--crop", 64, "--workers", 2
    )
    assert result.exit_code == 1
    assert "pip install 'ray[train]'" in one_line(result)


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning")
def test_two_workers_train(folder: Path, tmp_path: Path) -> None:
    fields = {"data": {"folder": str(folder)}, "out": str(tmp_path / "r"), "workers": 2, "device": "cpu"}
    config = TrainConfig(**{**TINY, **fields})
    training.train(config, "denoiser")
    assert checkpoints.read(config.out / "denoiser.pt")["step"] == 2
    assert "step 2" in (config.out / training.LOG_NAME).read_text()


def test_every_model_has_a_command() -> None:
    from cluster.commands.training import MODELS

    assert set(MODELS) == set(trainers.TRAINERS)
