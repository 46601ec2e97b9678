"""What a model consists of: the files of a folder in diffusers' layout, by part. Knows no family and no hub.

A source's `listing` (path -> bytes) says which files there are, downloaded or not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from generation.models.corrections import class_in, completed
from generation.models.errors import ModelError
from generation.models.files import read_json, shapes_in

AUTOENCODER = "AutoencoderKL"
CONFIGURATION = (".json", ".txt", ".model")
PICKLES = (".bin", ".ckpt", ".pt", ".pth")
DROPPED = ("safety_checker", "feature_extractor", "image_encoder")
"""Parts of diffusers' pipelines that no picture here depends on: never downloaded, never loaded."""

CLASS_MAP = "class map"
MAP = "map"
TABLES = {CLASS_MAP: "classes.json", MAP: "map.json"}


@dataclass(frozen=True)
class Lora:
    """A low-rank update in a local safetensors file, and the weight with which it is added.

    commits: its name on the hub -> commit, where it comes from there.
    """

    path: Path
    weight: float
    commits: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A model found: `folder` in diffusers' layout; `single`, a file with weights if they are apart.

    inside: parts whose weights `single` has; those of other parts are in the folder. repository: the name under which
    that folder was found, if that is another. said: what the single file says of its own prediction, as settings of a
    scheduler. vae: the autoencoder that the user brought, in place of the model's. commits: name on the hub -> commit,
    of what comes from there. borrowed: parts that lie in the folder around this one, as `"_parts_of": ".."` in its
    model_index.json says.
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
    inside: frozenset[str] = frozenset()
    repository: str = ""
    said: Mapping[str, Any] = field(default_factory=dict)
    vae: Vae | None = None

    def place(self, path: str) -> Path:
        """Where a file or part of the listing lies."""
        part = path.partition("/")[0]
        return (self.folder.parent if part in self.borrowed else self.folder) / path

    def read(self, path: str) -> dict[str, Any]:
        """A JSON file of the folder."""
        return read_json(self.place(path))

    def config(self, part: str) -> dict[str, Any]:
        """The configuration of a part; of an autoencoder that was brought, its own."""
        if part != "vae":
            return self.read(f"{part}/config.json")
        given = self.vae is not None and self.vae.single is None
        own = {} if given else self.read("vae/config.json")
        named = class_in(self.index, "vae") if self.kind not in TABLES else None
        own = own if named is None or given else completed(named, own)
        return own if self.vae is None else self.vae.config(own)

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
    def index(self) -> dict[str, Any]:
        """model_index.json."""
        return self.read("model_index.json")

    @property
    def stored(self) -> tuple[str, ...]:
        """The parts whose weights, or words, are in the folder: not in a single file, not brought by the user."""
        brought = {"vae"} if self.vae is not None else set()
        return tuple(part for part in self.parts if part not in self.inside | brought)

    def weights(self, part: str) -> tuple[str, ...]:
        """The weight files of a part in the variant that is loaded; empty for tokenizers and schedulers."""
        return self._chosen(part)[1]

    def variant(self, part: str) -> str | None:
        """The variant of a part's weights that is loaded: "fp16" of model.fp16.safetensors, or None."""
        return self._chosen(part)[0]

    def _chosen(self, part: str) -> tuple[str | None, tuple[str, ...]]:
        """The plain weights, else a variant; safetensors before pickles, and first where pickles are refused."""
        found: dict[tuple[str | None, bool], list[str]] = {}
        for path in self.listing:
            place = PurePosixPath(path)
            named = WEIGHTS.fullmatch(place.name)
            if named is not None and place.parent == PurePosixPath(part):
                kind = (named["variant"] or named["old_variant"], named["suffix"] != "safetensors")
                found.setdefault(kind, []).append(path)
        if not found:
            return None, ()
        best = min(found, key=self._preference)
        return best[0], tuple(sorted(found[best]))

    def _preference(self, kind: tuple[str | None, bool]) -> tuple[Any, ...]:
        variant, pickled = kind
        rank = VARIANTS.index(variant) if variant in VARIANTS else len(VARIANTS)
        order = (rank, variant or "")
        return (order, pickled) if self.allow_pickle else (pickled, order)


@dataclass(frozen=True)
class Vae:
    """An autoencoder found: a part of a source in diffusers' layout, or a file that says nothing but its weights."""

    text: str
    source: Source | None = None
    part: str = "."
    single: Path | None = None

    @property
    def config_files(self) -> tuple[Path, ...]:
        """The autoencoder's own configuration, if it has one."""
        return () if self.source is None else (self.source.place(f"{self.part}/config.json"),)

    @property
    def weight_files(self) -> tuple[Path, ...]:
        """All local."""
        if self.source is None:
            return (self.single,) if self.single is not None else ()
        return tuple(self.source.place(path) for path in self.source.weights(self.part))

    def config(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """The autoencoder's configuration; of a single file that of the model's own autoencoder."""
        if self.source is None:
            return {**model, "latent_channels": self._channels()}
        own = self.source.read(f"{self.part}/config.json")
        return completed(str(own.get("_class_name") or AUTOENCODER), own)

    def _channels(self) -> int:
        """Channels of the latents that a file's decoder reads: its first convolution's weights are (out, in, 3, 3)."""
        assert self.single is not None
        shapes = shapes_in(self.single)
        return next(shape[1] for name, shape in shapes.items() if name.endswith("decoder.conv_in.weight"))


WEIGHTS = re.compile(
    r"(diffusion_pytorch_model|model|pytorch_model)"
    r"(\.(?P<variant>\w+))?(-\d+-of-\d+)?(\.(?P<old_variant>\w+))?\.(?P<suffix>safetensors|bin)"
)
"""Names of weights as diffusers and transformers write them: plain, in a variant, in shards, in shards as they were
named before."""

VARIANTS = (None, "fp16", "bf16", "fp32", "ema")
"""Which is loaded where there are several; others come last."""


def is_configuration(path: str) -> bool:
    """Whether a file says what a model is, rather than what it has learned."""
    return path.endswith(CONFIGURATION)


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
