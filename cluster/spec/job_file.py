"""`job.yaml`: a job's spec, identity and the versions that made it; and the YAML specs that people write. Knows YAML.

    format_version: 1
    fingerprint: 9051c4e9...
    versions: {hypermosaic: 0.1.0, torch: 2.13.0, ...}
    files: {diffusion_pytorch_model.safetensors:3: 77ab0c12..., classes: e3b0c442..., ...}
    originals: {classes: /home/ann/coast.png, ...}
    spec: {prompt: archipelago, width: 4096, classes: inputs/e3b0c442....png, ...}

Copies in the job's own folder are named relative to it, so that it can be moved; other paths are absolute.

A spec that people write is the mapping under `spec` alone. In it, `size: 4096x2048` or `size: 2048` may stand for the
two sides, `seed: random` for a seed that is drawn, and ALIASES for what they name.
"""

from __future__ import annotations

import difflib
import json
import platform
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from cluster.spec.fields import ALIASES, INPUTS, JobSpec, SpecError
from cluster.spec.paths import absolute
from storage.documents import MOST_BYTES, DocumentError, parse_yaml, read_text
from storage.files import replace_file
from storage.fingerprint import FormatError

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

    files: SHA-256 of what the job reads; originals: where copies of the user's files came from, by field. pickled:
    whether it was begun with leave to unpickle. That leave is never taken from a file, for who writes the file could
    run code: spec.allow_pickle is False.
    """

    spec: JobSpec
    fingerprint: str
    versions: Mapping[str, str]
    files: Mapping[str, str]
    pickled: bool
    originals: Mapping[str, str]


def save(
    spec: JobSpec,
    fingerprint: str,
    files: Mapping[str, str] = MappingProxyType({}),
    originals: Mapping[str, str] = MappingProxyType({}),
) -> Path:
    """Write job.yaml into the job's folder; returns its path."""
    path = spec.out / NAME
    document = {
        "format_version": FORMAT_VERSION,
        "fingerprint": fingerprint,
        "versions": dict(versions()),
        "files": dict(files),
        "originals": dict(originals),
        "spec": _within(spec.model_dump(mode="json"), spec.out),
    }
    replace_file(path, _readable(document))
    return path


def _readable(document: dict[str, Any]) -> bytes:
    """The document as YAML. Raises SpecError where it could not be read back: the job could not be gone on with."""
    reason = "read back, they would be others"
    for plain in (True, False):  # some characters are read back only when they are written as escapes
        try:
            text = yaml.safe_dump(document, sort_keys=False, allow_unicode=plain)
            if len(text.encode()) > MOST_BYTES:
                reason = f"they would take more than {MOST_BYTES:,} bytes"
            elif parse_yaml(text) == document:
                return text.encode()
        except (UnicodeEncodeError, DocumentError) as error:
            reason = str(error).splitlines()[0][:80]
    raise SpecError(
        f"these settings cannot be saved in {NAME}: {reason}; is the prompt plain text, and not too long?"
    )


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
        originals = {str(name): str(path) for name, path in (document.get("originals") or {}).items()}
        return SavedJob(spec, str(document["fingerprint"]), document["versions"], files, pickled, originals)
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
    try:
        fields = canonical({str(name).replace("-", "_"): value for name, value in document.items()})
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from None
    if fields.pop("allow_pickle", None) not in (None, False) and not allow_pickle:
        raise SpecError(
            f"{path} asks for allow_pickle, and unpickling can run code: only the command may, add --allow-pickle to it"
        )
    return fields


def canonical(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by the names of JobSpec's fields: without aliases, and with the two sides of a `size`.

    Raises SpecError where one is given under two names.
    """
    fields: dict[str, Any] = {}
    for name, value in given.items():
        ours = ALIASES.get(name, name)
        if ours in fields:
            raise SpecError(
                f"{name} is given twice: {' and '.join(_called(ours, given))} are the same; leave one out"
            )
        fields[ours] = value
    size = fields.pop("size", None)
    both = sorted({"width", "height"} & set(fields)) if size is not None else ()
    if both:
        raise SpecError(
            f"size {str(size)[:40]} and {' and '.join(both)} both say how large the picture is; give one"
        )
    return fields | sides(size)


def _called(name: str, given: Mapping[str, Any]) -> list[str]:
    return [other for other in given if ALIASES.get(other, other) == name]


RANDOM = "random"


def with_seed_drawn(fields: dict[str, Any]) -> tuple[dict[str, Any], int | None]:
    """`seed: random` as a seed that is drawn now; and that seed, None where one was given."""
    if str(fields.get("seed")).strip().lower() != RANDOM:
        return fields, None
    drawn = secrets.randbelow(2**32)
    return fields | {"seed": drawn}, drawn


SIZE = re.compile(r"\s*(-?\d{1,18})\s*(?:[xX\N{MULTIPLICATION SIGN}]\s*(-?\d{1,18})\s*)?")


def sides(size: object) -> dict[str, int]:
    """ "4096x2048" -> {"width": 4096, "height": 2048}; a number is a square; nothing for None. Raises SpecError."""
    if size is None:
        return {}
    found = None if isinstance(size, bool) else SIZE.fullmatch(str(size))
    if found is None:
        raise SpecError(
            f"size {str(size)[:40]!r} is neither a side nor WIDTHxHEIGHT in pixels; write it like 2048 or 4096x2048"
        )
    return {"width": int(found[1]), "height": int(found[2] or found[1])}


def _mapping(path: Path) -> dict[str, Any]:
    try:
        document = parse_yaml(read_text(path))
    except DocumentError as error:
        raise SpecError(f"{path} {error}; {_advice(path)}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{path} holds {json.dumps(document, default=str)[:40]}, not `name: value` lines")
    return document


def _advice(path: Path) -> str:
    """What to do about a file of settings that cannot be used."""
    if path.is_file():
        return "write one `name: value` a line"
    names = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / near[0]}?" if near else "give a YAML file of settings"
