"""Adds LoRAs to loaded networks: each pair of matrices to its layer, with its scale.

    V = W + weight * scale * B A,   scale = alpha / r     (Hu et al. 2021, arXiv 2106.09685)
    W <- V,   or   m V / |V|  with a magnitude m for each output of a layer, |V| over its inputs
                                                          (DoRA, Liu et al. 2024, arXiv 2402.09353)

The second is as peft merges it for diffusers: with half its weight, too, a DoRA gives each output the magnitude m.
Flux's other layouts are turned into diffusers' names by diffusers. A pair whose layer the model does not have, and
every tensor that belongs to no pair, is counted and named; a file of which nothing is used is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from generation.models.errors import ModelError, first_line
from generation.models.lora_names import Layers
from generation.models.sources import Lora

if TYPE_CHECKING:
    import torch

NAMED = 3
"""Of the tensors that are not used, this many are named."""

MATRIX = re.compile(
    r"(?P<layer>.+?)(\.lora_linear_layer|\.lora|_lora)?"
    r"\.(?P<side>lora_A|lora_B|lora_down|lora_up|down|up)(\.default)?\.weight"
)
DOWN = ("lora_A", "lora_down", "down")
ALPHA = ".alpha"
MAGNITUDE = re.compile(r"(?P<layer>.+)\.lora_magnitude_vector(\.default)?(\.weight)?")

DROPPED = ("t5xxl", "lora_te2_", "lora_te3_", "diff_b", "position_embedding", "text_projection")
"""Parts of names that diffusers' conversion of Flux's layouts leaves out."""
UNFIT = (
    KeyError, ValueError, TypeError, AttributeError, AssertionError, IndexError, RuntimeError, re.error,
)  # fmt: skip
"""What reading a file of another shape than expected raises, here and in diffusers."""


@dataclass(frozen=True)
class LowRankPair:
    """The matrices A (r, in) and B (out, r) of one layer, and its alpha; convolutions have two axes more.

    magnitude: of a DoRA; as many numbers as the layer has outputs, whatever their axes.
    """

    down: torch.Tensor
    up: torch.Tensor
    alpha: float | None
    magnitude: torch.Tensor | None


@dataclass
class Halves:
    """A pair as it is read."""

    down: torch.Tensor | None = None
    up: torch.Tensor | None = None
    alpha: float | None = None
    magnitude: torch.Tensor | None = None

    @property
    def pair(self) -> LowRankPair | None:
        """The pair, once both matrices are there."""
        if self.down is None or self.up is None:
            return None
        return LowRankPair(self.down, self.up, self.alpha, self.magnitude)


@dataclass(frozen=True)
class Update:
    """What one pair makes of one layer of a network."""

    layer: Any
    pair: LowRankPair
    scale: float

    def weights(self, weight: float) -> torch.Tensor:
        """The layer's new weights (out, in, ...) in float32; weight: of the whole file."""
        import torch

        old, pair = self.layer.weight.float(), self.pair
        gain = pair.up.float().flatten(1) @ pair.down.float().flatten(1)
        new: torch.Tensor = old + (weight * self.scale * gain.reshape(old.shape)).to(old.device)
        if pair.magnitude is None:
            return new
        lengths = pair.magnitude.float().to(old.device).reshape(-1, 1)
        return (lengths * torch.nn.functional.normalize(new.flatten(1), dim=1)).reshape(old.shape)


def unused_by(networks: Any, kind: str, lora: Lora) -> str | None:
    """How many tensors of a file have no layer in the networks, which need no weights, and which; None if all have one.

    networks: an object with the networks as attributes, such as a pipeline of class `kind`. Raises ModelError for a
    file that does not fit.
    """
    _, unused = _updates(networks, kind, lora)
    if not unused:
        return None
    more = "" if len(unused) <= NAMED else f" and {len(unused) - NAMED} more"
    return f"{lora.path}: {len(unused)} tensors are not used: {', '.join(unused[:NAMED])}{more}"


def fuse_loras(pipeline: Any, kind: str, loras: Sequence[Lora]) -> None:
    """Add each file to the networks of a pipeline of class `kind` in turn. Raises ModelError where one does not fit."""
    import torch

    for lora in loras:
        updates, _ = _updates(pipeline, kind, lora)
        with torch.no_grad():
            for update in updates:
                update.layer.weight.copy_(update.weights(lora.weight))


