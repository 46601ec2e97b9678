"""Whether the files that a batch has beside its shards are as they were written. Knows files; draws nothing.

written.json    {"errors.parquet": {"bytes": 2301, "digest": "..."}, "webdataset/train-00000-of-00007.tar": ..., ...}

The plain folders are one entry, of all files that their metadata.jsonl names. The card is for people to edit, so it is
whole while it is text with the front matter of a card.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path

from cluster.datasets.extras import FOLDERS, METADATA, TARS, Extras
from cluster.datasets.names import CARD, ERROR_TABLE, SECONDS, SUCCESS
from cluster.engine.written import bytes_of_file, digest_of
from cluster.rereading import REREADING
from storage.damage import DamagedData
from storage.files import naming, replace_file
from storage.ledger import Written

WRITTEN = "written.json"


def damaged_in(folder: Path) -> list[str]:
    """Names of what is missing or not as written.json tells; of a finished batch without that, its name."""
    told = told_in(folder)
    if told is None:
        return [WRITTEN] if (folder / SUCCESS).is_file() else []
    looked = REREADING.whole(told.items(), lambda entry: _is_as(folder, *entry))
    return sorted(name for (name, _), whole in looked if not whole)


def told_in(folder: Path) -> Mapping[str, Written] | None:
    """What written.json says; None where there is none, or none that can be read."""
    read: list[bytes] = []

    def look() -> bool:
        with naming(folder / WRITTEN):
            read.append((folder / WRITTEN).read_bytes())
        return True

    try:
        told = json.loads(read[0] if REREADING.is_whole(look) else b"")
        return {str(name): Written(int(one["bytes"]), str(one["digest"])) for name, one in told.items()}
    except (FileNotFoundError, IsADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None


def tell(folder: Path, anew: Iterable[str] = ()) -> None:
    """Write written.json. anew: what was written again; of the rest, what was told before is not read again."""
    told = told_in(folder) or {}
    names = _names_in(folder)
    known = {name: told[name] for name in names if name in told and name not in anew}
    now = {name: known.get(name) or _written(folder, name) for name in names}
    if now != told:
        content = json.dumps({name: asdict(written) for name, written in now.items()}, indent=1)
        replace_file(folder / WRITTEN, content.encode() + b"\n")


def forget_damaged(folder: Path, names: Iterable[str], extras: Extras) -> Extras:
    """Remove these files, so that they are written again; copies whose digests are lost go all.

    Returns the copies to write: those asked for, and those that were there.
    """
    for name in names:
        gone = [folder / name]
        if name == WRITTEN:
            gone += [folder / other for other in _names_in(folder) if other.startswith(TARS)]
            gone.append(folder / FOLDERS / METADATA)
            extras = replace(
                extras, webdataset=extras.webdataset or (folder / TARS).is_dir(),
                folders=extras.folders or (folder / FOLDERS).is_dir(),
            )  # fmt: skip
        elif name == FOLDERS:
            gone, extras = [folder / FOLDERS / METADATA], replace(extras, folders=True)
        elif name.startswith(TARS):
            extras = replace(extras, webdataset=True)
        for path in gone:
            path.unlink(missing_ok=True)
    return extras


def _names_in(folder: Path) -> list[str]:
    """What there is beside the shards, of what a finished batch has."""
    names = [name for name in (ERROR_TABLE, CARD, SECONDS) if (folder / name).is_file()]
    tars = sorted(path.relative_to(folder).as_posix() for path in (folder / TARS).glob("*.tar"))
    return [*names, *tars, *([FOLDERS] if (folder / FOLDERS / METADATA).is_file() else [])]


def _is_as(folder: Path, name: str, told: Written) -> bool:
    if name == CARD:
        return is_card(folder / CARD)
    if name != FOLDERS and bytes_of_file(folder / name) != told.bytes:
        return False
    try:
        return _written(folder, name) == told
    except DamagedData:
        return False


def _written(folder: Path, name: str) -> Written:
    """Raises DamagedData where something of it is missing or rotten."""
    if name == CARD:
        return Written(0)
    files = _files_of(folder / FOLDERS) if name == FOLDERS else [folder / name]
    digest = digest_of(files)
    return Written(sum(file.stat().st_size for file in files), digest)


def _files_of(copies: Path) -> list[Path]:
    """The files of the plain folders, whatever else lies there."""
    files = [copies / METADATA]
    try:
        with files[0].open(encoding="utf-8") as lines:
            for line in lines:
                row = json.loads(line)
                files += [copies / row[name] for name in ("file_name", "mask_file_name") if name in row]
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise DamagedData(f"{files[0]} is missing or damaged") from error
    return files


def is_card(path: Path) -> bool:
    """Whether a file is a dataset's card, as it was written or as somebody has edited it since."""
    try:
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError):
        return False
    return text.startswith("---\n") and "\n---\n" in text and "\0" not in text
