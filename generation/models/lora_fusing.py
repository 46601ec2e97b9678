"""Adds LoRAs to loaded networks: which layer each pair of matrices is for, by its name, and with which scale.

    W += weight * scale * B A,   scale = alpha / r        (Hu et al. 2021, arXiv 2106.09685)

Names that are met, of the same layer:

    unet.mid_block.attentions.0.proj_in.lora_A.weight          diffusers and peft; .lora.down.weight before
    unet.mid_block.attentions.0.attn1.processor.to_q_lora.down.weight    diffusers' first
    lora_unet_mid_block_attentions_0_proj_in.lora_down.weight  kohya, of Stable Diffusion 1 and 2
    lora_unet_middle_block_1_proj_in.lora_down.weight          kohya, of XL: the original UNet's names

Flux's other layouts are turned into diffusers' names by diffusers. A pair whose layer the model does not have, and
every tensor that belongs to no pair, is counted and named; a file of which nothing is used is refused.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.models.errors import ModelError, first_line
from generation.models.lora import Lora

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

NAMED = 3
"""Of the tensors that are not used, this many are named."""

MATRIX = re.compile(
    r"(?P<layer>.+?)(\.lora_linear_layer|\.lora|_lora)?"
    r"\.(?P<side>lora_A|lora_B|lora_down|lora_up|down|up)(\.default)?\.weight"
)
DOWN = ("lora_A", "lora_down", "down")
ALPHA = ".alpha"

KOHYA = {
    "lora_unet_": ("unet", "transformer"),
    "lora_transformer_": ("transformer",),
    "lora_te_": ("text_encoder",),
    "lora_te1_": ("text_encoder",),
    "lora_te2_": ("text_encoder_2",),
}
"""How names with underscores begin -> the networks that they may be of."""
DOTTED = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
WRAPPED = "base_model.model."

FIRST_NAMES = {
    "self_attn.to_q": "self_attn.q_proj",
    "self_attn.to_k": "self_attn.k_proj",
    "self_attn.to_v": "self_attn.v_proj",
    "self_attn.to_out": "self_attn.out_proj",
}
"""diffusers' first names of CLIP's projections, which it gave the names of its own attention."""

RESNET = {
    "in_layers_0": "norm1",
    "in_layers_2": "conv1",
    "out_layers_0": "norm2",
    "out_layers_3": "conv2",
    "emb_layers_1": "time_emb_proj",
    "skip_connection": "conv_shortcut",
}
ENDS = {
    "time_embed_0": "time_embedding_linear_1",
    "time_embed_2": "time_embedding_linear_2",
    "label_emb_0_0": "add_embedding_linear_1",
    "label_emb_0_2": "add_embedding_linear_2",
    "input_blocks_0_0": "conv_in",
    "out_0": "conv_norm_out",
    "out_2": "conv_out",
}
"""Original names within a ResNet block, and outside all blocks -> diffusers', with underscores."""


@dataclass
class Pair:
    """The matrices A (r, in) and B (out, r) of one layer, and its alpha; convolutions have two axes more."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None


def fuse_loras(pipeline: Any, loras: Sequence[Lora]) -> None:
    """Add each update to the pipeline's networks in turn. Raises ModelError for one that does not fit."""
    for lora in loras:
        try:
            unused = _fuse(pipeline, lora)
        except (KeyError, ValueError, AttributeError, AssertionError) as error:
            if isinstance(error, ModelError):
                raise
            raise ModelError(f"{lora.path} cannot be used as a LoRA: {first_line(error)[:200]}") from error
        if unused:
            log.warning("%s", _told(lora.path, unused))


def _told(path: Path, unused: Sequence[str]) -> str:
    more = "" if len(unused) <= NAMED else f" and {len(unused) - NAMED} more"
    return f"{path}: {len(unused)} tensors are not used: {', '.join(unused[:NAMED])}{more}"


def _fuse(pipeline: Any, lora: Lora) -> list[str]:
    """The names of what was not used."""
    tensors, settings, unused = _read(pipeline, lora.path)
    pairs, others = _pairs(tensors)
    layers, used = Layers(pipeline), 0
    for name, pair in pairs.items():
        layer = layers.named(name)
        if layer is None or pair.down is None or pair.up is None:
            unused.append(name)
            continue
        _add(layer, pair, lora, name, settings.scale(name, pair))
        used += 1
    if not used:
        raise ModelError(
            f"{lora.path} is for another model: it has no layer that is named {next(iter(pairs), 'in it')}"
        )
    return [*unused, *others]


