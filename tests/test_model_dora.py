"""DoRA: peft's magnitudes are used as diffusers uses them; those that programs read differently are refused."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from cluster.spec.prediction import correction_facts
from generation.models.errors import ModelError
from generation.models.loading import describe
from generation.models.lora_fusing import fuse_loras
from generation.models.sources import Lora

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

LAYERS = ["to_q", "proj_in", "conv1", "conv_in", "linear_1"]
"""Linear layers and convolutions, with kernels of one and three."""
MIDDLE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def build_dora(model: Path, folder: Path, part: str = "unet", layers: list[str] = LAYERS) -> Path:
    """An update whose magnitudes are not the weights' own, saved by the pipeline's own method; returns the file."""
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline = diffusers.DiffusionPipeline.from_pretrained(model)
    network = getattr(pipeline, part)
    settings = dict(r=2, lora_alpha=3, use_dora=True)
    network.add_adapter(LoraConfig(init_lora_weights=False, target_modules=layers, **settings))
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: 0.3 * torch.randn(value.shape, generator=generator)
        if "magnitude" not in name
        else value * (0.5 + torch.rand(value.shape, generator=generator))
        for name, value in get_peft_model_state_dict(network).items()
    }
    told = {**settings, "target_modules": layers}
    pipeline.save_lora_weights(
        folder, **{f"{part}_lora_layers": tensors, f"{part}_lora_adapter_metadata": told}
    )
    return folder / "pytorch_lora_weights.safetensors"


def state(pipeline: Any, part: str) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in getattr(pipeline, part).state_dict().items()}


def ours(model: Path, file: Path, part: str, weight: float = 1.0) -> dict[str, torch.Tensor]:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(model)
    fuse_loras(pipeline, type(pipeline).__name__, [Lora(file, weight)])
    return state(pipeline, part)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(
    ("name", "part"), [("sd1", "unet"), ("sd3", "transformer"), ("flux-dev", "transformer")]
)
def test_weights_are_those_of_diffusers(
    name: str, part: str, weight: float, folders: dict[str, Path], tmp_path: Path
) -> None:
    layers = LAYERS if part == "unet" else ["to_q", "linear_1"]
    file = build_dora(folders[name], tmp_path, part, layers)
    magnitudes = [tensor for tensor in load_file(file) if "lora_magnitude_vector" in tensor]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders[name])
    plain = state(pipeline, part)
    pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name="dora")
    pipeline.fuse_lora(lora_scale=weight)
    pipeline.unload_lora_weights()
    expected, actual = state(pipeline, part), ours(folders[name], file, part, weight)
    assert actual.keys() == expected.keys()
    assert sum(not torch.equal(actual[key], plain[key]) for key in plain) == len(magnitudes) > 2
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, atol=1e-5, rtol=1e-4, msg=key)
    assert "unused" not in describe(str(folders[name]), loras=[str(file)]).notes


def test_a_job_knows_that_magnitudes_are_used(folders: dict[str, Path], tmp_path: Path) -> None:
    """One that was begun when they were left out must not be gone on with; without them nothing has changed."""
    file = build_dora(folders["sd1"], tmp_path)
    tensors = {name: tensor for name, tensor in load_file(file).items() if "magnitude" not in name}
    save_file(tensors, tmp_path / "plain.safetensors")
    facts = [
        correction_facts(describe(str(folders["sd1"]), loras=loras))
        for loras in ([], [str(tmp_path / "plain.safetensors")], [str(file)])
    ]
    assert [fact.get("loras_fused") for fact in facts] == [None, 2, 3]


def test_each_output_has_its_magnitude(folders: dict[str, Path], tmp_path: Path) -> None:
    """The equation, written out for one layer: m V / |V|, V = W + alpha / r B A."""
    file = build_dora(folders["sd1"], tmp_path)
    tensors = load_file(file)
    down, up = tensors[f"{MIDDLE}.lora_A.weight"], tensors[f"{MIDDLE}.lora_B.weight"]
    name = f"{MIDDLE.removeprefix('unet.')}.weight"
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders["sd1"] / "unet")
    added = unet.state_dict()[name] + 3 / 2 * up @ down
    magnitude = tensors[f"{MIDDLE}.lora_magnitude_vector"]
    expected = magnitude[:, None] * added / added.pow(2).sum(dim=1, keepdim=True).sqrt()
    actual = ours(folders["sd1"], file, "unet")[name]
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(actual.norm(dim=1), magnitude, atol=1e-5, rtol=1e-5)


def changed(file: Path, target: Path, old: str, new: str, length: int | None = None) -> Path:
    """A copy whose magnitudes have another name, or another length."""
    tensors = load_file(file)
    with safe_open(str(file), framework="pt") as opened:
        metadata = opened.metadata()
    found = {
        name.replace(old, new): torch.ones(length) if length is not None and old in name else tensor
        for name, tensor in tensors.items()
    }
    save_file(found, target, metadata=metadata)
    return target


def test_both_of_pefts_names_are_known(folders: dict[str, Path], tmp_path: Path) -> None:
    file = build_dora(folders["sd1"], tmp_path)
    other = changed(
        file, tmp_path / "other.safetensors", "magnitude_vector", "magnitude_vector.default.weight"
    )
    one, two = (ours(folders["sd1"], path, "unet") for path in (file, other))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.parametrize("name", ["sd1", "flux-dev"])
def test_magnitudes_that_programs_read_differently_are_refused(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    part = "unet" if name == "sd1" else "transformer"
    file = build_dora(folders[name], tmp_path, part, ["to_q"])
    other = changed(file, tmp_path / "other.safetensors", "lora_magnitude_vector", "dora_scale")
    with pytest.raises(
        ModelError, match=r"is a DoRA .* dora_scale .*lora_magnitude_vector, is used"
    ) as caught:
        describe(str(folders[name]), loras=[str(other)])
    assert str(caught.value).startswith(str(other)) and "\n" not in str(caught.value)


def test_magnitudes_that_would_be_lost_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    """Queries, keys and values in one matrix, which diffusers splits, and knows no magnitudes beside."""
    layer = "lora_unet_double_blocks_0_img_attn_qkv"
    tensors = {
        f"{layer}.lora_down.weight": torch.ones(2, 64),
        f"{layer}.lora_up.weight": torch.ones(192, 2),
        f"{layer}.alpha": torch.tensor(1.0),
        f"{layer}.lora_magnitude_vector": torch.ones(192),
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    with pytest.raises(ModelError, match=r"flux.safetensors cannot be used as a LoRA: .*magnitude_vector"):
        describe(str(folders["flux-dev"]), loras=[str(tmp_path / "flux.safetensors")])


def test_magnitudes_of_another_size_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    file = build_dora(folders["sd1"], tmp_path, layers=["to_q"])
    other = changed(
        file, tmp_path / "o.safetensors", "lora_magnitude_vector", "lora_magnitude_vector", length=5
    )
    with pytest.raises(
        ModelError, match=r"another model: .* has 5 magnitudes, and the model's layer \d+ outputs"
    ):
        describe(str(folders["sd1"]), loras=[str(other)])
