"""Stable Diffusion 1, 2 and XL; and what all text models share: diffusers' pipelines, prompts, LoRAs.

The pipeline classes of diffusers load the parts and encode the prompts; of their sampling loops nothing is
used. Text encoders stay on the CPU and visit the device only while a prompt is encoded. Guidance is the
engine's: pred = uncond + g (cond - uncond), Ho and Salimans 2022, arXiv 2207.12598. Imports torch only to
compute.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.embedded import AutoencoderCodec, codec_facts, ready, side
from generation.models.errors import ModelError
from generation.models.files import read_header
from generation.models.hub import HUB_ID, UNPINNED, download, from_hub
from generation.models.sources import DROPPED, Source, folder_source
from generation.models.turns import TURNS
from storage.geometry import Box

if TYPE_CHECKING:
    import torch

DEFAULTS = {
    "StableDiffusionPipeline": ("stable_diffusion", 7.5, 50),
    "LatentConsistencyModelPipeline": ("stable_diffusion", 8.5, 4),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", 5.0, 50),
}
"""Pipeline class -> (family, guidance_scale, num_inference_steps), as in the pipelines' own signatures."""

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


def describe(source: Source) -> ModelInfo:
    """Facts from the configuration. A UNet that reads the guidance scale (LCM) runs once per patch."""
    family, guidance_scale, steps = DEFAULTS[source.kind]
    unet, codec = source.config("unet"), codec_facts(source.config("vae"))
    if unet["in_channels"] != codec["latent_channels"]:
        raise ModelError(
            f"model {source.name!r} is not a text-to-image model:"
            f" its unet reads {unet['in_channels']} channels and its latents have {codec['latent_channels']}"
        )
    scheduler = source.read("scheduler/scheduler_config.json")
    return ModelInfo(
        family=family,
        patch=side(unet["sample_size"]),
        multiple=2 ** (len(unet["down_block_types"]) - 1),
        guidance_scale=guidance_scale,
        num_inference_steps=steps,
        scheduler=scheduler["_class_name"],
        scheduler_config=scheduler,
        notes={"distilled_guidance": True} if unet.get("time_cond_proj_dim") else {},
        **codec,
    )


