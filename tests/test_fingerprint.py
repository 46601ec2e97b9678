"""Hashes of contents, and when they may be remembered."""

from __future__ import annotations

import os
from pathlib import Path
from time import sleep

from storage.fingerprint import content_hash, tree_hash


def test_a_hash_is_remembered_only_while_nothing_was_written(tmp_path: Path) -> None:
    """Not even where the size and the time of writing are as before, as copying tools leave them."""
    file = tmp_path / "a" / "weights"
    file.parent.mkdir()
    file.write_bytes(b"one")
    for path in (file, file.parent):
        file.write_bytes(b"one")
        before, written = content_hash(path), file.stat().st_mtime_ns
        assert before == content_hash(path) == tree_hash(path)
        sleep(0.01)  # a tick of the file system's clock
        file.write_bytes(b"two")
        os.utime(file, ns=(written, written))
        assert content_hash(path) == tree_hash(path) != before
