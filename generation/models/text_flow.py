"""Stable Diffusion 3 and Flux: transformers that predict the velocity of a rectified flow.

    x_t = (1 - t) x_0 + t e,    v = e - x_0        (Esser et al. 2024, arXiv 2403.03206)

Their schedulers are diffusers' FlowMatch*. Where these shift their noise levels with the picture's size
("dynamic shifting"), that size is the native patch's, which is all the network sees: ModelInfo.notes["mu"].
Imports torch only to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generation.models.completeness import check_latents
from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.corrections import Correction, completed, corrections_note
from generation.models.embedded import AutoencoderCodec, codec_facts, ready, side
from generation.models.lora import check_lora
from generation.models.pipelines import Ends, PromptConditioner, open_pipeline, with_encoders
from generation.models.scheduling import scheduler_settings
from generation.models.sources import Source

if TYPE_CHECKING:
    import torch

HALF = "bfloat16"
"""It has the range of float32; numbers within T5 and Flux can leave that of float16."""
FLUX_PATCH = 128
"""Flux has no sample_size in its configuration; this is the pipeline's `default_sample_size`."""
FLUX_CHANNELS = 64
"""Of a token that Flux reads: 16 channels of 2 x 2 latents."""

TRAINING_STEPS = 1000


def describe(source: Source) -> ModelInfo:
    """Facts from the configuration."""
    flux = source.kind == "FluxPipeline"
    network = "FluxTransformer2DModel" if flux else "SD3Transformer2DModel"
    for lora in source.loras:
        check_lora(lora, "flux" if flux else "stable_diffusion_3", words=None)
    scheduler, fixes = scheduler_settings(source)
    facts = _flux_facts if flux else _sd3_facts
    return facts(source, completed(network, source.config("transformer")), scheduler, fixes)


