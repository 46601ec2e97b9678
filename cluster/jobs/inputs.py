"""Copies of the user's files that a job reads, named by their content: FOLDER/inputs/SHA256.tif. Knows specs and files.

The originals may then change, move or go away; job.yaml tells where they were, so that a copy that is lost can be made
again from one that is still what it was. A Zarr folder is copied as a whole. What is larger than COPIED_BYTES
stays where it lies; whoever opens it compares its content with what it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from cluster.rereading import REREADING, Rereading
from cluster.spec.fields import INPUTS, JobSpec, SpecError
from storage.files import sync
from storage.fingerprint import content_hash, tree_hash

FOLDER = "inputs"
COPIED_BYTES = 256 * 2**20


def kept(spec: JobSpec, contents: Mapping[str, str], folder: Path, limit: int = COPIED_BYTES) -> JobSpec:
    """The spec with copies in a folder in place of the files that it names. contents: as `inputs_of` found them.

    Copies are durable when this returns. Raises SpecError for a file that has changed meanwhile, OSError where it
    cannot be copied.
    """
    copies = {
        name: _kept(getattr(spec, name), content, folder / FOLDER, limit)
        for name, content in contents.items()
    }
    return spec.model_copy(update=copies)


def copied_files(spec: JobSpec, names: Iterable[str], limit: int = COPIED_BYTES) -> list[Path]:
    """The files that `kept` copies of these fields."""
    files = [list(_files(getattr(spec, name))) for name in names]
    return [file for group in files if _bytes(group) <= limit for file in group]


# --- copies that are lost ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lost:
    """A copy that is missing, or not what it was. original: a file that still is; None where there is none."""

    name: str
    copy: Path
    original: Path | None

    def advice(self) -> str:
        """What to do where nothing else is left to be copied."""
        return (
            f"{INPUTS[self.name].name} {self.copy} is missing or damaged, and where it came from is no longer what it "
            "was: copy what you gave there, under that name, to go on"
        )


def originals_of(spec: JobSpec, folder: Path) -> dict[str, str]:
    """Where the files that a spec names lie, by field, but for those that are copies in a job's folder."""
    paths = {name: path for name in INPUTS if (path := getattr(spec, name)) is not None}
    return {name: str(path) for name, path in paths.items() if not path.is_relative_to(folder / FOLDER)}


def lost_copies(
    spec: JobSpec, contents: Mapping[str, str], originals: Mapping[str, str], reading: Rereading = REREADING
) -> list[Lost]:
    """Which copies that a saved spec names are missing or damaged.

    contents: what they were, by field; originals: where they came from.
    """
    copies = {
        name: path
        for name in INPUTS
        if (path := getattr(spec, name)) is not None and path.is_relative_to(spec.out / FOLDER)
    }
    lost = []
    for name, copy in copies.items():
        told = contents.get(name, copy.stem)
        if not _holds(copy, told, reading):
            original = Path(originals[name]) if name in originals else None
            is_good = original is not None and _holds(original, told, reading)
            lost.append(Lost(name, copy, original if is_good else None))
    return lost


def _holds(path: Path, content: str, reading: Rereading) -> bool:
    """Whether a file or folder is there and of this content; raises OSError where it may not be read."""
    return reading.is_whole(lambda: path.exists() and content_hash(path) == content)


# --- one copy --------------------------------------------------------------------------------------------------------


def _kept(path: Path, content: str, folder: Path, limit: int) -> Path:
    copy = folder / f"{content}{path.suffix}"
    if path == copy or _holds(copy, content, REREADING):
        return copy
    if _bytes(_files(path)) > limit:
        return path
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f".{copy.name}.{uuid4().hex}"
    try:
        _copy(path, unfinished)
        if tree_hash(unfinished) != content:
            raise SpecError(f"{path} was written to while the job began; start again when it is finished")
        _remove(copy)  # a damaged one
        unfinished.replace(copy)
        sync(folder)
        sync(folder.parent)
    finally:
        _remove(unfinished)
    return copy


def _copy(path: Path, to: Path) -> None:
    """A file, or all files of a folder, on the disk when this returns."""
    if not path.is_dir():
        shutil.copyfile(path, to)
        sync(to)
        return
    for file in _files(path):
        target = to / file.relative_to(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        sync(target)
    for folder, _, _ in os.walk(to):
        sync(Path(folder))


def _files(path: Path) -> Iterator[Path]:
    return (file for file in path.rglob("*") if file.is_file()) if path.is_dir() else iter([path])


def _bytes(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
