"""A model in one file, in the original layout: what of a model it holds, and where its configuration is.

the configuration  --config-from, a folder of the file's name beside it, or the hub repository that diffusers
                   reads for that kind of file
what is missing    from the weights of that folder or repository, if the user named it; of a VAE, from --vae
what it says       tensors named v_pred and ztsnr, and modelspec.prediction_type in the header
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from generation.models.errors import ModelError, UnknownModel
from generation.models.files import read_header, shapes_in
from generation.models.kinds import CHECKPOINT, LDM, Shapes, kind_of, misplaced
from generation.models.sources import PICKLES, TABLES, Source, is_configuration

Find = Callable[[str], Source]
"""A folder or hub repository by its name."""

FAMILIES = {
    "StableDiffusionPipeline": "Stable Diffusion 1 or 2",
    "LatentConsistencyModelPipeline": "Stable Diffusion 1 or 2",
    "StableDiffusionXLPipeline": "Stable Diffusion XL",
    "StableDiffusion3Pipeline": "Stable Diffusion 3",
    "FluxPipeline": "Flux",
}
VAE_STARTS = ("first_stage_model.", "vae.")
CLIP = "text_model.embeddings.position_embedding.weight"
T5 = "text_encoders.t5xxl.transformer."
ENCODERS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "Stable Diffusion 1 or 2": {
        "text_encoder": (
            f"cond_stage_model.transformer.{CLIP}",
            "cond_stage_model.model.token_embedding.weight",
        )
    },
    "Stable Diffusion XL": {
        "text_encoder": (f"conditioner.embedders.0.transformer.{CLIP}",),
        "text_encoder_2": ("conditioner.embedders.1.model.positional_embedding",),
    },
    "Stable Diffusion 3": {
        "text_encoder": (f"text_encoders.clip_l.transformer.{CLIP}",),
        "text_encoder_2": (f"text_encoders.clip_g.transformer.{CLIP}",),
        "text_encoder_3": (T5,),
    },
    "Flux": {"text_encoder": (f"text_encoders.clip_l.transformer.{CLIP}",), "text_encoder_2": (T5,)},
}
"""Family -> part -> how a tensor's name begins where the file has that part, as diffusers looks for it."""


def single_file_source(name: str, path: Path, config: str | None, find: Find) -> Source:
    """The model in a file, with its configuration. Raises ModelError for other files, and where there is none."""
    if path.suffix not in (".safetensors", *PICKLES):
        raise ModelError(
            misplaced(path, kind_of(path), f"model (.safetensors, or one of {', '.join(PICKLES)})")
        )
    beside = path.with_suffix("")
    if config is None and (beside / "model_index.json").exists():
        config = str(beside)
    if path.suffix != ".safetensors":
        return _pickled(name, path, config, find)
    kind = kind_of(path)
    if kind != CHECKPOINT:
        raise ModelError(misplaced(path, kind, "whole model"))
    shapes = shapes_in(path)
    found = _named(config, find) if config is not None else _published(name, path, shapes, find)
    _check_family(path, shapes, found)
    inside = parts_inside(shapes, FAMILIES.get(found.kind, ""))
    return replace(found, name=name, single=path, inside=inside, said=said(path), repository=found.name)


def _pickled(name: str, path: Path, config: str | None, find: Find) -> Source:
    """A pickled file does not say what it holds before it is loaded, so everything is expected of it."""
    if config is None:
        raise ModelError(
            f"a pickled file does not say what it is: give the configuration of {name!r}, a folder in diffusers' "
            f"layout with a model_index.json, with --config-from or at {path.with_suffix('')}, or convert the file to "
            ".safetensors"
        )
    found = _named(config, find)
    parts = frozenset(part for part in found.parts if "tokenizer" not in part and part != "scheduler")
    return replace(found, name=name, single=path, inside=parts, repository=found.name)


def _named(config: str, find: Find) -> Source:
    """The configuration that the user names."""
    accepted = "give a folder or hub id in diffusers' layout with --config-from"
    if Path(config).expanduser().is_file():
        raise ModelError(f"{config} is a file, and has no configuration of a model: {accepted}")
    try:
        found = find(config)
    except UnknownModel as error:
        raise ModelError(f"unknown configuration {config!r} ({error.reason}): {accepted}") from error
    if found.kind in TABLES:
        raise ModelError(
            f"{config} is the configuration of a {found.kind} model, which no such file is: {accepted}"
        )
    return found


def _published(name: str, path: Path, shapes: Shapes, find: Find) -> Source:
    """The configuration that the makers of such files published; of its weights none: nobody asked for them."""
    from generation.models import text_flow, text_unet

    bare = {tensor.removeprefix(LDM): shape for tensor, shape in shapes.items()}
    if "edm_vpred.sigma_max" in bare:
        raise ModelError(f"{path} is an EDM v-prediction model: give its configuration with --config-from")
    repository = text_flow.original_repository(bare) or text_unet.original_repository(bare)
    if repository is None:
        raise ModelError(f"{path} is no text-to-image checkpoint of Stable Diffusion 1, 2, XL, 3 or Flux")
    try:
        found = find(repository)
    except UnknownModel as error:
        raise ModelError(
            f"the configuration of {name!r} is not at hand ({repository} is {error.reason}): give a folder or hub id "
            "in diffusers' layout with --config-from"
        ) from error
    return replace(
        found, listing={place: size for place, size in found.listing.items() if is_configuration(place)}
    )


def _check_family(path: Path, shapes: Shapes, config: Source) -> None:
    """Refuse a configuration of another family than the file's tensors are of."""
    own, given = family_of(shapes), FAMILIES.get(config.kind)
    if own is not None and given is not None and own != given:
        raise ModelError(
            f"{path} is {own}, and the configuration in {config.name} is of {given}: give another"
        )


def family_of(shapes: Shapes) -> str | None:
    """The family of a checkpoint, if its tensors tell."""
    starts = {
        "double_blocks.": "Flux",
        "joint_blocks.": "Stable Diffusion 3",
        "conditioner.embedders.": "Stable Diffusion XL",
        "cond_stage_model.": "Stable Diffusion 1 or 2",
    }
    bare = [name.removeprefix(LDM) for name in shapes]
    return next(
        (family for start, family in starts.items() if any(name.startswith(start) for name in bare)), None
    )


def parts_inside(shapes: Shapes, family: str) -> frozenset[str]:
    """The parts, by their names in model_index.json, whose weights a checkpoint holds."""
    network = "transformer" if family in ("Stable Diffusion 3", "Flux") else "unet"
    parts = {part for part, starts in ENCODERS.get(family, {}).items() if _has(shapes, starts)}
    return frozenset(parts | {network} | ({"vae"} if _has(shapes, VAE_STARTS) else set()))


def _has(shapes: Shapes, starts: tuple[str, ...]) -> bool:
    return any(name.startswith(starts) for name in shapes)


def said(path: Path) -> dict[str, Any]:
    """What a file says of its prediction, as settings of a scheduler: tensors that carry nothing but their name."""
    header = read_header(path)
    metadata = header.get("__metadata__") or {}
    told: dict[str, Any] = {}
    if "v_pred" in header or str(metadata.get("modelspec.prediction_type")).lower() in ("v", "v_prediction"):
        told["prediction_type"] = "v_prediction"
    if "ztsnr" in header:
        told["rescale_betas_zero_snr"] = True
    return told
