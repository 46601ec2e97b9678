"""LoRAs: low-rank updates of a model's weights, in files. Finds them, and checks by the header whether they fit.

A file of another kind, or for another family, is refused before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from generation.models.errors import ModelError
from generation.models.files import shapes_in
from generation.models.hub import HUB_ID, UNPINNED, download, from_hub
from generation.models.kinds import LORA_KIND, WORD_WIDTHS, Shapes, kind_of, misplaced
from generation.models.sources import Lora, Source, folder_source

USUAL = "pytorch_lora_weights.safetensors"

UNET_BLOCKS = ("down_blocks", "up_blocks", "mid_block", "input_blocks", "output_blocks", "middle_block")
FLUX_BLOCKS = ("double_blocks", "single_blocks", "single_transformer_blocks")
SD3_BLOCKS = ("joint_blocks",)
FLOW_BLOCKS = ("transformer.transformer_blocks", "lora_transformer_transformer_blocks")
"""Stable Diffusion 3 and Flux share these names in diffusers' layout."""
ENCODERS = ("text_encoder", "lora_te")
DOWN = (".lora_down.weight", ".lora_A.weight", ".lora.down.weight", "_lora.down.weight")
WORDS_IN = (
    "attn2_to_k",
    "attn2_to_v",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.processor.to_k",
    "attn2.processor.to_v",
)
MAGNITUDES = ".lora_magnitude_vector"
FUSED, DORA_FUSED = 2, 3
"""Versions of how updates are added to weights, which determines the pixels: of a DoRA's magnitudes, too, since 3."""


# --- where it is --------------------------------------------------------------------------------------------


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
    kind = kind_of(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"{misplaced(path, kind, 'LoRA')}: convert it to .safetensors")
    if kind != LORA_KIND:
        raise ModelError(misplaced(path, kind, "LoRA"))
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
    usual = [path for path in files if path == USUAL] or files
    if len(usual) != 1:
        raise ModelError(f"LoRA {source.name!r} holds {len(files)} .safetensors files: name the one to use")
    if source.commit:
        download(source, usual)
    return source.folder / usual[0]


def fused_as(loras: Sequence[Lora]) -> int:
    """The version of how these are added: raised for files alone that earlier programs added otherwise."""
    is_dora = any(MAGNITUDES in name for lora in loras for name in shapes_in(lora.path))
    return DORA_FUSED if is_dora else FUSED


# --- whether it fits ----------------------------------------------------------------------------------------


def check_lora(lora: Lora, family: str, words: int | Sequence[int] | None) -> None:
    """Refuse an update for another family. words: how wide the words are that the UNet reads, or each block of it."""
    shapes = shapes_in(lora.path)
    made_for = _made_for(shapes)
    if made_for is None:
        raise ModelError(
            f"{lora.path} is a LoRA for none of Stable Diffusion 1, 2, XL, 3 and Flux"
            f" (its first tensor is {min(shapes)})"
        )
    if family not in made_for:
        raise ModelError(
            f"{lora.path} is a LoRA for {_spoken(made_for)}, and the model is {_spoken((family,))}"
        )
    width = _word_width(shapes)
    if isinstance(words, int) and width is not None and width != words:
        raise ModelError(
            f"{lora.path} is a LoRA for {WORD_WIDTHS.get(width, 'another model')}, whose words have {width} numbers;"
            f" the model's have {words}"
        )


def _made_for(shapes: Shapes) -> tuple[str, ...] | None:
    """The families whose networks have blocks of these names; all, of updates of text encoders alone."""
    for blocks, families in (
        (UNET_BLOCKS, ("stable_diffusion", "stable_diffusion_xl")),
        (FLUX_BLOCKS, ("flux",)),
        (SD3_BLOCKS, ("stable_diffusion_3",)),
        (FLOW_BLOCKS, ("stable_diffusion_3", "flux")),
        (ENCODERS, tuple(SPOKEN)),
    ):
        if any(block in name for name in shapes for block in blocks):
            return families
    return None


SPOKEN = {
    "stable_diffusion": "Stable Diffusion 1 or 2",
    "stable_diffusion_xl": "Stable Diffusion XL",
    "stable_diffusion_3": "Stable Diffusion 3",
    "flux": "Flux",
}


def _spoken(families: Sequence[str]) -> str:
    return " or ".join(SPOKEN.get(family, family) for family in families)


def _word_width(shapes: Shapes) -> int | None:
    """The numbers of a word that the updated cross-attention reads: the columns of A, which is r x that many."""
    widths = (
        shape[1]
        for name, shape in shapes.items()
        if name.endswith(DOWN) and any(part in name for part in WORDS_IN) and len(shape) > 1
    )
    return next(widths, None)
