"""Stable Diffusion 1, 2 and XL: UNets that predict epsilon or v.

Guidance is the engine's: pred = uncond + g (cond - uncond), Ho and Salimans 2022, arXiv 2207.12598. Imports torch
only to compute.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from generation.models.completeness import check_latents
from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.corrections import completed, corrections_note, unet_settings
from generation.models.embedded import AutoencoderCodec, codec_facts, ready, side
from generation.models.lora import check_lora
from generation.models.pipelines import Ends, PromptConditioner, open_pipeline, with_encoders
from generation.models.scheduling import scheduler_settings
from generation.models.sources import Source

if TYPE_CHECKING:
    import torch

DEFAULTS = {
    "StableDiffusionPipeline": ("stable_diffusion", 7.5, 50),
    "LatentConsistencyModelPipeline": ("stable_diffusion", 8.5, 4),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", 5.0, 50),
}
"""Pipeline class -> (family, guidance_scale, num_inference_steps), as in the pipelines' own signatures."""

READS = {"StableDiffusionXLPipeline": ("latents_mean",)}
"""Of an autoencoder's statistics, what a pipeline reads beside the scaling factor."""

ETA: Mapping[str, dict[str, Any]] = {
    "StableDiffusionPipeline": {"eta": 0.0},
    "StableDiffusionXLPipeline": {"eta": 0.0},
}
"""The noise that these pipelines ask of schedulers that take an eta, unless they are told another."""


def describe(source: Source) -> ModelInfo:
    """Facts from the configuration. A UNet that reads the guidance scale (LCM) runs once per patch."""
    family, guidance_scale, steps = DEFAULTS[source.kind]
    unet, unet_fixes = unet_settings(source.kind, completed("UNet2DConditionModel", source.config("unet")))
    codec = codec_facts(source.config("vae"))
    check_latents(source, "unet", unet["in_channels"], codec["latent_channels"])
    for lora in source.loras:
        check_lora(lora, family, words=unet["cross_attention_dim"])
    scheduler, fixes = scheduler_settings(source)
    distilled = {"distilled_guidance": True} if unet.get("time_cond_proj_dim") else {}
    return ModelInfo(
        family=family,
        patch=side(unet["sample_size"]),
        multiple=2 ** (len(unet["down_block_types"]) - 1),
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        notes={**distilled, **corrections_note(*unet_fixes, *fixes), **ETA.get(source.kind, {})},
        **codec,
    )


def original_repository(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Where a single file's configuration is; names of its tensors come without `model.diffusion_model.`."""
    if tuple(shapes.get("input_blocks.0.0.weight", ()))[1:2] != (4,):
        return None
    if "edm_mean" in shapes:
        return "playgroundai/playground-v2.5-1024px-aesthetic"
    if "conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias" in shapes:
        return "stabilityai/stable-diffusion-xl-base-1.0"
    attention = shapes.get("input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight", (0,))
    if attention[-1] == 1024:
        return "stabilityai/stable-diffusion-2-1"
    return "stable-diffusion-v1-5/stable-diffusion-v1-5"


def load(source: Source, info: ModelInfo, dtype: torch.dtype, device: torch.device) -> Model:
    """The UNet and codec on the device, the text encoders beside them."""
    pipeline = open_pipeline(source, dtype)
    unet, vae = ready(pipeline.unet, device), ready(pipeline.vae, device)

    def conditioner_for(request: Request) -> PromptConditioner:
        encode = encode_xl if info.family == "stable_diffusion_xl" else encode_classic
        ends = with_encoders(pipeline, device, lambda: encode(pipeline, request, info, device))
        return PromptConditioner(*ends)

    codec = AutoencoderCodec(vae, reads=READS.get(source.kind, ()))
    return Model(info, UNetDenoiser(unet), codec, conditioner_for)


@dataclass(frozen=True)
class UNetDenoiser:
    """diffusers' UNet2DConditionModel."""

    unet: Any

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        """(N, C, h, w) -> (N, C, h, w); "prompt_embeds" (N, L, D), for XL "text_embeds" and "time_ids"."""
        added = {name: conditioning[name] for name in ("text_embeds", "time_ids") if name in conditioning}
        prediction: torch.Tensor = self.unet(
            latents.to(self.unet.device, self.unet.dtype),
            timestep.to(self.unet.device),
            encoder_hidden_states=conditioning["prompt_embeds"],
            timestep_cond=conditioning.get("timestep_cond"),
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]
        return prediction.to(latents.dtype)


# --- prompts ------------------------------------------------------------------------------------------------


def encode_classic(pipeline: Any, request: Request, info: ModelInfo, device: torch.device) -> Ends:
    """Stable Diffusion 1 and 2: one encoder's hidden states (1, L, D)."""
    positive, negative = pipeline.encode_prompt(
        request.prompt, device, 1, True, negative_prompt=request.negative_prompt
    )
    guidance = _guidance_embedding(pipeline, request, info, device)
    return {"prompt_embeds": positive, **guidance}, {"prompt_embeds": negative, **guidance}


def encode_xl(pipeline: Any, request: Request, info: ModelInfo, device: torch.device) -> Ends:
    """Two encoders' hidden states, the second's pooled state, and the picture's size as XL was trained with.

    time_ids = (original height, width, crop top, left, target height, width), all of a native patch in pixels
    (Podell et al. 2023, arXiv 2307.01952, section 2.2). Without a negative prompt XL takes zeros, as in
    diffusers.
    """
    import torch

    positive, negative, pooled, negative_pooled = pipeline.encode_prompt(
        request.prompt, device=device, negative_prompt=request.negative_prompt or None
    )
    pixels = info.patch * info.scale
    size = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]], dtype=positive.dtype, device=device)
    common = {"time_ids": size, **_guidance_embedding(pipeline, request, info, device)}
    return (
        {"prompt_embeds": positive, "text_embeds": pooled, **common},
        {"prompt_embeds": negative, "text_embeds": negative_pooled, **common},
    )


def _guidance_embedding(
    pipeline: Any, request: Request, info: ModelInfo, device: torch.device
) -> dict[str, Any]:
    """What a UNet distilled from guidance reads of the scale (LCM, Luo et al. 2023, arXiv 2310.04378)."""
    import torch

    width = pipeline.unet.config.time_cond_proj_dim
    if width is None:
        return {}
    scale = info.guidance_scale if request.guidance_scale is None else request.guidance_scale
    embedding = pipeline.get_guidance_scale_embedding(torch.tensor([scale - 1.0]), embedding_dim=width)
    return {"timestep_cond": embedding.to(device, pipeline.unet.dtype)}
