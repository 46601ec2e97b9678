"""Tiny random models of every family, written with the libraries' own classes in diffusers' layout. No
downloads.
"""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from peft import LoraConfig, get_peft_model_state_dict

diffusers: Any = importlib.import_module("diffusers")
transformers: Any = importlib.import_module("transformers")
"""Neither library has types that hold."""

HIDDEN = 32
"""Width of every text encoder."""

PATCH = 16
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


def _byte_characters() -> list[str]:
    """The 256 printable characters that byte-level tokenizers write bytes as (Radford et al. 2019, GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in printable] + [chr(256 + place) for place in range(256 - len(printable))]


def clip_tokenizer() -> Any:
    """A byte-level CLIP vocabulary without merges: each byte is a token, within and at the end of a word."""
    characters = _byte_characters()
    words = [*characters, *(f"{character}</w>" for character in characters), *SPECIAL]
    vocabulary = {word: place for place, word in enumerate(words)}
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=16)


def t5_tokenizer() -> Any:
    """A unigram vocabulary of single characters."""
    letters = ["\u2581", *map(chr, range(33, 127))]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), *((letter, -2.0) for letter in letters)]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_encoder(projected: bool) -> Any:
    """CLIP's text tower, 2 layers; with a projection as the second encoder of XL and both of SD3 have."""
    words = 2 * 256 + len(SPECIAL)
    config = transformers.CLIPTextConfig(
        vocab_size=words,
        hidden_size=HIDDEN,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        projection_dim=HIDDEN,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    network = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return network(config).eval()


def t5_encoder() -> Any:
    """T5's encoder, 2 layers."""
    config = transformers.T5Config(
        vocab_size=98, d_model=HIDDEN, d_kv=8, d_ff=37, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    return transformers.T5EncoderModel(config).eval()


def autoencoder(channels: int, scaling: float, shift: float | None) -> Any:
    """Two levels: 2 pixels per latent."""
    return diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64),
        latent_channels=channels,
        layers_per_block=1,
        norm_num_groups=32,
        sample_size=2 * PATCH,
        scaling_factor=scaling,
        shift_factor=shift,
    ).eval()


def conditional_unet(**more: Any) -> Any:
    """Two levels with attention at the lower one."""
    return diffusers.UNet2DConditionModel(
        sample_size=PATCH,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        **more,
    ).eval()


def build_sd1(folder: Path, **unet: Any) -> Path:
    """Stable Diffusion 1: one CLIP encoder, PNDM, epsilon."""
    scheduler = diffusers.PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae=autoencoder(4, 0.18215, None),
        text_encoder=clip_encoder(projected=False),
        tokenizer=clip_tokenizer(),
        unet=conditional_unet(cross_attention_dim=HIDDEN, **unet),
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        image_encoder=None,
        requires_safety_checker=False,
    )
    return _saved(pipeline, folder)


def build_sd2(folder: Path) -> Path:
    """Stable Diffusion 2: as 1, with linear projections and v-prediction."""
    build_sd1(folder, use_linear_projection=True)
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "v_prediction"}))
    return folder


def build_sdxl(folder: Path) -> Path:
    """Stable Diffusion XL: two encoders, pooled text and sizes added to the time embedding, Euler."""
    scheduler = diffusers.EulerDiscreteScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        timestep_spacing="leading",
        steps_offset=1,
    )
    pipeline = diffusers.StableDiffusionXLPipeline(
        vae=autoencoder(4, 0.13025, None),
        text_encoder=clip_encoder(projected=False),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=conditional_unet(
            cross_attention_dim=2 * HIDDEN,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + HIDDEN,
        ),
        scheduler=scheduler,
        add_watermarker=False,
    )
    return _saved(pipeline, folder)


def build_sd3(folder: Path) -> Path:
    """Stable Diffusion 3: MMDiT over 2 x 2 patches, two CLIP encoders and T5, dynamic shifting as in 3.5
    medium.
    """
    pipeline = diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=PATCH,
            patch_size=2,
            in_channels=16,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=2 * HIDDEN,
            caption_projection_dim=32,
            pooled_projection_dim=2 * HIDDEN,
            out_channels=16,
            pos_embed_max_size=16,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=autoencoder(16, 1.5305, 0.0609),
        text_encoder=clip_encoder(projected=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(projected=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=_wide_t5(),
        tokenizer_3=t5_tokenizer(),
    )
    return _saved(pipeline, folder)


def _wide_t5() -> Any:
    """T5 as wide as SD3's joint attention, which both CLIP encoders together must fit in."""
    config = t5_encoder().config
    config.d_model = 2 * HIDDEN
    return transformers.T5EncoderModel(config).eval()


def build_flux(folder: Path, guided: bool = True) -> Path:
    """Flux: dev reads the guidance scale and shifts dynamically, schnell does neither."""
    pipeline = diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=64,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=HIDDEN,
            pooled_projection_dim=HIDDEN,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guided,
        ).eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=guided, shift=3.0 if guided else 1.0
        ),
        vae=autoencoder(16, 0.3611, 0.1159),
        text_encoder=clip_encoder(projected=False),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )
    return _saved(pipeline, folder)


