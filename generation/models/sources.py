"""What a model consists of: the files of a folder in diffusers' layout, by part. Knows no family and no hub.

A source's `listing` (path -> bytes) says which files there are, downloaded or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from generation.models.errors import ModelError
from generation.models.files import read_json

if TYPE_CHECKING:
    from generation.models.text_unet import Lora

PICKLES = (".bin", ".ckpt", ".pt", ".pth")
DROPPED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of diffusers' pipelines that no picture here depends on: never downloaded, never loaded."""

CLASS_MAP = "class map"
MAP = "map"
TABLES = {CLASS_MAP: "classes.json", MAP: "map.json"}


@dataclass(frozen=True)
class Source:
    """A model found: `folder` in diffusers' layout; `single`, a file with all weights if they are apart.

    commits: name on the hub -> commit, of what comes from there.
    borrowed: parts that lie in the folder around this one, as `"_parts_of": ".."` in its model_index.json says.
    """

    name: str
    folder: Path
    listing: Mapping[str, int]
    single: Path | None = None
    commit: str = ""
    commits: Mapping[str, str] = field(default_factory=dict)
    loras: tuple[Lora, ...] = ()
    allow_pickle: bool = False
    borrowed: frozenset[str] = frozenset()

    def place(self, path: str) -> Path:
        """Where a file or part of the listing lies."""
        part = PurePosixPath(path).parts[0]
        return (self.folder.parent if part in self.borrowed else self.folder) / path

    def read(self, path: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        return read_json(self.place(path))

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part."""
        return self.read(f"{part}/config.json")

    @property
    def kind(self) -> str:
        """The key of this model's family in FAMILIES, or the name of a pipeline class that is not there."""
        for kind, table in TABLES.items():
            if table in self.listing:
                return kind
        return str(self.read("model_index.json").get("_class_name"))

    @property
    def parts(self) -> tuple[str, ...]:
        """The folders of model_index.json that are used."""
        index = self.read("model_index.json")
        present = (
            name for name, value in index.items() if isinstance(value, list) and value[:1] not in ([], [None])
        )
        return tuple(sorted(name for name in present if name not in DROPPED))

    @property
    def variant(self) -> str | None:
        """ "fp16" where the network exists in no other form."""
        network = "unet" if "unet" in self.parts else "transformer"
        names = [PurePosixPath(path).name for path in self.listing if path.startswith(f"{network}/")]
        full = [name for name in names if _is_weight(name, None, self.allow_pickle)]
        return (
            "fp16"
            if not full and any(_is_weight(name, "fp16", self.allow_pickle) for name in names)
            else None
        )

    def weights(self, part: str) -> tuple[str, ...]:
        """The weight files of a part, safetensors before pickles; empty for tokenizers and schedulers."""
        names = [path for path in self.listing if PurePosixPath(path).parent == PurePosixPath(part)]
        for variant in dict.fromkeys((self.variant, None, "fp16")):
            for pickled in (False, True):
                found = [name for name in names if _is_weight(PurePosixPath(name).name, variant, pickled)]
                if found:
                    return tuple(sorted(found))
        return ()


def _is_weight(name: str, variant: str | None, pickled: bool) -> bool:
    """Whether a file name is that of weights as diffusers and transformers write them (a shard included)."""
    dotted = re.escape(f".{variant}") if variant else ""
    suffix = "(safetensors|bin)" if pickled else "safetensors"
    base = "(diffusion_pytorch_model|model|pytorch_model)"
    return re.fullmatch(rf"{base}({dotted}(-\d+-of-\d+)?|-\d+-of-\d+{dotted})\.{suffix}", name) is not None


def folder_source(name: str, folder: Path) -> Source:
    """A local folder with all its files, and the parts that it borrows."""
    listing = _listing(folder, folder)
    if not borrows(folder):
        return Source(name, folder, listing)
    source = Source(name, folder, listing)
    borrowed = frozenset(part for part in source.parts if not (folder / part).is_dir())
    for part in borrowed:
        listing |= _listing(folder.parent / part, folder.parent)
    return replace(source, listing=listing, borrowed=borrowed)


def _listing(folder: Path, root: Path) -> dict[str, int]:
    """Path from the root -> bytes, of all files in a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.stat().st_size for path in files}


def borrows(folder: Path) -> bool:
    """Whether a model has parts in the folder around it."""
    index = folder / "model_index.json"
    if not index.is_file():
        return False
    outer = read_json(index).get("_parts_of")
    if outer not in (None, ".."):
        raise ModelError(
            f'{index} has parts of {outer!r}; only those of "..", the folder around it, can be used'
        )
    return outer is not None
