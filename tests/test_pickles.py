"""Leave to unpickle is the caller's to give, each time: no file gives it, whoever wrote that file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tiny_class_models
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from cluster import api, batch, generate
from cluster.commands.app import app
from cluster.engine.driver import Interrupted
from cluster.following.events import TaskDone
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from generation.models.errors import ModelError

QUICK = ["--size", "128x96", "--num-inference-steps", "1", "--executor", "in-process", "--device", "cpu"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are pickled."""
    folder = tiny_class_models.build_class_map(tmp_path_factory.mktemp("pickles") / "model")
    safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), safe.with_suffix(".bin"))
    safe.unlink()
    return folder


def spec_of(model: Path, out: Path, **more: Any) -> JobSpec:
    given = {"prompt": "wood", "width": 128, "height": 96, "num_inference_steps": 1, "tile": 64}
    return JobSpec(model=str(model), out=out, device="cpu", executor="in-process", **{**given, **more})


@pytest.fixture
def begun(model: Path, tmp_path: Path) -> Path:
    """The folder of a job that was begun with leave."""

    def stop(event: Any) -> None:
        if isinstance(event, TaskDone):
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        generate(spec_of(model, tmp_path / "job", allow_pickle=True), on_event=stop)
    return tmp_path / "job"


def refused(*arguments: str) -> str:
    """The one line that a command says."""
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 2, done.output
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize("name", ["allow_pickle", "allow-pickle"])
@pytest.mark.parametrize("command", ["generate", "plan"])
def test_a_yaml_spec_gives_no_leave(command: str, name: str, model: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"prompt: wood\nmodel: {model}\n{name}: true\n")
    arguments = [command, *QUICK, "--config", str(spec), "--out", str(tmp_path / "job")]
    assert "asks for allow_pickle, and unpickling can run code" in refused(*arguments)
    assert not (tmp_path / "job").exists()
    done = CliRunner().invoke(app, [*arguments, "--allow-pickle"])
    assert done.exit_code == 0, done.output
    spec.write_text(f"prompt: wood\nmodel: {model}\n{name}: false\n")
    assert "is pickled, and unpickling can run code" in refused(*arguments[:-1], str(tmp_path / "other"))


def test_a_batch_is_given_no_leave_by_its_settings(model: Path, tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text(f"allow_pickle: yes\nmodel: {model}\n")
    arguments = [
        "batch",
        "--n-images",
        "1",
        "--label",
        "wood",
        "--image-size",
        "64",
        *QUICK[2:],
        "--config",
        str(spec),
    ]
    assert "asks for allow_pickle" in refused(*arguments, "--out", str(tmp_path / "set"))


def test_a_batch_that_was_begun_with_leave_needs_it_again(model: Path, tmp_path: Path) -> None:
    """Also where its model needs none: other files could be loaded without it."""
    safe = tiny_class_models.build_class_map(tmp_path / "model")
    rows = [{"id": "a", "prompt": "wood", "seed": 1, "width": 64, "height": 64}]
    settings: dict[str, Any] = {
        "out": tmp_path / "set", "model": str(safe), "num_inference_steps": 1, "executor": "in-process",
        "device": "cpu",
    }  # fmt: skip
    batch(rows, **settings, allow_pickle=True)
    with pytest.raises(SpecError, match="was begun with --allow-pickle.* add it again"):
        batch(rows, **settings, resume=True)
    batch(rows, **settings, resume=True, allow_pickle=True)
    with pytest.raises(ModelError, match="is pickled"):
        batch(rows, **{**settings, "model": str(model), "out": tmp_path / "other"})


def test_a_job_that_was_begun_with_leave_needs_it_again(begun: Path) -> None:
    assert f"{begun} was begun with --allow-pickle, and unpickling can run code" in refused(
        "resume", str(begun)
    )
    with pytest.raises(SpecError, match="add it again to go on"):
        api.resume(begun)
    with pytest.raises(ModelError, match="add --allow-pickle"):
        generate(spec_of(Path(job_file.load(begun).spec.model), begun), resume=True)
    done = CliRunner().invoke(app, ["resume", str(begun), "--allow-pickle"])
    assert done.exit_code == 0, done.output


def test_looking_at_such_a_job_needs_no_leave(begun: Path, tmp_path: Path) -> None:
    """Nothing is unpickled by it."""
    api.resume(begun, allow_pickle=True)
    for command in (
        ["status", str(begun)], ["status", str(begun), "--times", str(tmp_path / "t.png")],
        ["evaluate", "seams", str(begun)], ["export", str(begun), "--out", str(tmp_path / "p.png")],
    ):  # fmt: skip
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output


def test_a_job_yaml_that_somebody_wrote_gives_no_leave(model: Path, begun: Path) -> None:
    path = begun / job_file.NAME
    assert job_file.load(begun).spec.allow_pickle is False and job_file.load(begun).pickled
    for said in ("false", "no"):
        path.write_text(re.sub("allow_pickle: .*", f"allow_pickle: {said}", path.read_text()))
        assert "is pickled, and unpickling can run code" in refused("resume", str(begun))
    document = yaml.safe_load(path.read_text())
    del document["spec"]["allow_pickle"]
    path.write_text(yaml.safe_dump(document))
    assert "is pickled" in refused("resume", str(begun), "--allow-pickle")  # it was not begun so
