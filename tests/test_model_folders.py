"""Folders whose weights exist in variants only, or that leave parts out, as diffusers writes and loads them."""

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import WORDS, assert_near, noise, predict
from one_patch import GONE, INDEX, changed

from generation.models.contracts import Model
from generation.models.errors import ModelError
from generation.models.loading import describe, load

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""


def as_variant(folder: Path, part: str, variant: str) -> None:
    """Rename a part's weights: diffusion_pytorch_model.fp16.safetensors."""
    for file in (folder / part).glob("*.safetensors"):
        file.rename(file.with_suffix(f".{variant}.safetensors"))


@pytest.mark.parametrize(
    "variants",
    [
        {"unet": "fp16", "vae": "fp16", "text_encoder": "fp16"},
        {"text_encoder": "fp16"},
        {"vae": "bf16"},
        {"unet": "non_ema", "text_encoder": "fp16"},
    ],
)
def test_folders_of_other_variants_load(
    variants: dict[str, str], folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    folder = changed(folders["sd1"], tmp_path / "model", {})
    for part, variant in variants.items():
        as_variant(folder, part, variant)
    model = load(str(folder))
    assert model.info == describe(str(folder)) and torch.equal(predict(model), predict(models["sd1"]))
    latents = noise(model.info, 1)
    assert torch.equal(model.codec.decode(latents), models["sd1"].codec.decode(latents))
    assert sum(file.endswith(".safetensors") for file in model.info.files) == 3


def test_variants_in_shards_load_as_diffusers_writes_them(
    folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["sd1"])
    pipeline.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="200KB")
    names = [path.name for path in (tmp_path / "model" / "unet").iterdir()]
    assert any("fp16-00002-of-" in name for name in names)
    assert torch.equal(predict(load(str(tmp_path / "model"))), predict(models["sd1"]))


def test_the_plain_weights_are_taken_where_there_are_both(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["sd1"], tmp_path / "model", {})
    plain = folder / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(plain, plain.with_suffix(".fp16.safetensors"))
    assert str(plain) in describe(str(folder)).files


LEFT_OUT: dict[str, dict[str, Any]] = {
    "sd1": {
        "safety_checker": GONE,
        "feature_extractor": GONE,
        "image_encoder": GONE,
        "requires_safety_checker": GONE,
    },
    "sdxl": {"feature_extractor": GONE, "image_encoder": GONE, "force_zeros_for_empty_prompt": GONE},
    "sd3": {"text_encoder_3": [None, None], "tokenizer_3": [None, None]},
    "flux-dev": {"feature_extractor": GONE, "image_encoder": GONE},
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_optional_parts_may_be_left_out(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders[name], tmp_path / "model", {INDEX: LEFT_OUT[name]})
    absent = {part: None for part, value in LEFT_OUT[name].items() if value == [None, None]}
    for part in absent:
        shutil.rmtree(folder / part)
    model = load(str(folder))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder, **absent)
    told = pipeline.encode_prompt(
        *([WORDS.prompt] if name != "sd3" else [WORDS.prompt, None, None]),
        device="cpu", **({"num_images_per_prompt": 1, "do_classifier_free_guidance": False} if name == "sd1" else {}),
    )[0]  # fmt: skip
    conditioner = model.conditioner_for(WORDS)
    torch.testing.assert_close(conditioner.positive["prompt_embeds"], told)  # type: ignore[attr-defined]


def test_parts_that_are_needed_are_missed(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["flux-dev"], tmp_path / "model", {})
    shutil.rmtree(folder / "tokenizer_2")
    with pytest.raises(ModelError, match="tokenizer_2 holds no tokenizer"):
        describe(str(folder))
    shutil.rmtree(folder / "text_encoder_2")
    with pytest.raises(ModelError, match="text_encoder_2 holds no weights"):
        describe(str(folder))
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps({**index, "text_encoder_2": [None, None]}))
    with pytest.raises(ModelError, match=r"has no text_encoder_2: .*model_index.json leaves it out"):
        describe(str(folder))


def test_processors_of_pictures_need_no_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["sd1"], tmp_path / "model", {INDEX: {"image_processor": ["transformers", "X"]}})
    (folder / "image_processor").mkdir()
    (folder / "image_processor" / "preprocessor_config.json").write_text("{}")
    assert describe(str(folder)).family == "stable_diffusion"


@pytest.fixture
def without_vae(folders: dict[str, Path], tmp_path: Path) -> Path:
    """As a pipeline with vae=None is written."""
    folder = changed(folders["sd1"], tmp_path / "model", {INDEX: {"vae": [None, None]}})
    shutil.rmtree(folder / "vae")
    return folder


def test_an_autoencoder_that_is_left_out_is_brought(
    without_vae: Path, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    model = load(str(without_vae), vae=str(folders["sd1"]))
    assert_near(predict(model), predict(models["sd1"]))
    latents = noise(model.info, 1)
    assert_near(model.codec.decode(latents), models["sd1"].codec.decode(latents))
    assert model.info == describe(str(without_vae), vae=str(folders["sd1"]))


def test_an_autoencoder_without_a_configuration_cannot_be_brought(
    without_vae: Path, folders: dict[str, Path]
) -> None:
    """A file alone is configured as the model's own, which is not there."""
    file = folders["sd1"] / "vae" / "diffusion_pytorch_model.safetensors"
    for given in ({}, {"vae": str(file)}):
        with pytest.raises(ModelError) as caught:
            describe(str(without_vae), **given)
        assert str(caught.value) == (
            f"model '{without_vae}' has no vae: {without_vae / INDEX} leaves it out; give an autoencoder with its own "
            "config.json, in a folder or on the hub, with --vae"
        )
