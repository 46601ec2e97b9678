"""Models and LoRAs from the hub of Hugging Face, at a commit each. Knows repositories; knows no family and no tensor.

A name is org/name[@revision]. Whoever begins something settles which commit a name stands for; whoever goes on with it
asks for that commit.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from generation.models.errors import ModelError, UnknownModel, first_line
from generation.models.sources import CONFIGURATION, PICKLES, TABLES, Source, folder_source

UNPINNED: Mapping[str, str] = MappingProxyType({})
"""Commits of names on the hub, where nobody has settled any: each is taken as it is now."""
HUB_ID = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def from_hub(
    name: str, repository: str, revision: str | None, commits: Mapping[str, str] = UNPINNED
) -> Source:
    """A hub model with its configuration on this machine; the cache serves where the hub cannot be asked.

    The commit that is settled for its name counts before any revision.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    revision = commits.get(name) or revision
    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            about = HfApi().model_info(repository, revision=revision, files_metadata=True)
            listing = {file.rfilename: file.size or 0 for file in about.siblings or ()}
            wanted = [path for path in listing if path.endswith(CONFIGURATION) and path.count("/") < 2]
            folder = snapshot_download(
                repository, revision=about.sha, allow_patterns=wanted or "model_index.json"
            )
            return _at_commit(Source(name, Path(folder), listing), about.sha or "")
        except (
            Exception
        ) as error:  # the hub's client lets through the errors of its HTTP library, whichever it is
            reason = first_line(error)
    try:
        folder = snapshot_download(repository, revision=revision, local_files_only=True)
    except (OSError, ValueError) as error:  # a LocalEntryNotFoundError is an OSError
        why = f"not in the hub cache; {reason}"
        if name not in commits:
            raise UnknownModel(f"{unknown(name)} (no such folder; {why})", why) from error
        raise ModelError(
            f"commit {revision} of {name!r}, with which this was begun, cannot be had ({why})"
        ) from error
    return _at_commit(folder_source(name, Path(folder)), Path(folder).name)


def _at_commit(source: Source, commit: str) -> Source:
    return replace(source, commit=commit, commits={source.name: commit} if commit else {})


def download(source: Source, names: Iterable[str]) -> None:
    """Fetch the named files of a hub source that are not in its folder yet."""
    from huggingface_hub import hf_hub_download

    repository = source.name.partition("@")[0]
    try:
        for name in names:
            if not (source.folder / name).exists():
                hf_hub_download(repository, name, revision=source.commit)
    except Exception as error:  # as above
        message = f"weights of {source.name!r} could not be downloaded: {first_line(error)}"
        raise ModelError(message) from error


def is_model(path: Path) -> bool:
    """Whether a path looks like a model: a file of weights, or a folder in diffusers' layout."""
    if path.is_dir():
        return any((path / name).is_file() for name in ("model_index.json", *TABLES.values()))
    return path.suffix.lower() in (".safetensors", *PICKLES)


def unknown(model: str) -> str:
    """What to say of a name that is nothing: what is accepted, and what was perhaps meant."""
    parent = Path(model).expanduser().parent
    beside = [str(parent / path.name) for path in parent.iterdir()] if parent.is_dir() else []
    near = difflib.get_close_matches(model, ["embedded", *beside])
    meant = next((name for name in near if name == "embedded" or is_model(Path(name).expanduser())), None)
    hint = f"; did you mean {meant!r}?" if meant else ""
    accepted = "'embedded', a folder, a .safetensors file or a hub id org/name[@revision]"
    return f"unknown model {model!r}: give {accepted}{hint}"
