"""What makes a job the job it is: every fact that determines its pixels. Knows specs and contents; plans nothing.

Files count by content, the model's and the user's; where they lie does not count. The driver reads them when a job
begins, and whoever opens them later compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.spec.fields import INPUTS, SETTINGS, JobSpec, SpecError
from cluster.spec.prediction import correction_facts
from generation.models.contracts import ModelInfo
from generation.models.errors import ModelError
from storage.containers import cores
from storage.fingerprint import content_hash

PICTURE_VERSION = 5
"""Raised whenever the same spec starts to give other pixels."""


def job_facts(spec: JobSpec, info: ModelInfo, inputs: Mapping[str, str], map: str | None) -> dict[str, Any]:
    """Of a resolved spec and an identified model. map: the fingerprint of the job that invents the class map."""
    facts = {"version": PICTURE_VERSION, "picture": picture_facts(spec, inputs), **model_facts(info)}
    facts |= correction_facts(info)
    return facts if map is None else facts | {"map": map}


# --- the spec --------------------------------------------------------------------------------------------------------


def picture_facts(
    spec: JobSpec, inputs: Mapping[str, str] | None = None, names: Iterable[str] = SETTINGS
) -> dict[str, Any]:
    """What of a resolved spec determines the pixels, as plain JSON values. The model's files are not among it.

    inputs: what `inputs_of` found, where that is known. names: settings to tell, where not all.
    """
    inputs = inputs_of(spec) if inputs is None else inputs
    facts: dict[str, Any] = {}
    for name in names:
        facts |= SETTINGS[name].fact(spec, name, inputs)
    return facts


# --- files of the user -----------------------------------------------------------------------------------------------


def inputs_of(spec: JobSpec, names: Iterable[str] = INPUTS) -> dict[str, str]:
    """SHA-256 of each file, or Zarr folder, that a spec names, by field. Raises SpecError where one cannot be read."""
    return {name: _input_hash(name, path) for name in names if (path := getattr(spec, name)) is not None}


def check_inputs(spec: JobSpec, began: Mapping[str, str], names: Iterable[str] = INPUTS) -> None:
    """Raises SpecError where a file of the user's is not what it was when its job began. began: as `inputs_of` said."""
    for name, now in inputs_of(spec, names).items():
        if now != began[name]:
            raise SpecError(
                f"{INPUTS[name].name} {getattr(spec, name)} has changed since it was first read; put back what it was, "
                "or start again in another folder with --out"
            )


def _input_hash(name: str, path: Path) -> str:
    about = INPUTS[name]
    try:
        return content_hash(path)
    except FileNotFoundError:
        raise SpecError(f"{about.name} {path} does not exist; {about.hint}") from None
    except OSError as error:
        raise SpecError(f"{about.name} {path} cannot be read: {error.strerror}; {about.hint}") from None


# --- the model -------------------------------------------------------------------------------------------------------


def identified(info: ModelInfo) -> ModelInfo:
    """The model with its files read: their contents, hashed. One whose files have been read stays as it is."""
    if len(info.hashes) == len(info.files):
        return info
    with ThreadPoolExecutor(cores()) as readers:
        return replace(info, hashes=tuple(readers.map(content_hash, map(Path, info.files))))


def model_facts(info: ModelInfo, *others: ModelInfo) -> dict[str, Any]:
    """What fixes what an identified model computes; others: models that are used beside it."""
    files: list[tuple[str, str]] = []
    for one in (info, *others):
        files += zip((Path(path).name for path in one.files), one.hashes, strict=True)
    named = {f"{name}:{index}": content for index, (name, content) in enumerate(files)}
    return {"files": named, "commit": info.notes.get("commit")}


def check_model(name: str, began: ModelInfo, found: ModelInfo) -> None:
    """Raises ModelError, in one line, where the model that was found here is not the one that its job began with."""
    was, now = began.notes.get("commits", {}), found.notes.get("commits", {})
    for place in sorted({*was, *now}):
        if was.get(place) != now.get(place):
            raise ModelError(
                f"{place} was loaded at commit {now.get(place, 'none')}, and this job began with "
                f"{was.get(place, 'none')}; start again in another folder with --out"
            )
    if began.hashes != found.hashes:
        raise ModelError(
            f"model {name!r} is not what it was when this job began: {_first_difference(began, found)}; give every "
            "worker the same files and put back what they were, or start again in another folder with --out"
        )


def _first_difference(began: ModelInfo, found: ModelInfo) -> str:
    """Of their files."""
    if len(began.files) != len(found.files):
        return f"it has {len(found.files)} files, and had {len(began.files)}"
    pairs = zip(began.hashes, found.hashes, found.files, strict=True)
    return next(f"{file} has changed" for was, now, file in pairs if was != now)
