"""The same pictures for other loaders, from the finished shards: WebDataset tars, plain folders. Draws nothing.

webdataset/train-00000-of-00007.tar    00000012.png, 00000012.mask.png, 00000012.json for each picture
folders/images/00000012.png            with masks/00000012.png beside; metadata.jsonl names both, as imagefolder does
"""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from cluster.datasets.plan import Batch
from cluster.datasets.shards import shard_path
from storage.files import replace_by

TARS, FOLDERS, METADATA = "webdataset", "folders", "metadata.jsonl"
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Extras:
    """Which are wanted."""

    webdataset: bool = False
    folders: bool = False

    def write(self, batch: Batch) -> None:
        """Those that are wanted and not there."""
        if self.webdataset:
            for shard in range(batch.shards):
                _write_tar(batch, shard)
        if self.folders and not (batch.out / FOLDERS / METADATA).is_file():
            _write_folders(batch)


def _rows(batch: Batch, shard: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(key, row) of each picture of a shard, a few in memory."""
    with pq.ParquetFile(shard_path(batch, shard)) as file:
        for records in file.iter_batches(batch_size=ROWS_AT_ONCE):
            for row in records.to_pylist():
                yield Path(row["image"]["path"]).stem, row


def _told(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("image", "mask")}


def tar_path(batch: Batch, shard: int) -> Path:
    """Where a shard's tar is, or will be."""
    return batch.out / TARS / f"{batch.shard_name(shard)}.tar"


def _write_tar(batch: Batch, shard: int) -> None:
    path = tar_path(batch, shard)
    if path.is_file():
        return

    def fill(unfinished: Path) -> None:
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, row in _rows(batch, shard):
                _add(tar, f"{key}.png", row["image"]["bytes"])
                if "mask" in row:
                    _add(tar, f"{key}.mask.png", row["mask"]["bytes"])
                _add(tar, f"{key}.json", json.dumps(_told(row)).encode())

    replace_by(path, fill)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # no owner, no time: the same bytes whenever it is written
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _write_folders(batch: Batch) -> None:
    """Written under another name first, so that the folder is whole or absent."""
    unfinished = batch.work / FOLDERS
    shutil.rmtree(unfinished, ignore_errors=True)
    (unfinished / "images").mkdir(parents=True)
    if batch.masked:
        (unfinished / "masks").mkdir()
    with (unfinished / METADATA).open("w", encoding="utf-8") as metadata:
        for shard in range(batch.shards):
            for key, row in _rows(batch, shard):
                (unfinished / "images" / f"{key}.png").write_bytes(row["image"]["bytes"])
                files = {"file_name": f"images/{key}.png"}
                if "mask" in row:
                    (unfinished / "masks" / f"{key}.png").write_bytes(row["mask"]["bytes"])
                    files["mask_file_name"] = f"masks/{key}.png"
                metadata.write(json.dumps({**files, **_told(row)}) + "\n")
    _move(unfinished, batch.out / FOLDERS)


def _move(made: Path, to: Path) -> None:
    """Give a folder its name; of one that is there, replace the files, the metadata last, and leave others alone."""
    if not to.exists():
        made.rename(to)
        return
    files = [path for path in made.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == METADATA):
        target = to / path.relative_to(made)
        target.parent.mkdir(exist_ok=True)
        path.replace(target)
