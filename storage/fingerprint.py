"""The identity of a job: a hash of everything that determines its pixels. Knows JSON and files; knows no spec."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class FormatError(ValueError):
    """Something on disk is of another job, or of a format version that this program does not know."""


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256, in hexadecimal, of the facts as canonical JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