def _updates(networks: Any, kind: str, lora: Lora) -> tuple[list[Update], list[str]]:
    """What a file adds, and the names of what of it is not used."""
    try:
        return _fitted(networks, kind, lora)
    except ModelError:
        raise
    except UNFIT as error:
        raise ModelError(f"{lora.path} cannot be used as a LoRA: {first_line(error)}") from error


def _fitted(networks: Any, kind: str, lora: Lora) -> tuple[list[Update], list[str]]:
    tensors, settings, unused = _read(kind, lora.path)
    halves, others = _halves(tensors)
    layers, updates = Layers(networks), []
    for name, half in halves.items():
        layer, pair = layers.named(name), half.pair
        if layer is None or pair is None:
            unused.append(name)
            continue
        _check_size(lora, name, pair, layer)
        updates.append(Update(layer, pair, settings.scale(name, pair)))
    if not updates:
        first = next(iter(halves), "anything in it")
        raise ModelError(
            f"{lora.path} is for another model: none of its layers has the name of one, such as {first}"
        )
    return updates, [*unused, *others]


def _check_size(lora: Lora, name: str, pair: LowRankPair, layer: Any) -> None:
    """Refuse matrices whose product has another size than the layer's weights."""
    rows, columns = pair.up.shape[0], math.prod(pair.down.shape[1:])
    if rows * columns != layer.weight.numel() or pair.up.shape[1] != pair.down.shape[0]:
        raise ModelError(
            f"{lora.path} is for another model: {name} is {(rows, columns)}, and the model's layer is "
            f"{tuple(layer.weight.shape)}"
        )
    if pair.magnitude is not None and pair.magnitude.numel() != layer.weight.shape[0]:
        raise ModelError(
            f"{lora.path} is for another model: {name} has {pair.magnitude.numel()} magnitudes, and the model's "
            f"layer {layer.weight.shape[0]} outputs"
        )


# --- files --------------------------------------------------------------------------------------------------


def _read(kind: str, path: Path) -> tuple[dict[str, torch.Tensor], Settings, list[str]]:
    """Tensors by name, the settings of peft in the header, and the names of what diffusers' conversion drops."""
    import diffusers
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no mapping
        settings = Settings.of(file.metadata() or {})
    if kind != "FluxPipeline":
        return tensors, settings, []
    converted, alphas = diffusers.FluxPipeline.lora_state_dict(dict(tensors), return_alphas=True)
    dropped = [name for name in tensors if any(part in name for part in DROPPED)]
    return {**converted, **(alphas or {})}, settings, dropped


def _halves(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, Halves], list[str]]:
    """Layer names -> their matrices, and the names of all else."""
    found: dict[str, Halves] = {}
    rest: list[str] = []
    for name, tensor in tensors.items():
        matrix = MATRIX.fullmatch(name)
        if matrix is not None:
            side = "down" if matrix["side"] in DOWN else "up"
            setattr(found.setdefault(matrix["layer"], Halves()), side, tensor)
        else:
            rest.append(name)
    return found, [name for name in rest if not _belongs(name, tensors[name], found)]


def _belongs(name: str, tensor: torch.Tensor, found: Mapping[str, Halves]) -> bool:
    """Give an alpha or a magnitude to its matrices; False for what is neither, or has none."""
    magnitude = MAGNITUDE.fullmatch(name)
    layer = found.get(name.removesuffix(ALPHA) if magnitude is None else magnitude["layer"])
    if layer is None:
        return False
    if magnitude is not None:
        layer.magnitude = tensor
    elif name.endswith(ALPHA):
        layer.alpha = float(tensor)
    else:
        return False
    return True


# --- scales -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Settings:
    """What peft says of an adapter in its file's header: by network, alpha and exceptions from it."""

    by_network: Mapping[str, Any]

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Settings:
        import json

        told = json.loads(metadata.get("lora_adapter_metadata", "{}"))
        if not isinstance(told, dict):
            raise ValueError("its lora_adapter_metadata is no JSON object")
        return cls(told)

    def scale(self, name: str, pair: LowRankPair) -> float:
        """alpha / r, or alpha / sqrt(r) where the adapter was trained so; 1 where nothing says alpha."""
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
