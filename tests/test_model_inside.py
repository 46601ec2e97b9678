"""A model inside another's folder, which borrows the parts that it has not of its own."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import noise

from cluster.spec.choices import resolve
from cluster.spec.fields import JobSpec
from generation.models.contracts import Model
from generation.models.errors import ModelError
from generation.models.loading import describe, load, map_model


@pytest.fixture
def outer(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A class-map model with another inside, which has a network, a scheduler and a table of its own."""
    folder = tmp_path / "model"
    shutil.copytree(folders["class-map"], folder)
    for part in ("unet", "scheduler"):
        shutil.copytree(folder / part, folder / "fast" / part)
    index = json.loads((folder / "model_index.json").read_text())
    write(folder / "fast" / "model_index.json", index | {"_parts_of": ".."})
    table = json.loads((folder / "classes.json").read_text())
    write(folder / "fast" / "classes.json", table | {"method": "hann", "overlap": 0.25})
    return folder


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def test_the_outer_codec_is_borrowed_and_belongs_to_the_identity(
    outer: Path, models: dict[str, Model]
) -> None:
    inside = load(str(outer / "fast"))
    latents = noise(inside.info, 1)
    torch.testing.assert_close(inside.codec.decode(latents), models["class-map"].codec.decode(latents))
    weights = outer / "vae" / "diffusion_pytorch_model.safetensors"
    assert str(weights) in inside.info.files
    assert str(outer / "fast" / "unet" / "config.json") in inside.info.files
    assert str(outer / "unet" / "config.json") not in inside.info.files
    both = [part / "diffusion_pytorch_model.safetensors" for part in (outer / "unet", outer / "vae")]
    assert inside.info.parameters_bytes == sum(path.stat().st_size for path in both)


def test_a_part_that_is_nowhere_is_missed(outer: Path) -> None:
    shutil.rmtree(outer / "vae")
    with pytest.raises(ModelError, match="vae"):
        describe(str(outer / "fast"))


def test_parts_come_from_the_folder_around_alone(outer: Path) -> None:
    index = json.loads((outer / "fast" / "model_index.json").read_text())
    write(outer / "fast" / "model_index.json", index | {"_parts_of": "../../elsewhere"})
    with pytest.raises(ModelError, match="only those of"):
        describe(str(outer / "fast"))


def test_the_outer_map_model_serves_both(outer: Path) -> None:
    assert map_model(str(outer / "fast")) is None
    (outer / "map").mkdir()
    write(outer / "map" / "map.json", {})
    assert map_model(str(outer)) == f"{outer}/map"
    assert map_model(str(outer / "fast")) == f"{outer}/map"
    assert map_model("embedded") == "embedded/map"


def test_its_own_way_of_joining_patches_is_the_default(outer: Path) -> None:
    info = describe(str(outer / "fast"))
    facts: dict[str, Any] = {"prompt": "x", "width": 64, "height": 64, "out": "x", "device": "cpu"}
    unsaid = resolve(JobSpec(**facts), info)
    assert (unsaid.method, unsaid.overlap) == ("hann", 0.25)
    said = resolve(JobSpec(**facts, method="shifted"), info)
    assert said.method == "shifted"
    other = resolve(JobSpec(**facts, overlap=0.5), info)
    assert (other.method, other.overlap) == ("hann", 0.5)
    own = resolve(JobSpec(**facts, method="hann"), info)
    assert (own.method, own.overlap) == ("hann", 0.25)
    assert resolve(unsaid, info) == unsaid
