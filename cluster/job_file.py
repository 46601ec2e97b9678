"""`job.yaml`: a job's spec, identity and the versions that made it; and the YAML specs that people write. Knows YAML.

    format_version: 1
    fingerprint: 9051c4e9...
    versions: {hypermosaic: 0.1.0, torch: 2.13.0, ...}
    files: {diffusion_pytorch_model.safetensors:3: 77ab0c12..., classes: e3b0c442..., ...}
    spec: {prompt: archipelago, width: 4096, classes: inputs/e3b0c442....png, ...}

Copies in the job's own folder are named relative to it, so that it can be moved; other paths are absolute.

A spec that people write is the mapping under `spec` alone, with `size: 4096x4096` for the two sides if they like.
"""

from __future__ import annotations

import difflib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from cluster.identity import INPUTS
from cluster.paths import absolute
from cluster.spec import JobSpec, SpecError
from storage.fingerprint import FormatError
from storage.formats.atomic import replace_file

FORMAT_VERSION = 1
NAME = "job.yaml"
LATENTS = "latents.zarr/latents"
"""Beside it: (C, h, w) float32 that were decoded, in a group of its own, as xarray and napari open them."""
PACKAGES = (
    "hypermosaic",
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "pillow",
    "tensorstore",
    "zarr",
    "ray",
)


@dataclass(frozen=True)
class SavedJob:
    """What job.yaml of a folder says; `spec.out` is that folder, wherever it has been moved to.

    files: SHA-256 of what the job reads. pickled: whether it was begun with leave to unpickle. That leave is never
    taken from a file, for who writes the file could run code: spec.allow_pickle is False.
    """

    spec: JobSpec
    fingerprint: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    pickled: bool


def save(spec: JobSpec, fingerprint: str, files: Mapping[str, str] = MappingProxyType({})) -> Path:
    """Write job.yaml into the job's folder; returns its path."""
    path = spec.out / NAME
    document = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "versions": dict(versions()),
        "files": dict(files),
        "spec": _within(spec.model_dump(mode="json"), spec.out),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, yaml.safe_dump(document, sort_keys=False, allow_unicode=True).encode())
    return path


def load(folder: Path) -> SavedJob:
    """Read it back. Raises SpecError where there is none, FormatError where it is of a version not known here."""
    folder = absolute(folder)
    path = folder / NAME
    if not path.is_file():
        raise SpecError(f"{folder} holds no {NAME}; give the folder that a job was written to")
    document = _mapping(path)
    if document.get("format_version") != FORMAT_VERSION:
        raise FormatError(
            f"{path} has format_version {document.get('format_version')!r}; this program reads {FORMAT_VERSION}"
        )
    try:
        fields = _placed(document["spec"], folder)
        pickled = bool(fields.pop("allow_pickle", False))
        spec = JobSpec(**{**fields, "out": folder})
        files = dict(document.get("files") or {})
        return SavedJob(spec, str(document["fingerprint"]), document["versions"], files, pickled)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"{path} is damaged: {error}; start the job again in another folder") from None


def _within(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of copies in a job's folder, relative to it."""
    inside = {name: Path(value) for name in INPUTS if (value := fields[name]) is not None}
    return fields | {
        name: path.relative_to(folder).as_posix()
        for name, path in inside.items()
        if path.is_relative_to(folder)
    }


def _placed(fields: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The same paths, in the folder where the job.yaml lies now."""
    return {
        name: str(folder / value) if name in INPUTS and value is not None else value
        for name, value in fields.items()
    }


@cache
def versions() -> Mapping[str, str]:
    """Versions of Python and of the packages that can change a pixel or a file."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def read_fields(path: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """The fields of JobSpec that a YAML spec names, or those of a job.yaml. Values are not checked here.

    Raises SpecError for a file that takes leave to unpickle, which is the user's to give: allow_pickle, if they did.
    """
    document = _mapping(path)
    if "format_version" in document and isinstance(document.get("spec"), dict):
        document = _placed(document["spec"], absolute(path).parent)
        document.pop("out", None)  # the folder of that other job
    fields = {str(name).replace("-", "_"): value for name, value in document.items()}
    if fields.pop("allow_pickle", None) not in (None, False) and not allow_pickle:
        raise SpecError(
            f"{path} asks for allow_pickle, and unpickling can run code: only the command may, add --allow-pickle to it"
        )
    return fields | sides(fields.pop("size", None))


def sides(size: str | None) -> dict[str, int]:
    """ "4096x2048" -> {"width": 4096, "height": 2048}; nothing for None. Raises SpecError."""
    if size is None:
        return {}
    found = re.fullmatch(r"\s*(-?\d+)\s*[xX\N{MULTIPLICATION SIGN}]\s*(-?\d+)\s*", str(size))
    if found is None:
        raise SpecError(f"size {size!r} is not WIDTHxHEIGHT in pixels; write it like 4096x4096")
    return {"width": int(found[1]), "height": int(found[2])}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(f"{path} cannot be read: {error.strerror}{_nearby(path)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        where = f" (line {place.line + 1}, column {place.column + 1})" if place else ""
        raise SpecError(f"{path} is not YAML{where}; write one `name: value` a line") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path} holds {json.dumps(document, default=str)[:40]}, not `name: value` lines")
    return document


def _nearby(path: Path) -> str:
    names = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""
