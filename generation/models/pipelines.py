"""What all text models share: diffusers' pipelines over a source, and prompts. Knows no network and no schedule.

The pipeline classes of diffusers load the parts and encode the prompts; of their sampling loops nothing is used.
Parts that lie elsewhere than a pipeline looks for them, in a variant, in a folder beside a single file, or brought by
the user, are loaded here and handed over. Text encoders stay on the CPU and visit the device only while a prompt is
encoded. Imports torch only to compute.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from generation.models.contracts import Conditioning
from generation.models.errors import ModelError, first_line
from generation.models.lora_fusing import fuse_loras
from generation.models.sources import DROPPED, Source
from generation.models.turns import LOADING
from generation.models.vae import load_vae
from storage.geometry import Box

if TYPE_CHECKING:
    import torch

ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")


@dataclass(frozen=True)
class PromptConditioner:
    """One prompt for every patch: tensors whose first axis is 1, repeated without copying."""

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
        with LOADING.together(), torch.no_grad():
            return encode()
    finally:
        for encoder in encoders:
            encoder.to("cpu")


# --- opening them -------------------------------------------------------------------------------------------


def open_pipeline(source: Source, dtype: torch.dtype) -> Any:
    """diffusers' pipeline on the CPU, its codec in float32, the LoRAs fused; all files are local by now."""
    import diffusers
    import torch

    kind = getattr(diffusers, source.kind)
    given = {**_absent(source), **_apart(source, dtype)}
    with _quiet():
        if source.single is None:
            pipeline = kind.from_pretrained(
                str(source.folder),
                dtype={"default": dtype, "vae": torch.float32},
                use_safetensors=None if source.allow_pickle else True,
                local_files_only=True,
                **given,
            )
        else:
            pipeline = kind.from_single_file(
                str(source.single), dtype=dtype, config=str(source.folder), local_files_only=True, **given
            )
    fuse_loras(pipeline, source.kind, source.loras)
    return pipeline


@contextmanager
def _quiet() -> Iterator[None]:
    """What a pipeline corrects in a configuration is said once, in our words, when the model is described."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The configuration file of", category=FutureWarning)
        yield


def _absent(source: Source) -> dict[str, Any]:
    """Parts that a pipeline is to do without: those that no picture depends on, and those left out of the model."""
    index = source.index
    left_out = [name for name, value in index.items() if isinstance(value, list) and value[:1] == [None]]
    absent: dict[str, Any] = {name: None for name in (*DROPPED, *left_out) if name in index}
    return absent | ({"requires_safety_checker": False} if "safety_checker" in absent else {})


def _apart(source: Source, dtype: torch.dtype) -> dict[str, Any]:
    """Parts that the pipeline would not find by itself, loaded: a codec of one's own, variants, fillings."""
    import torch

    parts: dict[str, Any] = {}
    if source.vae is not None:
        parts["vae"] = load_vae(source.vae, source)
    elif "vae" in source.inside:
        parts["vae"] = _vae_of_file(source)
    for part in source.stored:
        if source.weights(part) and (source.single is not None or source.variant(part) is not None):
            parts[part] = _load_part(source, part, torch.float32 if part == "vae" else dtype)
    return parts


def _vae_of_file(source: Source) -> Any:
    """The codec in a single file, read apart: the pipeline's reader knows one dtype."""
    import diffusers
    import torch

    network = getattr(diffusers, source.config("vae")["_class_name"])
    return network.from_single_file(
        str(source.single),
        subfolder="vae",
        dtype=torch.float32,
        config=str(source.folder),
        local_files_only=True,
    )


def _load_part(source: Source, part: str, dtype: torch.dtype) -> Any:
    """A part of the folder, in the variant that it has."""
    return _class_of(source, part).from_pretrained(
        str(source.place(part)),
        variant=source.variant(part),
        use_safetensors=source.weights(part)[0].endswith(".safetensors"),
        dtype=dtype,
        local_files_only=True,
    )


def _class_of(source: Source, part: str) -> Any:
    """The class that model_index.json names for a part."""
    library, name = source.index[part]
    if library not in ("diffusers", "transformers"):
        raise ModelError(
            f"{part} of model {source.name!r} is of {library!r}: only diffusers and transformers are used"
        )
    return getattr(importlib.import_module(library), name)


def networks_without_weights(source: Source) -> Any:
    """An object that has the source's networks as attributes, built from their configurations alone."""
    import torch

    parts = [part for part in source.parts if part in ("unet", "transformer", *ENCODERS)]
    with torch.device("meta"):
        return SimpleNamespace(**{part: _empty(source, part) for part in parts})


def _empty(source: Source, part: str) -> Any:
    network, config = _class_of(source, part), source.config(part)
    try:
        if hasattr(network, "from_config"):
            return network.from_config(config)
        return network(network.config_class.from_dict(config))
    except Exception as error:  # both libraries raise what they like, errors of no common class among it
        place = source.place(f"{part}/config.json")
        raise ModelError(f"{place} cannot be used: {first_line(error)}") from error
