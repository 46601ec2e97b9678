"""An autoencoder that the user brings, in place of the model's own. Knows files and headers; no tensor till loaded.

    a folder, or org/name[@revision]   diffusers' layout: config.json and weights, in it or in its vae/
    a .safetensors file                diffusers' or the original names; configured as the model's own

A repository's files are fetched when it is found, so that their content belongs to the job's identity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from generation.models.errors import ModelError
from generation.models.files import read_header
from generation.models.hub import HUB_ID, UNPINNED, download, from_hub
from generation.models.kinds import kind_of, misplaced
from generation.models.sources import PICKLES, Source, Vae, folder_source

ACCEPTED = "give a .safetensors file, a folder or a hub id"


def load_vae(vae: Vae, model: Source) -> Any:
    """The network in float32, on the CPU."""
    import diffusers
    import torch

    network = getattr(diffusers, model.config("vae")["_class_name"])
    if vae.source is not None:
        return network.from_pretrained(
            str(vae.source.place(vae.part)),
            variant=vae.source.variant(vae.part),
            use_safetensors=vae.weight_files[0].suffix != ".bin",
            dtype=torch.float32,
            local_files_only=True,
        )
    return network.from_single_file(
        str(vae.single),
        config=str(model.folder),
        subfolder="vae",
        dtype=torch.float32,
        local_files_only=True,
    )


def find_vae(text: str, allow_pickle: bool, commits: Mapping[str, str] = UNPINNED) -> Vae:
    """What a user names. Raises ModelError for what is no autoencoder, or is not there."""
    path, hub = Path(text).expanduser(), HUB_ID.fullmatch(text)
    if path.is_file():
        return _in_file(text, path)
    if path.is_dir():
        source = folder_source(text, path)
    elif hub is not None and path.suffix not in (".safetensors", *PICKLES):
        source = from_hub(text, hub["id"], hub["revision"], commits)
    else:
        raise ModelError(f"unknown VAE {text!r}: {ACCEPTED}")
    return _in_folder(text, replace(source, allow_pickle=allow_pickle))


def _in_file(text: str, path: Path) -> Vae:
    kind = kind_of(path)
    if kind.name != "VAE":
        raise ModelError(misplaced(path, kind, "VAE"))
    return Vae(text, single=path)


def _in_folder(text: str, source: Source) -> Vae:
    part = next((part for part in ("vae", ".") if _listed(source, part)), None)
    if part is None:
        raise ModelError(f"VAE {text!r} holds no config.json, there or in vae/: {ACCEPTED}")
    found = Vae(text, source, part)
    if not str(found.config({})["_class_name"]).startswith("Autoencoder"):
        raise ModelError(f"VAE {text!r} holds a {found.config({})['_class_name']}: name an autoencoder")
    if not source.weights(part):
        raise ModelError(f"VAE {text!r} holds no weights beside its config.json")
    if source.commit:
        download(source, source.weights(part))
    for file in found.weight_files:
        if file.suffix == ".safetensors":
            read_header(file)
        elif not source.allow_pickle:
            raise ModelError(
                f"{file} is pickled, and unpickling can run code: give safetensors, or allow pickles"
            )
    return found


def _listed(source: Source, part: str) -> bool:
    return ("config.json" if part == "." else f"{part}/config.json") in source.listing
