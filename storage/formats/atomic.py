"""Files that appear whole or not at all. Knows one trick, a rename; it does not outlive a power cut (no fsync)."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees all of it or none, even when the writer is killed."""
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        unfinished.write_bytes(content)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
