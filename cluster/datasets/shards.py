"""Parts and the shards that are put together from them, with a manifest each. Knows rows; knows no model.

    work/parts/SHARD/GROUP.parquet       what one task drew, and what it could not
    work/parts/SHARD/GROUP-ROW.parquet   the same of one request, where those of a group are drawn one by one
    data/train-00000-of-00007.parquet    the drawn requests of a shard, in the order of the requests
    manifests/train-00000-of-00007.json  its SHA-256, its rows, and every request that it lacks

A part and a shard are whole or absent, and so is a manifest, which is written after its shard: what has one is done.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.datasets.columns import as_table, part_schema, table_schema
from cluster.datasets.names import DATA, MANIFESTS, PARTS
from cluster.datasets.plan import ROW_BYTES, Batch
from cluster.engine.recovery import DamagedInputs
from cluster.jobs.stages import Task
from cluster.patience import passes
from cluster.rereading import REREADING
from storage.files import replace_by, replace_file
from storage.fingerprint import FormatError, file_hash

RAW = ("image.bytes", "mask.bytes")
"""Columns of PNGs, which do not compress and have no order."""


@dataclass(frozen=True)
class Manifest:
    """What there is to know of a finished shard. missing: {index, id, kind, error} of requests without a row."""

    file: str
    sha256: str
    bytes: int
    rows: int
    image_bytes: int
    missing: tuple[dict[str, Any], ...]


def part_path(batch: Batch, shard: int, group: int) -> Path:
    """Where the part of a group is, or will be."""
    return batch.work / PARTS / f"{shard:05d}" / f"{group:05d}.parquet"


def write_part(batch: Batch, shard: int, group: int, rows: list[dict[str, Any]]) -> None:
    """What became of a group's requests: a row each, of part_schema; whole or absent. Raises OSError."""
    _write(part_path(batch, shard, group), batch, rows)


def _write(path: Path, batch: Batch, rows: list[dict[str, Any]]) -> None:
    table = as_table(list(rows), part_schema(batch))
    replace_by(
        path,
        lambda path: pq.write_table(
            table,
            path,
            compression="none",
            use_dictionary=False,
            write_statistics=False,
            write_page_checksum=True,
        ),
    )


def write_row(batch: Batch, group: Task, place: int, row: dict[str, Any]) -> None:
    """What became of one request of a group, to be joined with the others."""
    _write(_row_path(batch, group, place), batch, [row])


def join_rows(batch: Batch, group: Task, count: int) -> None:
    """The part of a group whose requests were written one by one; removes those."""
    paths = [_row_path(batch, group, place) for place in range(count)]
    write_part(batch, *group, [row for path in paths for row in pq.read_table(path).to_pylist()])
    for path in paths:
        path.unlink()


def _row_path(batch: Batch, group: Task, place: int) -> Path:
    part = part_path(batch, *group)
    return part.with_name(f"{part.stem}-{place:05d}.parquet")


def shard_path(batch: Batch, shard: int) -> Path:
    """Where the table of a shard is, or will be."""
    return batch.out / DATA / f"{batch.shard_name(shard)}.parquet"


def manifest_path(batch: Batch, shard: int) -> Path:
    """Where the manifest of a shard is, or will be."""
    return batch.out / MANIFESTS / f"{batch.shard_name(shard)}.json"


def read_manifest(batch: Batch, shard: int) -> Manifest:
    """Raises OSError where there is none, ValueError, KeyError or TypeError where it is none of ours."""
    return _manifest_at(manifest_path(batch, shard))


def _manifest_at(path: Path) -> Manifest:
    values = json.loads(path.read_text(encoding="utf-8"))
    return Manifest(**{**values, "missing": tuple(values["missing"])})


def is_finished(batch: Batch, shard: int) -> bool:
    """Whether the shard has a manifest, and is still the file that the manifest tells of."""
    return REREADING.is_whole(lambda: is_as_told(shard_path(batch, shard), manifest_path(batch, shard)))


def is_as_told(shard: Path, manifest: Path) -> bool:
    """Whether a file of a shard is there, and whole, by its manifest's SHA-256. False without a manifest of ours.

    Raises OSError where one of them cannot be read.
    """
    try:
        told = _manifest_at(manifest)
        named = Path(told.file).name == shard.name
        return named and shard.stat().st_size == told.bytes and file_hash(shard) == told.sha256
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False