def _sd3_facts(
    source: Source,
    transformer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    fixes: tuple[Correction, ...],
) -> ModelInfo:
    patch, multiple = side(transformer["sample_size"]), int(transformer["patch_size"])
    notes = _shift_note(scheduler, (patch // multiple) ** 2, max_shift=1.16)
    return ModelInfo(
        family="stable_diffusion_3",
        patch=patch,
        multiple=multiple,
        guidance_scale=7.0,
        num_inference_steps=28,
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        notes={"half": HALF, **notes, **corrections_note(*fixes)},
        **_latents_of(source, transformer["in_channels"]),
    )


def _flux_facts(
    source: Source,
    transformer: Mapping[str, Any],
    scheduler: Mapping[str, Any],
    fixes: tuple[Correction, ...],
) -> ModelInfo:
    """FLUX.1-dev reads the guidance scale; schnell was distilled further, to 4 steps without any."""
    dev = bool(transformer["guidance_embeds"])
    patch = side(transformer.get("sample_size", FLUX_PATCH))
    notes = _shift_note(scheduler, (patch // 2) ** 2, max_shift=1.15) | corrections_note(*fixes)
    return ModelInfo(
        family="flux",
        patch=patch,
        multiple=2,
        guidance_scale=3.5 if dev else 0.0,
        num_inference_steps=28 if dev else 4,
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        notes={"distilled_guidance": True, "linear_sigmas": True, "half": HALF, **notes},
        **_latents_of(source, transformer["in_channels"] // 4),
    )


def _latents_of(source: Source, channels: int) -> dict[str, Any]:
    codec = codec_facts(source.config("vae"))
    check_latents(source, "transformer", channels, codec["latent_channels"])
    return codec


def _shift_note(scheduler: Mapping[str, Any], tokens: int, max_shift: float) -> dict[str, Any]:
    """mu, linear in the number of tokens, of a scheduler that shifts (diffusers' `calculate_shift`)."""
    if not scheduler.get("use_dynamic_shifting"):
        return {}
    first, last = scheduler.get("base_image_seq_len", 256), scheduler.get("max_image_seq_len", 4096)
    low, high = scheduler.get("base_shift", 0.5), scheduler.get("max_shift", max_shift)
    slope = (high - low) / (last - first)
    return {"mu": tokens * slope + (low - slope * first)}


def original_repository(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Where a single file's configuration is; names of its tensors come without `model.diffusion_model.`."""
    if "double_blocks.0.img_attn.norm.key_norm.scale" in shapes:
        if tuple(shapes.get("img_in.weight", (0, FLUX_CHANNELS)))[1] != FLUX_CHANNELS:
            return None  # Fill, Depth and Canny read a picture as well
        return "black-forest-labs/FLUX.1-" + ("dev" if "guidance_in.in_layer.bias" in shapes else "schnell")
    if "joint_blocks.0.context_block.adaLN_modulation.1.bias" not in shapes:
        return None
    if "joint_blocks.37.x_block.mlp.fc1.weight" in shapes:
        return "stabilityai/stable-diffusion-3.5-large"
    medium = tuple(shapes.get("pos_embed", ()))[1:2] == (147456,)
    return "stabilityai/stable-diffusion-3" + (".5-medium" if medium else "-medium-diffusers")


def load(source: Source, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> Model:
    """The transformer and codec on the device, the text encoders beside them."""
    pipeline = open_pipeline(source, dtype)
    transformer, vae = ready(pipeline.transformer, device), ready(pipeline.vae, device)
    flux = info.family == "flux"

    def conditioner_for(request: Request) -> PromptConditioner:
        encode = encode_flux if flux else encode_sd3
        ends = with_encoders(pipeline, device, lambda: encode(pipeline, request, info, device))
        return PromptConditioner(*ends)

    denoiser = FluxDenoiser(transformer) if flux else SD3Denoiser(transformer)
    return Model(info, denoiser, AutoencoderCodec(vae, reads=("shift_factor",)), conditioner_for)


@dataclass(frozen=True)
class SD3Denoiser:
    """diffusers' SD3Transformer2DModel, which cuts latents into 2 x 2 patches itself."""

    transformer: Any

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, C, h, w) -> velocity (N, C, h, w); "prompt_embeds" (N, L, D), "pooled_prompt_embeds" (N, P)."""
        velocity: torch.Tensor = self.transformer(
            hidden_states=latents.to(self.transformer.device, self.transformer.dtype),
            timestep=timestep.to(self.transformer.device).expand(len(latents)),
            encoder_hidden_states=conditioning["prompt_embeds"],
            pooled_projections=conditioning["pooled_prompt_embeds"],
            return_dict=False,
        )[0]
        return velocity.to(latents.dtype)


@dataclass(frozen=True)
class FluxDenoiser:
    """diffusers' FluxTransformer2DModel, which reads packed latents and their coordinates."""

    transformer: Any

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, C, h, w) -> velocity (N, C, h, w); as SD3, and "guidance" (N,) where the model reads it."""
        import torch

        place = dict(device=self.transformer.device, dtype=self.transformer.dtype)
        words = conditioning["prompt_embeds"]
        velocity: torch.Tensor = self.transformer(
            hidden_states=packed(latents.to(**place)),
            timestep=timestep.to(**place).expand(len(latents)) / TRAINING_STEPS,
            guidance=conditioning.get("guidance"),
            encoder_hidden_states=words,
            pooled_projections=conditioning["pooled_prompt_embeds"],
            txt_ids=torch.zeros(words.shape[1], 3, **place),
            img_ids=image_ids(*latents.shape[2:]).to(**place),
            return_dict=False,
        )[0]
        return unpacked(velocity, *latents.shape[2:]).to(latents.dtype)


def packed(latents: torch.Tensor) -> torch.Tensor:
    """(N, C, h, w) -> (N, h/2 * w/2, 4C): each 2 x 2 square becomes one token, channels outermost."""
    count, channels, height, width = latents.shape
    squares = latents.reshape(count, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return squares.reshape(count, height * width // 4, 4 * channels)


def unpacked(tokens: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """(N, h/2 * w/2, 4C) -> (N, C, h, w): the inverse of `packed`."""
    count, _, channels = tokens.shape
    squares = tokens.reshape(count, height // 2, width // 2, channels // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return squares.reshape(count, channels // 4, height, width)


def image_ids(height: int, width: int) -> torch.Tensor:
    """(h/2 * w/2, 3): (0, row, column) of each token within its patch."""
    import torch

    rows, columns = torch.meshgrid(torch.arange(height // 2), torch.arange(width // 2), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], dim=-1).reshape(-1, 3)


def encode_sd3(pipeline: Any, request: Request, info: ModelInfo, device: torch.device) -> Ends:
    """Two CLIP encoders and T5 (zeros where the model folder has none): tokens (1, L, D), pooled (1, P)."""
    positive, negative, pooled, negative_pooled = pipeline.encode_prompt(
        request.prompt, None, None, device=device, negative_prompt=request.negative_prompt
    )
    return (
        {"prompt_embeds": positive, "pooled_prompt_embeds": pooled},
        {"prompt_embeds": negative, "pooled_prompt_embeds": negative_pooled},
    )


def encode_flux(pipeline: Any, request: Request, info: ModelInfo, device: torch.device) -> Ends:
    """T5's tokens (1, L, D), CLIP's pooled state (1, P), the guidance scale where the network reads it."""
    import torch

    scale = info.guidance_scale if request.guidance_scale is None else request.guidance_scale
    reads_scale = pipeline.transformer.config.guidance_embeds
    guidance = {"guidance": torch.tensor([scale], dtype=torch.float32, device=device)} if reads_scale else {}
    positive, pooled, _ = pipeline.encode_prompt(request.prompt, device=device)
    negative, negative_pooled, _ = pipeline.encode_prompt(request.negative_prompt, device=device)
    return (
        {"prompt_embeds": positive, "pooled_prompt_embeds": pooled, **guidance},
        {"prompt_embeds": negative, "pooled_prompt_embeds": negative_pooled, **guidance},
    )
