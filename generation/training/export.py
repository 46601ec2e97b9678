"""Knows how checkpoints become a model folder in the diffusers layout. Knows no training.

    earth/
      model_index.json   unet/   vae/   scheduler/    as diffusers writes them, weights in fp16
      classes.json       names, colours and cell size of a class map, and the settings to sample with
      map/               the map model, where one was trained
      inpainting/        the inpainting variant, where one was trained: unet/, inpainting.json
      fast/              the denoiser's student, where one was trained: unet/, scheduler/; all else is the outer model's
      README.md          the model card

Every file is written beside the folder and renamed into place: a reader finds whole files at all times.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch

from generation.training.autoencoder import averaged_half
from generation.training.checkpoints import read
from generation.training.classes import Classes
from generation.training.config import ConfigError
from generation.training.denoiser import averaged
from generation.training.networks import CHANNELS, CODECS, build_jump_solver, build_solver
from storage.documents import DocumentError, read_bytes

MAP_MODEL = "class-map"
"""Where a run keeps its exported map model."""
CELL = 4
GUIDANCE_SCALE = 1.0
NUM_INFERENCE_STEPS = 12


FAST = "fast"
FAST_METHOD: Mapping[str, str | float] = {"method": "hann", "overlap": 0.25}
"""Few steps leave few tilings to blend, and shifted ones show (docs/log.md)."""


def model_index(codec_class: str, solver_class: str, **more: str) -> dict[str, Any]:
    """What a diffusers pipeline of these three parts would write."""
    return {
        "_class_name": "DiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        **more,
        "scheduler": ["diffusers", solver_class],
        "unet": ["diffusers", "UNet2DModel"],
        "vae": ["diffusers", codec_class],
    }


def class_rows(classes: Classes) -> list[dict[str, str]]:
    """Name and colour of each class."""
    pairs = zip(classes.names, classes.colours, strict=True)
    return [{"name": name, "colour": colour} for name, colour in pairs]


def class_table(classes: Classes, steps: int, **settings: str | float) -> dict[str, Any]:
    """classes.json: ids are places in the list; the null class is all zeros; `cell` latents share a class."""
    defaults = {"guidance_scale": GUIDANCE_SCALE, "num_inference_steps": steps, **settings}
    return {"format_version": 1, "cell": CELL, **defaults, "classes": class_rows(classes)}


def assembled_codec(checkpoints: Path, name: str) -> Any:
    """The codec of the two halves' averages; a half without a checkpoint keeps its initial weights."""
    codec = CODECS[name]()
    for part in ("encoder", "decoder"):
        path = checkpoints / f"{part}.pt"
        if path.exists():
            codec.get_submodule(part).load_state_dict(
                averaged_half(part, name, read(path)["average"]).state_dict()
            )
    return codec


def write_json(content: dict[str, Any], path: Path) -> None:
    """Indented JSON with a final newline."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def inpainting_table(classes: Classes) -> dict[str, Any]:
    """inpainting.json: the planes that the variant reads, in order."""
    planes = {"noisy": CHANNELS, "classes": len(classes), "hidden: 1 where to paint": 1, "context": CHANNELS}
    rows = [{"name": name, "channels": channels} for name, channels in planes.items()]
    return {"format_version": 1, "planes": rows}


def write_network(network: Any, checkpoint: Path, folder: Path) -> None:
    """A checkpoint's averaged weights as a part of a model, in fp16."""
    averaged(network, read(checkpoint)["average"]).to(torch.float16).save_pretrained(folder)


def write_model(
    checkpoints: Path, folder: Path, networks: Mapping[str, Any], codec: str, classes: Classes, jumps: int
) -> None:
    """Write all machine-readable files of the model to `folder`."""
    write_network(networks["denoiser"], checkpoints / "denoiser.pt", folder / "unet")
    if (checkpoints / "inpainting.pt").exists():
        write_network(networks["inpainting"], checkpoints / "inpainting.pt", folder / "inpainting" / "unet")
        write_json(inpainting_table(classes), folder / "inpainting" / "inpainting.json")
    if (checkpoints / MAP_MODEL).exists():
        shutil.copytree(checkpoints / MAP_MODEL, folder / "map")
    autoencoder = assembled_codec(checkpoints, codec)
    autoencoder.to(torch.float16).save_pretrained(folder / "vae")
    solver, codec_class = build_solver(), type(autoencoder).__name__
    solver.save_pretrained(folder / "scheduler")
    write_json(model_index(codec_class, type(solver).__name__), folder / "model_index.json")
    write_json(class_table(classes, NUM_INFERENCE_STEPS), folder / "classes.json")
    if (checkpoints / "distilled.pt").exists():
        write_student(checkpoints, folder / FAST, networks["denoiser"], codec_class, classes, jumps)
    for config in folder.rglob("config.json"):
        remove_local_path(config)


def write_student(
    checkpoints: Path, folder: Path, network: Any, codec_class: str, classes: Classes, jumps: int
) -> None:
    """A model inside the model, of which it borrows the codec and the map model."""
    write_network(network, checkpoints / "distilled.pt", folder / "unet")
    solver = build_jump_solver()
    solver.save_pretrained(folder / "scheduler")
    index = model_index(codec_class, type(solver).__name__, _parts_of="..")
    write_json(index, folder / "model_index.json")
    write_json(class_table(classes, jumps, **FAST_METHOD), folder / "classes.json")


def remove_local_path(config: Path) -> None:
    """Drop the entry in which diffusers notes where a model was loaded from."""
    content = json.loads(config.read_text(encoding="utf-8"))
    content.pop("_name_or_path", None)
    write_json(content, config)


def weight_bytes(folder: Path) -> int:
    """The size of all weights together."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def move_into_place(fresh: Path, folder: Path) -> None:
    """Rename each file of `fresh` over its namesake in `folder`, configurations before weights."""
    files = sorted(
        (path for path in fresh.rglob("*") if path.is_file()), key=lambda path: path.suffix != ".json"
    )
    for path in files:
        target = folder / path.relative_to(fresh)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)
        os.replace(path, target)


def export(
    checkpoints: Path,
    folder: Path,
    networks: Mapping[str, Any],
    codec: str,
    classes: Classes,
    jumps: int,
    card: Path | None = None,
) -> int:
    """Export the averages under `checkpoints` to `folder`; returns the bytes of the weights.

    networks: take the weights of denoiser (and its student) and inpainting. codec: a key of networks.CODECS.
    jumps: the student's steps. card: copied as README.md. Raises ConfigError where it cannot be read.
    """
    text = None if card is None else _card(card)
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        write_model(checkpoints, fresh, networks, codec, classes, jumps)
        if text is not None:
            (fresh / "README.md").write_bytes(text)
        move_into_place(fresh, folder)
    finally:
        shutil.rmtree(fresh)
    return weight_bytes(folder)


def _card(path: Path) -> bytes:
    try:
        return read_bytes(path)
    except DocumentError as error:
        raise ConfigError(f"model card {path} {error}") from None