def assemble(batch: Batch, shard: int, groups: int) -> None:
    """Put the shard together from its parts, write its manifest, remove the parts. Memory: a row group and a part.

    May be repeated, as when a worker was lost just before it could tell that it had done so. Raises DamagedInputs
    where parts are missing or damaged: their groups are to be drawn again.
    """
    if is_finished(batch, shard):
        shutil.rmtree(part_path(batch, shard, 0).parent, ignore_errors=True)
        return
    parts = [part_path(batch, shard, group) for group in range(groups)]
    _check_parts(shard, parts)
    entries = _entries(parts)
    asked = [row.index for row in batch.shard(shard)]
    if [entry["index"] for entry in entries] != asked:
        raise FormatError(
            f"the parts of {batch.shard_name(shard)} do not hold each request once; remove {parts[0].parent} and resume"
        )
    drawn = [entry for entry in entries if entry["kind"] is None]
    path = shard_path(batch, shard)
    replace_by(path, lambda unfinished: _write_shard(unfinished, batch, drawn))
    missing = [
        {name: entry[name] for name in ("index", "id", "kind", "error")} for entry in entries if entry["kind"]
    ]
    manifest = {
        "file": f"{DATA}/{path.name}",
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "rows": len(drawn),
        "image_bytes": sum(entry["size"] for entry in drawn),
        "missing": missing,
    }
    replace_file(manifest_path(batch, shard), (json.dumps(manifest, indent=1) + "\n").encode())
    shutil.rmtree(parts[0].parent)


def _check_parts(shard: int, parts: Sequence[Path]) -> None:
    """Read all of the parts. Raises DamagedInputs with the groups of those that are missing or damaged, which go."""
    looked = REREADING.whole(enumerate(parts), lambda numbered: is_whole_part(numbered[1]))
    damaged = sorted((shard, group) for (group, _), whole in looked if not whole)
    for _, group in damaged:
        parts[group].unlink(missing_ok=True)
    if damaged:
        raise DamagedInputs(f"{parts[damaged[0][1]]} is missing or damaged", tuple(damaged))


def is_whole_part(path: Path) -> bool:
    """Whether a part is there and every page of it has its checksum, by reading it row group by row group.

    Raises OSError where it cannot be read just now.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
        return True
    except (OSError, pa.ArrowException) as error:
        if passes(error):
            raise
        return False


def _entries(parts: Sequence[Path]) -> list[dict[str, Any]]:
    """What became of each request, in order, and the part that tells of it: no pictures."""
    entries: list[dict[str, Any]] = []
    for part in parts:
        table = pq.read_table(part, columns=["index", "id", "kind", "error", "size"])
        entries += [{**row, "part": part} for row in table.to_pylist()]
    return sorted(entries, key=lambda entry: entry["index"])


def _write_shard(path: Path, batch: Batch, drawn: list[dict[str, Any]]) -> None:
    schema = table_schema(batch)
    pictures = [name for name in RAW if name.partition(".")[0] in schema.names]
    scalars = [field.name for field in schema if not pa.types.is_struct(field.type)]
    compression = dict.fromkeys(scalars, "zstd") | dict.fromkeys(pictures, "none")
    compression |= {f"{name.partition('.')[0]}.path": "zstd" for name in pictures}
    with pq.ParquetWriter(
        path, schema, compression=compression, use_dictionary=scalars, write_statistics=scalars
    ) as writer:
        for rows in row_groups(drawn, batch.sizes.group_bytes):
            writer.write_table(_read(rows, schema), row_group_size=len(rows))


def row_groups(drawn: list[dict[str, Any]], limit: int) -> Iterator[list[dict[str, Any]]]:
    """Rows in order, cut where the next would pass the limit; a picture beyond it has a group of its own."""
    group: list[dict[str, Any]] = []
    filled = 0
    for entry in drawn:
        size = entry["size"] + ROW_BYTES
        if group and filled + size > limit:
            yield group
            group, filled = [], 0
        group.append(entry)
        filled += size
    if group:
        yield group


def _read(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """The rows from their parts, in order."""
    wanted = [row["index"] for row in rows]
    tables = []
    for part in dict.fromkeys(row["part"] for row in rows):
        table = pq.read_table(part, columns=["index", *schema.names])
        tables.append(table.filter(pc.is_in(table["index"], pa.array(wanted, pa.int64()))))
    joined = pa.concat_tables(tables)
    return joined.take(pc.sort_indices(joined["index"])).select(schema.names).combine_chunks().cast(schema)
