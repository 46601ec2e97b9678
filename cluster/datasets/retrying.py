"""Failed requests once more: what holds one is forgotten, so that a batch that goes on draws it again. Draws nothing.

A shard is drawn anew as a whole, because its bytes hold the rows that it has: it ends as if nothing had ever failed.
"""

from __future__ import annotations

import shutil

from cluster.datasets.counting import part_at
from cluster.datasets.extras import FOLDERS, Extras, tar_path
from cluster.datasets.names import FAILED, PARTS, SUCCESS
from cluster.datasets.plan import Batch
from cluster.datasets.shards import is_finished, manifest_path, read_manifest


def forget_failed(batch: Batch, extras: Extras) -> Extras:
    """Remove the marks of shards with failed requests, and parts that hold one; filtered ones stay as they are.

    Returns the copies to write at the end: those asked for, and those that were there and no longer hold.
    """
    _forget_parts(batch)
    shards = [shard for shard in range(batch.shards) if _has_failed(batch, shard)]
    if not shards:
        return extras
    tars, folders = [tar_path(batch, shard) for shard in shards], batch.out / FOLDERS
    wanted = Extras(
        extras.webdataset or any(tar.is_file() for tar in tars), extras.folders or folders.is_dir()
    )
    (batch.out / SUCCESS).unlink(missing_ok=True)
    shutil.rmtree(folders, ignore_errors=True)
    for shard, tar in zip(shards, tars, strict=True):
        tar.unlink(missing_ok=True)
        manifest_path(batch, shard).unlink()
    return wanted


def _has_failed(batch: Batch, shard: int) -> bool:
    """A shard without a manifest, or with another file than it tells of, is drawn anew in any case."""
    return is_finished(batch, shard) and any(
        request["kind"] == FAILED for request in read_manifest(batch, shard).missing
    )


def _forget_parts(batch: Batch) -> None:
    """Forget failed requests in parts of shards that are not put together yet."""
    for part in (batch.work / PARTS).glob("*/*.parquet"):
        found = part_at(part)
        if found is None or found.kinds[FAILED]:
            part.unlink()