def _saved(pipeline: Any, folder: Path) -> Path:
    """Give all weights a seeded, lively value (some start at zero, which would hide mistakes), then save."""
    generator = torch.Generator().manual_seed(7)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    torch.nn.init.normal_(
                        parameter, std=0.5 / parameter[0].numel() ** 0.5, generator=generator
                    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def build_lora(model: Path, folder: Path, part: str, seed: int = 7) -> Path:
    """A rank-2 update of a network's attention, saved by the pipeline's own method; returns the file."""
    index = json.loads((model / "model_index.json").read_text())
    network = getattr(diffusers, index[part][1]).from_pretrained(model / part)
    network.add_adapter(
        LoraConfig(r=2, lora_alpha=2, init_lora_weights=False, target_modules=["to_q", "to_k"])
    )
    generator = torch.Generator().manual_seed(seed)
    layers = get_peft_model_state_dict(network)
    layers = {name: 0.3 * torch.randn(value.shape, generator=generator) for name, value in layers.items()}
    pipeline = getattr(diffusers, index["_class_name"])
    pipeline.save_lora_weights(folder, **{f"{part}_lora_layers": layers})
    return folder / "pytorch_lora_weights.safetensors"


# --- the original single-file layout of Stable Diffusion 1 --------------------------------------------------

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
UNET_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def build_single_file(model: Path, file: Path, layers: int = 2, levels: int = 2) -> Path:
    """The tiny SD1 of `build_sd1` under the tensor names of the CompVis repository."""
    weights = {}
    for part, name in (("unet", unet_name), ("vae", vae_name), ("text_encoder", text_name)):
        for path in (model / part).glob("*.safetensors"):
            for key, value in safetensors.torch.load_file(path).items():
                weights[name(key, layers, levels)] = value
    safetensors.torch.save_file(weights, file)
    return file


def unet_name(key: str, layers: int, levels: int) -> str:
    """diffusers' name of a UNet tensor -> the original: levels are counted through in one list of blocks."""
    for ours, theirs in UNET_ENDS.items():
        if key.startswith(f"{ours}."):
            return f"model.diffusion_model.{theirs}.{key.removeprefix(f'{ours}.')}"
    if found := re.fullmatch(r"mid_block\.(resnets|attentions)\.(\d+)\.(.*)", key):
        place = 2 * int(found[2]) if found[1] == "resnets" else 1
        return f"model.diffusion_model.middle_block.{place}.{_inner(found[1], found[3])}"
    side, level, kind, number, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", key
    ).groups()
    if side == "down":
        block = 1 + int(level) * (layers + 1) + (layers if kind == "downsamplers" else int(number))
        slot = 1 if kind == "attentions" else 0
        rest = rest.replace("conv", "op") if kind == "downsamplers" else _inner(kind, rest)
        return f"model.diffusion_model.input_blocks.{block}.{slot}.{rest}"
    block = int(level) * (layers + 1) + (layers if kind == "upsamplers" else int(number))
    slot = {"resnets": 0, "attentions": 1, "upsamplers": 2 if level == "0" else 1}[kind]
    return f"model.diffusion_model.output_blocks.{block}.{slot}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    name, _, end = rest.rpartition(".")
    return f"{RESNET[name]}.{end}" if kind == "resnets" else rest


def vae_name(key: str, layers: int, levels: int) -> str:
    """diffusers' name of an autoencoder tensor -> the original: the decoder's levels count backwards."""
    key = re.sub(
        r"(down_blocks|up_blocks)\.(\d+)\.", lambda found: _level(found[1], int(found[2]), levels), key
    )
    key = re.sub(r"resnets\.(\d+)\.", r"block.\1.", key)
    key = key.replace("downsamplers.0.", "downsample.").replace("upsamplers.0.", "upsample.")
    key = re.sub(r"mid_block\.block\.(\d+)\.", lambda found: f"mid.block_{int(found[1]) + 1}.", key)
    key = key.replace("conv_shortcut", "nin_shortcut").replace("conv_norm_out", "norm_out")
    for ours, theirs in ATTENTION.items():
        key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return f"first_stage_model.{key}"


def _level(side: str, level: int, levels: int) -> str:
    return f"down.{level}." if side == "down_blocks" else f"up.{levels - 1 - level}."


def text_name(key: str, layers: int, levels: int) -> str:
    """transformers' name of a CLIP tensor -> the original."""
    return f"cond_stage_model.transformer.text_model.{key.removeprefix('text_model.')}"
