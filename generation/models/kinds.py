"""What a file of weights is, by its first bytes and the names and shapes of its tensors. Knows no model, no tensor.

Programs share one suffix for many kinds: whole checkpoints, single parts, LoRAs, embeddings. A file of one kind that
is given in place of another is refused by its name and what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from generation.models.files import shapes_in

Shapes = Mapping[str, Sequence[int]]

LDM = "model.diffusion_model."
LORA = (
    ".lora_down.", ".lora_up.", ".lora_A.", ".lora_B.", ".lora.down.", ".lora.up.", "_lora.down.", "_lora.up.",
    "lora_linear_layer.",
)  # fmt: skip
OTHER_UPDATES = {
    "hada_w": "LoHa",
    "lokr_w": "LoKr",
    "oft_blocks": "OFT",
    "oft_diag": "OFT",
    ".on_input": "IA3",
    "lora_mid": "LoCon of three factors",
    "dora_scale": "DoRA",
}
"""Parts of tensor names, and the kind of update, other than a LoRA, that has them.

The magnitudes of a DoRA of this name are of inputs or of outputs, and of weights before or after the update, as the
program has it that wrote or reads them; diffusers leaves them out. Those of peft's DoRA mean one thing, and are used.
"""

STARTS = {
    "control_model.": "ControlNet",
    "controlnet_": "ControlNet",
    "lora_controlnet": "ControlNet LoRA",
    "ip_adapter.": "IP-Adapter",
    "image_proj.": "IP-Adapter",
    "adapter.": "T2I-Adapter",
}
INSIDE = {".motion_modules.": "motion module"}

BEGINNINGS = (
    (b"GGUF", "GGUF file, whose numbers are quantised"),
    (b"version https://git-lfs", "Git LFS pointer, in place of the file itself (git lfs pull fetches that)"),
    (b"PK\x03\x04", "pickled file"),
    (b"\x80\x02", "pickled file"),
    (b"<", "web page, in place of the file that was to be downloaded"),
    (b"{", "JSON file"),
)
WORD_WIDTHS = {768: "Stable Diffusion 1", 1024: "Stable Diffusion 2", 2048: "Stable Diffusion XL"}
"""Numbers of a word that a UNet's cross-attention reads."""
MOST_VECTORS = 4


@dataclass(frozen=True)
class FileKind:
    """name: "checkpoint", "LoRA", "VAE", ...; whole: with an article, as the end of a sentence."""

    name: str
    whole: str = ""

    def __str__(self) -> str:
        if self.whole:
            return self.whole
        return f"{'an' if self.name[0] in 'AEIOaeio' else 'a'} {self.name}"


CHECKPOINT, LORA_KIND, VAE = FileKind("checkpoint"), FileKind("LoRA"), FileKind("VAE")


def kind_of(path: Path) -> FileKind:
    """What a file is; of safetensors by its header. Raises ModelError for a safetensors file that is not whole."""
    with path.open("rb") as file:
        beginning = _beginning(file.read(32))
    if beginning is not None:
        return beginning
    if path.suffix != ".safetensors":
        return FileKind("file", f"no safetensors file ({path.suffix or 'without a suffix'})")
    return kind_by_names(shapes_in(path))


def _beginning(first: bytes) -> FileKind | None:
    """By the first bytes; those of a safetensors file are the length of its header, which is JSON."""
    if first[8:9] == b"{":
        return None
    return next((FileKind(name) for start, name in BEGINNINGS if first.lstrip().startswith(start)), None)


def kind_by_names(shapes: Shapes) -> FileKind:
    """What a safetensors file with these tensors is."""
    update = next((name for part, name in OTHER_UPDATES.items() if _any(shapes, part)), None)
    if update is not None:
        return FileKind(update, f"a {update} (LyCORIS)")
    if any(_any(shapes, part) for part in LORA):
        return next((FileKind(name) for start, name in STARTS.items() if _starts(shapes, start)), LORA_KIND)
    for found, name in (*((_starts(shapes, s), n) for s, n in STARTS.items()), *_within(shapes)):
        if found:
            return FileKind(name)
    return _network(shapes)


def _within(shapes: Shapes) -> Iterable[tuple[bool, str]]:
    return ((_any(shapes, part), name) for part, name in INSIDE.items())


def _network(shapes: Shapes) -> FileKind:
    """A whole checkpoint, one of its parts, or an embedding."""
    bare = {name.removeprefix(LDM) for name in shapes}
    if _starts(shapes, LDM) or any(name.startswith(("joint_blocks.", "double_blocks.")) for name in bare):
        return CHECKPOINT
    if any(name.endswith("decoder.conv_in.weight") for name in shapes):
        return VAE
    if _starts(shapes, "input_blocks.") or _starts(shapes, "down_blocks."):
        return FileKind("UNet", "a UNet alone")
    if _starts(shapes, "transformer_blocks."):
        return FileKind("transformer", "a transformer alone, in diffusers' names")
    if any(part in name for name in shapes for part in ("text_model.", "token_embedding", "SelfAttention")):
        return FileKind("text encoder", "a text encoder alone")
    if _is_embedding(shapes):
        return FileKind("embedding", "an embedding (textual inversion)")
    first = next(iter(sorted(shapes)), "nothing")
    return FileKind("file", f"of no kind that is known here (its first tensor is {first})")


def _is_embedding(shapes: Shapes) -> bool:
    """A few rows of numbers, one row a token: learned_embeds, emb_params, clip_l and clip_g."""
    return 0 < len(shapes) <= MOST_VECTORS and all(1 <= len(shape) <= 2 for shape in shapes.values())


def _any(names: Iterable[str], part: str) -> bool:
    return any(part in name for name in names)


def _starts(names: Iterable[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)


def misplaced(path: Path, kind: FileKind, wanted: str) -> str:
    """The refusal of a file that is given in place of another kind."""
    hints = {
        "LoRA": "; give it with --lora",
        "VAE": "; give it with --vae",
        "checkpoint": "; give it with --model",
        "DoRA": ": programs differ on what its dora_scale means; peft's DoRA, with lora_magnitude_vector, is used",
    }
    instead = hints.get(kind.name, "")
    article = "an" if wanted[0] in "AEIO" else "a"
    return f"{path} is {kind}, and {article} {wanted} is needed{instead}"