def original_repository(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """Where a single file's configuration is; names of its tensors come without `model.diffusion_model.`."""
    if tuple(shapes.get("input_blocks.0.0.weight", ()))[1:2] != (4,):
        return None
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

    return Model(info, UNetDenoiser(unet), AutoencoderCodec(vae), conditioner_for)


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


@dataclass(frozen=True)
class PromptConditioner:
    """The same words for every patch: tensors whose first axis is 1, repeated without copying."""

    positive: Conditioning
    negative: Conditioning

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        """The prompt's tensors, first axis len(boxes)."""
        return _repeated(self.positive, len(boxes))

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        """The negative prompt's tensors, first axis len(boxes)."""
        return _repeated(self.negative, len(boxes))


def _repeated(conditioning: Conditioning, count: int) -> Conditioning:
    return {name: value.expand(count, *value.shape[1:]) for name, value in conditioning.items()}


Ends = tuple[dict[str, Any], dict[str, Any]]
"""Tensors of the prompt and of the negative prompt, first axis 1."""


def with_encoders(pipeline: Any, device: torch.device, encode: Callable[[], Ends]) -> Ends:
    """Run `encode` with the text encoders on the device; then they give its memory back."""
    import torch

    encoders = [encoder for name in ENCODERS if (encoder := getattr(pipeline, name, None)) is not None]
    for encoder in encoders:
        encoder.to(device)
    try:
        with TURNS.together(), torch.no_grad():
            return encode()
    finally:
        for encoder in encoders:
            encoder.to("cpu")


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


# --- pipelines and LoRAs ------------------------------------------------------------------------------------


def open_pipeline(source: Source, dtype: torch.dtype) -> Any:
    """diffusers' pipeline on the CPU, its codec in float32, the LoRAs fused; all files are local by now."""
    import diffusers
    import torch

    kind = getattr(diffusers, source.kind)
    absent: dict[str, Any] = {name: None for name in DROPPED if name in source.read("model_index.json")}
    if "safety_checker" in absent:
        absent["requires_safety_checker"] = False
    if source.single is None:
        pipeline = kind.from_pretrained(
            str(source.folder),
            dtype={"default": dtype, "vae": torch.float32},
            use_safetensors=None if source.allow_pickle else True,
            variant=source.variant,
            local_files_only=True,
            **absent,
        )
    else:
        pipeline = _open_single_file(kind, source, dtype, absent)
    fuse_loras(pipeline, source.loras)
    return pipeline


def _open_single_file(kind: Any, source: Source, dtype: torch.dtype, absent: Mapping[str, Any]) -> Any:
    """A file in the original layout; the codec is read apart: the pipeline's reader knows one dtype."""
    import diffusers
    import torch

    local = {"config": str(source.folder), "local_files_only": True}
    network = getattr(diffusers, source.config("vae")["_class_name"])
    vae = network.from_single_file(str(source.single), subfolder="vae", dtype=torch.float32, **local)
    return kind.from_single_file(str(source.single), dtype=dtype, vae=vae, **local, **absent)


@dataclass(frozen=True)
class Lora:
    """A low-rank update in a local safetensors file, and the weight with which it is added.

    commits: its name on the hub -> commit, where it comes from there.
    """

    path: Path
    weight: float
    commits: Mapping[str, str] = field(default_factory=dict)


def fuse_loras(pipeline: Any, loras: Sequence[Lora]) -> None:
    """W += weight * B A of each update in turn, and no adapter is left (Hu et al. 2021, arXiv 2106.09685)."""
    for lora in loras:
        pipeline.load_lora_weights(str(lora.path.parent), weight_name=lora.path.name, adapter_name="lora")
        pipeline.set_adapters(["lora"], adapter_weights=[lora.weight])
        pipeline.fuse_lora(adapter_names=["lora"], safe_fusing=True)
        pipeline.unload_lora_weights()


def find_lora(text: str, commits: Mapping[str, str] = UNPINNED) -> Lora:
    """path_or_id[:weight]: a .safetensors file, or a folder or hub repository that holds one."""
    settled: Mapping[str, str] = {}
    name, weight = _split_weight(text)
    path, hub = Path(name).expanduser(), HUB_ID.fullmatch(name)
    if path.is_dir():
        path = _lora_in(folder_source(name, path))
    elif not path.exists() and hub is not None and path.suffix != ".safetensors":
        source = from_hub(name, hub["id"], hub["revision"], commits)
        path, settled = _lora_in(source), source.commits
    if not path.exists():
        raise ModelError(
            f"unknown LoRA {text!r}: give a .safetensors file, a folder or a hub id, then perhaps :weight"
        )
    if path.suffix != ".safetensors":
        raise ModelError(f"LoRA {text!r} is not a .safetensors file: convert it")
    read_header(path)
    return Lora(path, weight, settled)


def _split_weight(text: str) -> tuple[str, float]:
    """ "name:0.8" -> ("name", 0.8); without a number after the last colon the weight is 1."""
    name, _, last = text.rpartition(":")
    try:
        return (name, float(last)) if name else (text, 1.0)
    except ValueError:
        return text, 1.0


def _lora_in(source: Source) -> Path:
    """The one LoRA file of a folder or repository."""
    files = [path for path in source.listing if path.endswith(".safetensors")]
    usual = [path for path in files if path == "pytorch_lora_weights.safetensors"] or files
    if len(usual) != 1:
        raise ModelError(f"LoRA {source.name!r} holds {len(files)} .safetensors files: name the one to use")
    if source.commit:
        download(source, usual)
    return source.folder / usual[0]
