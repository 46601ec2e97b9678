"""LoRAs: every tensor is added with its scale, or counted and named; other kinds and families are refused."""

import importlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from families import TOLERANCE, WORDS, noise, predict, squares
from one_patch import job_of
from safetensors.torch import load_file, save_file

from generation.models import lora_fusing, text_unet
from generation.models.contracts import Model
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from generation.models.sources import Lora

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize(
    ("name", "part"), [("sd1", "unet"), ("sdxl", "unet"), ("sd3", "transformer"), ("flux-dev", "transformer")]
)
def test_lora_changes_the_prediction(
    name: str, part: str, folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    file = tiny_models.build_lora(folders[name], tmp_path, part)
    plain = predict(models[name])
    full, half, none = (
        predict(load(str(folders[name]), loras=[f"{file}{end}"])) for end in ("", ":0.5", ":0")
    )
    assert float((full - plain).abs().max()) > 1e-3 and float((full - half).abs().max()) > 1e-4
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-5)


def test_loras_add_up_and_are_described(folders: dict[str, Path], tmp_path: Path) -> None:
    first = tiny_models.build_lora(folders["sd1"], tmp_path / "first", "unet", seed=1)
    second = tiny_models.build_lora(folders["sd1"], tmp_path / "second", "unet", seed=2)
    loras = [f"{first}:0.5", str(second.parent)]
    info = describe(str(folders["sd1"]), loras=loras)
    model = load(str(folders["sd1"]), loras=loras)
    assert model.info == info and info.notes["loras"] == ((str(first), 0.5), (str(second), 1.0))
    assert {str(first), str(second)} <= set(info.files)
    assert isinstance(model.denoiser, text_unet.UNetDenoiser)
    assert not any("lora" in key for key in model.denoiser.unet.state_dict())
    told = model.conditioner_for(WORDS).conditional(squares(1, 16))["prompt_embeds"]
    expected = with_adapters(folders["sd1"], {first: 0.5, second: 1.0})(
        noise(info, 1), 500.0, encoder_hidden_states=told
    ).sample
    torch.testing.assert_close(predict(model), expected, atol=TOLERANCE, rtol=TOLERANCE)


def with_adapters(folder: Path, loras: dict[Path, float]) -> Any:
    """diffusers' UNet with the updates kept apart, as its users would have them."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for place, file in enumerate(loras):
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora{place}")
    pipeline.set_adapters([f"lora{place}" for place in range(len(loras))], list(loras.values()))
    return pipeline.unet.requires_grad_(False)


def test_wrong_loras_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "update.bin").write_bytes(b"x")
    for lora, message in (
        ("nowhere.safetensors:0.5", "unknown LoRA"),
        (f"{tmp_path}/update.bin", "convert it"),
    ):
        with pytest.raises(ModelError, match=message):
            describe(str(folders["sd1"]), loras=[lora])
    file = tiny_models.build_lora(folders["sd1"], tmp_path, "unet")
    with pytest.raises(ModelError, match="takes no LoRA"):
        load(str(folders["class-map"]), loras=[str(file)])


# --- what is added ------------------------------------------------------------------------------------------

Tensors = dict[str, torch.Tensor]
ATTENTION = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
MIDDLE = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"
CONVOLUTION = "down_blocks.0.resnets.1.conv1"
LAYERS = (
    ATTENTION,
    MIDDLE,
    OUT,
    CONVOLUTION,
    "down_blocks.0.downsamplers.0.conv",
    "conv_in",
    "time_embedding.linear_1",
)


def weights_of(pipeline: Any, part: str) -> Tensors:
    return {name: value.clone() for name, value in getattr(pipeline, part).state_dict().items()}


def pair(weight: torch.Tensor, rank: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A and B for a layer's weight; of a convolution with its kernel."""
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, *weight.shape[1:], generator=generator)
    ones = (1,) * (weight.dim() - 2)
    return down, torch.randn(weight.shape[0], rank, *ones, generator=generator)


