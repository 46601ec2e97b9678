"""Which layer of a network a LoRA's name is for. Knows names; knows no file, no matrix.

unet.mid_block.attentions.0.proj_in                  diffusers and peft
base_model.model.mid_block.attentions.0.proj_in      peft by itself
unet.mid_block.attentions.0.attn1.processor.to_q     diffusers' first
lora_unet_mid_block_attentions_0_proj_in             kohya, of Stable Diffusion 1 and 2
lora_unet_middle_block_1_proj_in                     kohya, of XL: the original UNet's names
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

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


@dataclass(frozen=True)
class Layers:
    """The layers with weights of networks, which are attributes, by every name that files have for them."""

    networks: Any

    @cached_property
    def dotted(self) -> dict[str, Any]:
        """ "unet.mid_block.attentions.0.proj_in" -> the layer."""
        networks = {name: getattr(self.networks, name, None) for name in DOTTED}
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
        count = self.networks.unet.config.layers_per_block
        return int(count if isinstance(count, int) else count[0])
