"""The identity of a job: a hash of everything that determines its pixels. Knows JSON and files; knows no spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from storage.files import naming


class FormatError(ValueError):
    """Something on disk is of another job, or of a format version that this program does not know."""


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the facts as canonical JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(path: Path) -> str:
    """SHA-256 of a file's content, or of a folder's files: their names, in order, and contents."""
    if not path.is_dir():
        return file_hash(path)
    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


def content_hash(path: Path) -> str:
    """A file's hash, remembered for as long as the stamp is the same. Raises OSError where it cannot be read."""
    return _hash_when(path, stamp(path))


@lru_cache(maxsize=4096)
def _hash_when(path: Path, key: str) -> str:
    del key
    return tree_hash(path)


def stamp(path: Path) -> str:
    """What changes when a file, or one in a folder, is written: a hash of places, sizes and times, not of contents.

    The time of the last change of any kind is among them, which no program can set back as it can that of writing.
    """
    facts = [(file, file.stat()) for file in (_files(path) if path.is_dir() else [path])]
    told = [
        f"{file.absolute()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}\0{stat.st_ino}"
        for file, stat in facts
    ]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
