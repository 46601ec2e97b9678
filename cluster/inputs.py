"""Copies of the user's files that a job reads, named by their content: FOLDER/inputs/SHA256.tif. Knows specs and files.

The originals may then change, move or go away. A Zarr folder is copied as a whole. What is larger than COPIED_BYTES
stays where it lies; whoever opens it compares its content with what it was.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from uuid import uuid4

from cluster.spec import JobSpec, SpecError
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


def _kept(path: Path, content: str, folder: Path, limit: int) -> Path:
    copy = folder / f"{content}{path.suffix}"
    if path == copy or (copy.exists() and content_hash(copy) == content):
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
