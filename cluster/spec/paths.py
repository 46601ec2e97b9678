"""Paths as people write them, made absolute and normal: once, where they come in. Knows names; opens no file.

Links are kept as they are: `link/../b` is the `b` beside the link, as it reads.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

EMBEDDED = "embedded"
"""The model that comes with the program, or a folder of its kind in it: "embedded/fast"."""
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")


def absolute(path: Path | str) -> Path:
    """The same place from whatever folder it is looked for; `~` is the home folder, and no `..` is left."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def here(path: Path) -> Path:
    """A path as people here would write it: relative where it lies in the folder they stand in."""
    stands = Path(os.getcwd())
    return path.relative_to(stands) if path.is_relative_to(stands) else path


def address_of(path: Path) -> str | None:
    """ "s3://bucket/a" of a path that was meant as one: it would name a folder here. None of any other path."""
    scheme, *rest = path.parts or ("",)
    return f"{scheme}//{PurePosixPath(*rest)}" if ADDRESS.fullmatch(scheme) else None


def absolute_model(name: str) -> str:
    """A model's name: of a folder or file here its path, any other as it is, "embedded/fast" and ids on the hub."""
    first, *inside = name.split("/")
    is_embedded = first == EMBEDDED and ".." not in inside
    return name if is_embedded or not _exists(name) else str(absolute(name))


def model_in_public(name: str) -> str:
    """A model's name as anyone may read it: of a folder or file here the last part, any other name as it is."""
    path = Path(name).expanduser()
    return absolute(name).name if path.exists() or path.is_absolute() else name


def absolute_lora(text: str) -> str:
    """path_or_id[:weight], with the path of a folder or file here made absolute."""
    if _exists(text):
        return str(absolute(text))
    name, colon, weight = text.rpartition(":")
    return f"{absolute(name)}{colon}{weight}" if name and _exists(name) else text


def _exists(name: str) -> bool:
    return os.path.exists(os.path.expanduser(name))
