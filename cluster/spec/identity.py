"""What makes a job the job it is: every fact that determines its pixels. Knows specs and contents; plans nothing.

Files count by content, the model's and the user's; where they lie does not count. The driver reads them when a job
begins, and whoever opens them later compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.prediction import correction_facts, prediction_facts
from generation.models.contracts import ModelInfo
from generation.models.errors import ModelError
from generation.sampling import methods
from storage.containers import cores
from storage.fingerprint import content_hash

PICTURE_VERSION = 5
"""Raised whenever the same spec starts to give other pixels."""


@dataclass(frozen=True)
class Input:
    """A field of a spec that names a file of the user's. name: as messages call it; hint: what to give."""

    name: str
    hint: str


INPUTS: Mapping[str, Input] = {
    "classes": Input("class map", "give the path of an image"),
    "class_labels": Input("class labels", "give the path of a YAML, JSON or CSV file"),
    "regions": Input("regions", "--regions takes a picture of labels or a GeoJSON file"),
}


def job_facts(spec: JobSpec, info: ModelInfo, inputs: Mapping[str, str], map: str | None) -> dict[str, Any]:
    """Of a resolved spec and an identified model. map: the fingerprint of the job that invents the class map."""
    facts = {"version": PICTURE_VERSION, "picture": picture_facts(spec, inputs), **model_facts(info)}
    facts |= correction_facts(info)
    return facts if map is None else facts | {"map": map}


# --- the spec --------------------------------------------------------------------------------------------------------


def picture_facts(spec: JobSpec, inputs: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What of a resolved spec determines the pixels, as plain JSON values. The model's files are not among it.

    inputs: what `inputs_of` found, where that is known.
    """
    inputs = inputs_of(spec) if inputs is None else inputs
    facts: dict[str, Any] = {
        "prompt": spec.prompt,
        "negative_prompt": spec.negative_prompt,
        "size": [spec.width, spec.height],
        "loras": [Path(lora).name for lora in spec.loras],  # their content is among the model's files
        "method": spec.method,
        "overlap": spec.overlap if spec.method in methods.OVERLAPPING else None,
        "blend_last": spec.blend_last,
        "scheduler": spec.scheduler,
        "num_inference_steps": spec.num_inference_steps,
        "guidance_scale": spec.guidance_scale,
        "eta": spec.eta,
        "seed": spec.seed,
        "classes": inputs.get("classes"),
        "topology": spec.topology,
        "dtype": spec.dtype,
        "device": spec.device,
        "batch_size": spec.batch_size,
        "threads": spec.threads,
        "outputs": list(spec.outputs),
        "tile": spec.tile,
        "tile_format": spec.tile_format,
    }
    if "class_labels" in inputs:
        facts |= {"class_labels": inputs["class_labels"]}
    if spec.clean_map:
        facts |= {"clean_map": spec.clean_map}
    if spec.decode != "hann":
        facts |= {"decode": spec.decode}
    if spec.regions is not None or spec.region_box:
        facts |= {"regions": _region_facts(spec, inputs)}
    facts |= prediction_facts(spec)
    return facts | {"unconditional": True} if spec.cond_scale == 0 else facts


def _region_facts(spec: JobSpec, inputs: Mapping[str, str]) -> dict[str, Any]:
    told = {"labels": spec.region, "boxes": spec.region_box}
    return {
        "map": inputs.get("regions"),
        "feather": spec.region_feather,
        **{name: [one.model_dump() for one in regions] for name, regions in told.items()},
    }


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
