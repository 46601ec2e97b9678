"""A hub of repositories in folders, each a list of commits, which can be pushed to. Not a test itself."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@dataclass
class Hub:
    """pushed: the folders that were pushed to each repository, the newest last. cache: what was fetched from here."""

    cache: Path
    pushed: dict[str, list[Path]] = field(default_factory=dict)

    def push(self, repository: str, files: Path) -> str:
        """A new commit, which is the newest from now on."""
        self.pushed.setdefault(repository, []).append(files)
        return _commit(files)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In place of the hub."""
        import huggingface_hub
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: self)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", self.snapshot_download)
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", self.hf_hub_download)

    # --- what huggingface_hub offers

    def model_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        """The listing, with sizes."""
        root = self._at(repository, revision)
        siblings = [
            SimpleNamespace(rfilename=path.relative_to(root).as_posix(), size=path.stat().st_size)
            for path in sorted(root.rglob("*"))
            if path.is_file()
        ]
        return SimpleNamespace(sha=_commit(root), siblings=siblings)

    def snapshot_download(self, repository: str, revision: str, allow_patterns: Any) -> str:
        """Some files at once."""
        for name in [allow_patterns] if isinstance(allow_patterns, str) else allow_patterns:
            if (self._at(repository, revision) / name).is_file():
                self.hf_hub_download(repository, name, revision)
        return str(self._snapshot(repository, revision))

    def hf_hub_download(self, repository: str, name: str, revision: str) -> None:
        """One file."""
        target = self._snapshot(repository, revision) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self._at(repository, revision) / name, target)

    def _at(self, repository: str, revision: str | None) -> Path:
        commits = self.pushed[repository]
        if revision is None:
            return commits[-1]
        return next(files for files in commits if _commit(files) == revision)

    def _snapshot(self, repository: str, revision: str) -> Path:
        folder = self.cache / repository / revision
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def _commit(files: Path) -> str:
    return hashlib.sha1(str(files).encode()).hexdigest()