def kohya(pipeline: Any, layers: Mapping[str, tuple[str, str]]) -> tuple[Tensors, Tensors]:
    """A file's tensors, and what each layer gains: layers of another rank and alpha each."""
    tensors: Tensors = {}
    gains: Tensors = {}
    for number, (name, (part, layer)) in enumerate(layers.items()):
        weight = getattr(pipeline, part).get_submodule(layer).weight
        rank, alpha = 2 + number % 3, float(1 + number)
        down, up = pair(weight, rank, number)
        tensors |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        tensors[f"{name}.alpha"] = torch.tensor(alpha)
        gains[f"{part}.{layer}"] = (alpha / rank * up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
    return tensors, gains


def gained(folder: Path, file: Path, weight: float = 1.0) -> Tensors:
    """What each weight of a pipeline's networks gains by a file, if it gains anything."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    parts = [
        part for part in ("unet", "transformer", "text_encoder", "text_encoder_2") if hasattr(pipeline, part)
    ]
    before = {part: weights_of(pipeline, part) for part in parts}
    lora_fusing.fuse_loras(pipeline, type(pipeline).__name__, [Lora(file, weight)])
    found = {}
    for part in parts:
        for name, value in weights_of(pipeline, part).items():
            if not torch.equal(value, before[part][name]):
                found[f"{part}.{name.removesuffix('.weight')}"] = value - before[part][name]
    return found


def assert_gains(actual: Tensors, expected: Tensors) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, atol=1e-4, rtol=1e-4)


def layers_with_weights(network: Any) -> list[str]:
    """All that a LoRA may be for: linear layers and convolutions."""
    return [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, (torch.nn.Linear, torch.nn.Conv2d))
    ]


@pytest.mark.parametrize("original", [False, True])
def test_kohyas_names_are_all_added_with_their_own_alpha(
    original: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Of every layer of the UNet by either set of names, and of CLIP, whose attention diffusers' reader leaves out."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["sd1"])
    layers = {}
    for layer in layers_with_weights(pipeline.unet):
        name = tiny_models.unet_name(f"{layer}.weight", layers=2, levels=2) if original else f"{layer}.weight"
        short = name.removeprefix("model.diffusion_model.").removesuffix(".weight").replace(".", "_")
        layers[f"lora_unet_{short}"] = ("unet", layer)
    for layer in layers_with_weights(pipeline.text_encoder):
        layers[f"lora_te_text_model_{layer.replace('.', '_')}"] = ("text_encoder", layer)
    tensors, gains = kohya(pipeline, layers)
    save_file(tensors, tmp_path / "kohya.safetensors")
    assert_gains(gained(folders["sd1"], tmp_path / "kohya.safetensors"), gains)
    half = gained(folders["sd1"], tmp_path / "kohya.safetensors", 0.5)
    assert_gains(half, {name: 0.5 * value for name, value in gains.items()})
    notes = describe(str(folders["sd1"]), loras=[str(tmp_path / "kohya.safetensors")]).notes
    assert "unused" not in notes


def test_both_encoders_of_xl_are_reached(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["sdxl"])
    wrapped = "text_model.encoder.layers.1.self_attn.k_proj"
    layers = {
        "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (
            "text_encoder",
            "encoder.layers.0.self_attn.q_proj",
        ),
        "lora_te2_text_model_encoder_layers_1_self_attn_k_proj": ("text_encoder_2", wrapped),
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": ("unet", ATTENTION),
    }
    tensors, gains = kohya(pipeline, layers)
    save_file(tensors, tmp_path / "xl.safetensors")
    assert_gains(gained(folders["sdxl"], tmp_path / "xl.safetensors"), gains)


SPELLINGS = {
    "peft": ("unet.{}.lora_A.weight", "unet.{}.lora_B.weight"),
    "bare": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "trained by peft": ("base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"),
    "diffusers": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_of_dotted_names(spelling: str, folders: dict[str, Path], tmp_path: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders["sd1"] / "unet")
    tensors, gains = {}, {}
    for number, layer in enumerate(LAYERS):
        down, up = pair(unet.get_submodule(layer).weight, 2, number)
        tensors |= {
            name.format(layer): value for name, value in zip(SPELLINGS[spelling], (down, up), strict=True)
        }
        gains[f"unet.{layer}"] = (up.flatten(1) @ down.flatten(1)).reshape(
            unet.get_submodule(layer).weight.shape
        )
    save_file(tensors, tmp_path / "dotted.safetensors")
    assert_gains(gained(folders["sd1"], tmp_path / "dotted.safetensors"), gains)


def test_diffusers_first_names(folders: dict[str, Path], tmp_path: Path) -> None:
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders["sd1"] / "unet")
    tensors, gains = {}, {}
    block = "mid_block.attentions.0.transformer_blocks.0.attn1"
    for first, layer in (("to_q_lora", "to_q"), ("to_out_lora", "to_out.0")):
        down, up = pair(unet.get_submodule(f"{block}.{layer}").weight, 2, len(tensors))
        tensors |= {
            f"unet.{block}.processor.{first}.{side}.weight": x for side, x in (("down", down), ("up", up))
        }
        gains[f"unet.{block}.{layer}"] = up @ down
    save_file(tensors, tmp_path / "first.safetensors")
    assert_gains(gained(folders["sd1"], tmp_path / "first.safetensors"), gains)


def test_what_peft_says_in_the_header_scales(folders: dict[str, Path], tmp_path: Path) -> None:
    """As diffusers loads it, which is the oracle here."""
    from peft import LoraConfig, get_peft_model_state_dict

    settings = dict(r=4, lora_alpha=2, alpha_pattern={"attn2.to_k": 6}, rank_pattern={"attn2.to_q": 2})
    names = ["to_q", "to_k"]
    unet = diffusers.UNet2DConditionModel.from_pretrained(folders["sd1"] / "unet")
    unet.add_adapter(LoraConfig(init_lora_weights=False, target_modules=names, **settings))
    layers = get_peft_model_state_dict(unet)
    told = {**settings, "target_modules": names}
    diffusers.StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=layers, unet_lora_adapter_metadata=told
    )
    file = tmp_path / "pytorch_lora_weights.safetensors"
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folders["sd1"])
    before = weights_of(pipeline, "unet")
    pipeline.load_lora_weights(tmp_path, weight_name=file.name, adapter_name="lora")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    after = weights_of(pipeline, "unet")
    expected = {
        f"unet.{name.removesuffix('.weight')}": value - before[name]
        for name, value in after.items()
        if not torch.equal(value, before[name])
    }
    assert_gains(gained(folders["sd1"], file), expected)


def test_fluxs_other_layout_is_added(folders: dict[str, Path], tmp_path: Path) -> None:
    """Queries, keys and values in one matrix, as kohya trains them."""
    transformer = diffusers.FluxTransformer2DModel.from_pretrained(folders["flux-dev"] / "transformer")
    attention = transformer.transformer_blocks[0].attn
    width = attention.to_q.weight.shape[0]
    down, up = pair(torch.zeros(3 * width, width), 2, 0)
    tensors = {
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": down,
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": up,
        "lora_unet_double_blocks_0_img_attn_qkv.alpha": torch.tensor(1.0),
    }
    save_file(tensors, tmp_path / "flux.safetensors")
    gain = 0.5 * up @ down
    names = [f"transformer.transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")]
    expected = dict(zip(names, gain.chunk(3), strict=True))
    assert_gains(gained(folders["flux-dev"], tmp_path / "flux.safetensors"), expected)


# --- what is not --------------------------------------------------------------------------------------------


def test_tensors_that_are_not_used_are_counted_and_named(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tiny_models.build_lora(folders["sd1"], tmp_path, "unet")
    more = {
        "unet.down_blocks.9.attentions.0.proj_in.lora_A.weight": torch.zeros(2, 4),
        "unet.down_blocks.9.attentions.0.proj_in.lora_B.weight": torch.zeros(4, 2),
        "unet.down_blocks.9.attentions.0.proj_out.lora_magnitude_vector": torch.zeros(4),
        "bundle_emb.word": torch.zeros(4),
    }
    save_file({**load_file(file), **more}, file)
    job_of(folders["sd1"], tmp_path / "out", loras=(str(file),))
    lines = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert len(lines) == 1 and lines[0].startswith(f"{file}: 3 tensors are not used: ")
    assert (
        "down_blocks.9" in lines[0] and "lora_magnitude_vector" in lines[0] and "bundle_emb.word" in lines[0]
    )


def test_a_file_of_which_nothing_is_used_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    names = {"A": torch.zeros(2, 4), "B": torch.zeros(4, 2)}
    file = tmp_path / "other.safetensors"
    save_file(
        {f"unet.down_blocks.9.proj_in.lora_{side}.weight": value for side, value in names.items()}, file
    )
    with pytest.raises(ModelError, match=f"{file} is for another model"):
        describe(str(folders["sd1"]), loras=[str(file)])


def test_matrices_of_another_size_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    names = {"A": torch.zeros(2, 4), "B": torch.zeros(4, 2)}
    file = tmp_path / "other.safetensors"
    save_file({f"unet.{MIDDLE}.lora_{side}.weight": value for side, value in names.items()}, file)
    with pytest.raises(
        ModelError, match=r"is for another model: .* is \(4, 4\), and the model's layer is \(64, 64\)"
    ):
        describe(str(folders["sd1"]), loras=[str(file)])


KINDS: dict[str, tuple[dict[str, tuple[int, ...]], str]] = {
    "another family": (
        {"transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight": (2, 4)},
        "LoRA for Flux, and",
    ),
    "XL": (
        {"lora_unet_down_blocks_1_attn2_to_k.lora_down.weight": (4, 2048)},
        "LoRA for Stable Diffusion XL, whose",
    ),
    "SD2": (
        {f"unet.{ATTENTION}.lora_A.weight": (4, 1024)},
        "LoRA for Stable Diffusion 2, whose words have 1024",
    ),
    "none": ({"diffusion_model.blocks.0.self_attn.q.lora_A.weight": (4, 5)}, "LoRA for none of"),
    "LoHa": ({"lora_unet_x.hada_w1_a": (4, 4)}, "is a LoHa"),
    "LoKr": ({"lora_unet_x.lokr_w1": (4, 4)}, "is a LoKr"),
    "embedding": ({"emb_params": (3, 768)}, "is an embedding"),
    "embeddings of XL": ({"clip_l": (3, 768), "clip_g": (3, 1280)}, "is an embedding"),
    "learned embedding": ({"<cat>": (768,)}, "is an embedding"),
    "VAE": ({"decoder.conv_in.weight": (4, 4, 3, 3)}, "is a VAE, and a LoRA is needed; give it with --vae"),
    "checkpoint": (
        {"model.diffusion_model.input_blocks.0.0.weight": (4, 4, 3, 3)},
        "checkpoint, .* with --model",
    ),
    "ControlNet": ({"controlnet_down_blocks.0.weight": (4, 4)}, "is a ControlNet"),
    "IP-Adapter": (
        {"ip_adapter.1.to_k_ip.weight": (4, 4), "image_proj.proj.weight": (4, 4)},
        "is an IP-Adapter",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_other_kinds_and_families_are_refused_by_name(
    kind: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    shapes, words = KINDS[kind]
    file = tmp_path / "update.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in shapes.items()}, file)
    with pytest.raises(ModelError, match=words) as caught:
        describe(str(folders["sd1"]), loras=[str(file)])
    assert str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_files_that_are_no_safetensors_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    for name, content, words in (
        ("x.gguf", b"GGUF" + bytes(40), "is a GGUF file"),
        ("x.pt", b"PK\x03\x04" + bytes(40), "is a pickled file"),
        ("x.safetensors", b"<html>" + bytes(40), "is a web page"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match=words):
            describe(str(folders["sd1"]), loras=[str(tmp_path / name)])
