"""Whether a model has everything that a picture needs, before anything is loaded; and what supplies the rest.

Every part that model_index.json names must be there, in the folder, in the single file or from --vae. Stable
Diffusion 3 does without T5, and XL without its first encoder, if model_index.json says null of them.
"""

from __future__ import annotations

from generation.models.corrections import class_in
from generation.models.errors import ModelError
from generation.models.sources import Source

NEEDED = {
    "StableDiffusionPipeline": ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
    "LatentConsistencyModelPipeline": ("unet", "vae", "text_encoder", "tokenizer", "scheduler"),
    "StableDiffusionXLPipeline": ("unet", "vae", "text_encoder_2", "tokenizer_2", "scheduler"),
    "StableDiffusion3Pipeline": (
        "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler",
    ),
    "FluxPipeline": (
        "transformer", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "scheduler",
    ),
}  # fmt: skip
"""Pipeline class -> parts without which it makes no picture from words."""


def check_complete(source: Source) -> None:
    """Refuse a model that lacks a part, by its name and by the flag that supplies it. Raises ModelError."""
    for part in NEEDED.get(source.kind, ()):
        if part not in source.parts and not _is_brought(source, part):
            raise ModelError(_left_out(source, part))
    missing = [part for part in source.stored if _is_network(source, part) and not source.weights(part)]
    if missing:
        raise ModelError(_without_weights(source, missing))
    for part in source.stored:
        if "Tokenizer" in str(class_in(source.index, part)) and not _files_of(source, part):
            raise ModelError(f"{source.place(part)} holds no tokenizer: fetch the whole model again")


def _is_brought(source: Source, part: str) -> bool:
    """Whether --vae supplies the part, with a configuration: a file alone is configured as the model's own."""
    return part == "vae" and source.vae is not None and bool(source.vae.config_files)


def _left_out(source: Source, part: str) -> str:
    """The refusal of a part that model_index.json does without, with the flag that supplies it, if one does."""
    has_not = f"model {source.name!r} has no {part}: {source.folder / 'model_index.json'} leaves it out"
    if part == "vae":
        return (
            f"{has_not}; give an autoencoder with its own config.json, in a folder or on the hub, with --vae"
        )
    if source.single is not None:
        return f"{has_not}; give another configuration with --config-from"
    return f"{has_not}, and a {source.kind} needs it"


def _is_network(source: Source, part: str) -> bool:
    """Whether a part is a network: of what is there, parts with a config.json are; others are processors of pictures,
    and the like.
    """
    if part == "scheduler" or "Tokenizer" in str(class_in(source.index, part)):
        return False
    return f"{part}/config.json" in source.listing or not _files_of(source, part)


def _files_of(source: Source, part: str) -> list[str]:
    return [path for path in source.listing if path.startswith(f"{part}/")]


def _without_weights(source: Source, missing: list[str]) -> str:
    """The refusal, with the flags that supply what is missing."""
    if source.single is None:
        needed = "a diffusion_pytorch_model or model .safetensors is needed"
        needed = f"{source.place(missing[0])} holds no weights; {needed}"
        return f"{needed}, or another autoencoder with --vae" if missing == ["vae"] else needed
    named = " and ".join(part.replace("vae", "VAE") for part in missing)
    others = [part for part in missing if part != "vae"]
    flags = ["an autoencoder with --vae"] if "vae" in missing else []
    flags += (
        ["a folder or hub id in diffusers' layout that has the rest with --config-from"] if others else []
    )
    return f"{source.single} has no {named}: give {' and '.join(flags)}"


def check_latents(source: Source, network: str, reads: int, has: int) -> None:
    """Refuse a network that reads other channels than its autoencoder's latents have: it wants a picture as well."""
    if reads == has:
        return
    if source.vae is not None:
        raise ModelError(
            f"VAE {source.vae.text!r} has latents of {has} channels, and the {network} reads {reads}: name the "
            "autoencoder of the model's family"
        )
    raise ModelError(
        f"model {source.name!r} is not a text-to-image model: its {network} reads {reads} channels and its latents "
        f"have {has}"
    )