def _read(pipeline: Any, path: Path) -> tuple[dict[str, torch.Tensor], Settings, list[str]]:
    """Tensors by name, the settings of peft in the header, and the names of what diffusers' conversion drops."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        settings = Settings.of(file.metadata() or {})
    if type(pipeline).__name__ != "FluxPipeline":
        return tensors, settings, []
    converted, alphas = pipeline.lora_state_dict(dict(tensors), return_alphas=True)
    dropped = [name for name in tensors if any(part in name for part in DROPPED)]
    return {**converted, **(alphas or {})}, settings, dropped


DROPPED = ("dora_scale", "t5xxl", "lora_te2_", "lora_te3_", "diff_b", "position_embedding", "text_projection")
"""Parts of names that diffusers' conversion of Flux's layouts leaves out."""


def _pairs(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Pair], list[str]]:
    """Layer names -> their matrices, and the names of all else."""
    pairs: dict[str, Pair] = {}
    others = []
    for name, tensor in tensors.items():
        found = MATRIX.fullmatch(name)
        if found is not None:
            side = "down" if found["side"] in DOWN else "up"
            setattr(pairs.setdefault(found["layer"], Pair()), side, tensor)
        elif not name.endswith(ALPHA):
            others.append(name)
    for name in (name for name in tensors if name.endswith(ALPHA)):
        layer = name.removesuffix(ALPHA)
        if layer in pairs:
            pairs[layer].alpha = float(tensors[name])
        else:
            others.append(name)
    return pairs, others


def _add(layer: Any, pair: Pair, lora: Lora, name: str, scale: float) -> None:
    """W += weight * scale * B A, in float32."""
    import torch

    assert pair.down is not None and pair.up is not None
    weight = layer.weight
    update = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
    if update.numel() != weight.numel():
        raise ModelError(
            f"{lora.path} is for another model: {name} is {tuple(update.shape)}, and the model's layer is "
            f"{tuple(weight.shape)}"
        )
    with torch.no_grad():
        weight.copy_(weight.float() + lora.weight * scale * update.reshape(weight.shape).to(weight.device))


# --- scales -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What peft says of an adapter in its file's header: by network, alpha and exceptions from it."""

    by_network: Mapping[str, Any]

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Settings:
        import json

        return cls(json.loads(metadata.get("lora_adapter_metadata", "{}")))

    def scale(self, name: str, pair: Pair) -> float:
        """alpha / r, or alpha / sqrt(r) where the adapter was trained so; 1 where nothing says alpha."""
        assert pair.down is not None
        rank = pair.down.shape[0]
        network, _, layer = name.partition(".")
        alpha = pair.alpha
        if alpha is None:
            patterns = self.by_network.get(f"{network}.alpha_pattern") or {}
            exception = (
                value for pattern, value in patterns.items() if re.search(rf"(^|\.){pattern}$", layer)
            )
            alpha = next(exception, self.by_network.get(f"{network}.lora_alpha", rank))
        return float(alpha) / (math.sqrt(rank) if self.by_network.get(f"{network}.use_rslora") else rank)


# --- names --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layers:
    """The layers with weights of a pipeline's networks, by every name that files have for them."""

    pipeline: Any

    @cached_property
    def dotted(self) -> dict[str, Any]:
        """ "unet.mid_block.attentions.0.proj_in" -> the layer."""
        networks = {name: getattr(self.pipeline, name, None) for name in DOTTED}
        return {
            f"{name}.{path}": layer
            for name, network in networks.items()
            if network is not None
            for path, layer in network.named_modules()
            if getattr(layer, "weight", None) is not None
        }

    @cached_property
    def underscored(self) -> dict[str, Any]:
        """ "unet.mid_block_attentions_0_proj_in" -> the layer."""
        split = ((*name.partition("."), layer) for name, layer in self.dotted.items())
        return {f"{network}.{path.replace('.', '_')}": layer for network, _, path, layer in split}

    def named(self, name: str) -> Any:
        """The layer that a name is for, or None."""
        start = next((start for start in KOHYA if name.startswith(start)), None)
        if start is None:
            found = (self.dotted.get(spelled) for spelled in self._spellings(name))
        else:
            rest = name.removeprefix(start)
            names = (rest, rest.removeprefix("text_model_"), f"text_model_{rest}", self._from_original(rest))
            found = (self.underscored.get(f"{net}.{spelled}") for net in KOHYA[start] for spelled in names)
        return next((layer for layer in found if layer is not None), None)

    def _spellings(self, name: str) -> Iterable[str]:
        """Names with dots: with and without the network, and CLIP's with and without its inner model."""
        path = name.removeprefix(WRAPPED).replace(".processor.", ".")
        for old, new in FIRST_NAMES.items():
            path = path.replace(old, new)
        network, _, rest = path.partition(".")
        whole = [path] if network in DOTTED else [f"{net}.{path}" for net in ("unet", "transformer")]
        if network.startswith("text_encoder"):
            whole += [f"{network}.{rest.removeprefix('text_model.')}", f"{network}.text_model.{rest}"]
        return [*whole, *(f"{each}.0" for each in whole if each.endswith(".to_out"))]

    def _from_original(self, name: str) -> str:
        """The original UNet's name of a layer -> diffusers': its blocks are counted through in one list."""
        end = next((new for old, new in ENDS.items() if name == old), None)
        found = re.fullmatch(r"(input|output)_blocks_(\d+)_(\d)_(.+)|middle_block_(\d)_(.+)", name)
        if end is not None or found is None:
            return end or name
        if found[5] is not None:
            place = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}.get(found[5], "")
            return f"mid_block_{place}_{RESNET.get(found[6], found[6])}"
        return self._of_level(found[1], int(found[2]), int(found[3]), found[4])

    def _of_level(self, side: str, block: int, slot: int, rest: str) -> str:
        """A layer of a level: residual blocks and attentions in turn, then the change of size."""
        way = "down" if side == "input" else "up"
        level, place = divmod(block - 1 if way == "down" else block, self._blocks_of_a_level + 1)
        if rest in ("op", "conv"):
            return f"{way}_blocks_{level}_{way}samplers_0_conv"
        kind = "resnets" if slot == 0 else "attentions"
        return f"{way}_blocks_{level}_{kind}_{place}_{RESNET.get(rest, rest)}"

    @property
    def _blocks_of_a_level(self) -> int:
        count = self.pipeline.unet.config.layers_per_block
        return int(count if isinstance(count, int) else count[0])
