"""Single files of consistency models, and what is said where no configuration is found."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import WORDS, assert_near, predict, squares
from one_patch import INDEX, changed, job_of, with_scheduler
from safetensors.torch import load_file, save_file
from tiny_models import build_lora, build_single_file

from cluster.spec.fields import SpecError
from generation.models import completeness, loading, single_file
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from generation.models.sources import TABLES

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

ACCEPTED = "give a folder or hub id in diffusers' layout with --config-from"


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_single_file(folders["sd1"], tmp_path_factory.mktemp("single") / "whole.safetensors")


def consistent(folder: Path, target: Path) -> Path:
    """The same model as one of consistency."""
    changes = with_scheduler("LCMScheduler")
    kind = {"_class_name": "LatentConsistencyModelPipeline"}
    return changed(folder, target, changes | {INDEX: changes[INDEX] | kind})


def test_every_text_family_is_known_everywhere() -> None:
    kinds = set(loading.FAMILIES) - set(TABLES)
    assert set(single_file.FAMILIES) == set(completeness.NEEDED) == kinds


@pytest.mark.parametrize("weights", [True, False])
def test_a_consistency_models_file_has_its_own_encoder(
    weights: bool, whole: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """It is not taken from the folder, and not missed where the folder has none."""
    config = consistent(folders["sd1"], tmp_path / "config")
    encoder = config / "text_encoder" / "model.safetensors"
    if weights:
        save_file({name: -value for name, value in load_file(encoder).items()}, encoder, {"format": "pt"})
    else:
        for file in config.rglob("*.safetensors"):
            file.unlink()
    model = load(str(whole), config=str(config))
    same = load(str(consistent(folders["sd1"], tmp_path / "same")))
    told = [
        each.conditioner_for(WORDS).conditional(squares(1, 16))["prompt_embeds"] for each in (model, same)
    ]
    assert_near(told[0], told[1])
    assert_near(predict(model), predict(same))
    assert str(encoder) not in model.info.files


def test_a_consistency_models_configuration_is_of_one_family(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    xl = tmp_path / "xl.safetensors"
    save_file({"model.diffusion_model.x": torch.zeros(1), "conditioner.embedders.0.x": torch.zeros(1)}, xl)
    config = consistent(folders["sd1"], tmp_path / "config")
    with pytest.raises(ModelError, match="is Stable Diffusion XL, and .* of Stable Diffusion 1 or 2"):
        describe(str(xl), config=str(config))


def test_a_file_of_zero_snr_must_not_predict_epsilon(
    whole: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "z.safetensors"
    save_file({**load_file(whole), "ztsnr": torch.zeros(0)}, file)
    given: dict[str, Any] = {"config_from": str(folders["sd1"]), "scheduler": "ddim"}
    with pytest.raises(SpecError, match=f"zero SNR, at which model '{file}' starts, leaves nothing"):
        job_of(file, tmp_path / "out", **given)
    assert job_of(file, tmp_path / "out", **given, prediction_type="v_prediction")


def test_configurations_that_are_none_are_refused_in_a_line(
    whole: Path, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    lora = build_lora(folders["sd1"], tmp_path, "unet")
    nothing = f"{tmp_path}/nothing here"
    table = folders["class-map"]
    cases = {
        nothing: f"unknown configuration '{nothing}' (no such folder): {ACCEPTED}",
        "tiny/sd1": "unknown configuration 'tiny/sd1' (not in the hub cache; HF_HUB_OFFLINE is set): "
        + ACCEPTED,
        str(lora): f"{lora} is a file, and has no configuration of a model: {ACCEPTED}",
        str(table): f"{table} is the configuration of a class map model, which no such file is: {ACCEPTED}",
        str(
            tmp_path
        ): f"{tmp_path}/model_index.json is missing: the folder is not a model in diffusers' layout",
    }
    pickled = shutil.copy(whole, tmp_path / "whole.ckpt")
    for config, words in cases.items():
        for file in (whole, Path(pickled)):
            with pytest.raises(ModelError) as caught:
                describe(str(file), config=config, allow_pickle=True)
            assert str(caught.value) == words
