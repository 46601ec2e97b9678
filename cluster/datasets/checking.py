"""Every request checked, numbered and given a shard, before anything is drawn. Knows rows and the model's facts.

Requests are read as a stream: a hundred thousand of them take a few dozen MB here. The first that is wrong ends it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.datasets.names import MASKS
from cluster.datasets.plan import (
    FULL_BATCHES,
    LEAST_GROUPS,
    MOST_ROWS,
    SCHEMA,
    UNCLAIMED,
    Batch,
    CheckedRequest,
    Extent,
    Sizes,
    facts_of,
    worst_bytes,
)
from cluster.datasets.requests import OF_ROWS, Placed, Table
from cluster.jobs.inputs import kept
from cluster.jobs.job import canvas_of, check_words, prepare_described, schedule_of
from cluster.spec.choices import resolve
from cluster.spec.facts import if_given
from cluster.spec.fields import SETTINGS, JobSpec, SpecError
from cluster.spec.identity import identified, inputs_of
from cluster.spec.paths import absolute
from cluster.words.regions import regions_of
from generation.models.loading import describe, map_model
from storage.files import replace_file
from storage.fingerprint import content_hash, fingerprint, stamp

if TYPE_CHECKING:
    from generation.models.contracts import ModelInfo

FOR_ALL = {"prompt": "--label", "width": "--image-size", "height": "--image-size"}
"""Flags that give what a row leaves out."""
Known = set[tuple[str, Path | None, Path | None]]
"""Prompts, class maps and meanings of labels that go together."""
MOST_KNOWN = 10_000


def planned(
    settings: JobSpec, info: ModelInfo, table: Table, given: set[str], filter: str | None, sizes: Sizes
) -> Batch:
    """Check all requests and write work/requests.parquet. Raises SpecError or ModelError for the first that is wrong.

    given: names of the columns that the settings give for rows that leave them out.
    """
    definite = resolve(settings, info)
    settings = settings.model_copy(
        update={
            name: getattr(definite, name) for name in ("dtype", "device", "batch_size", "workers", "commits")
        }
    )
    batch = Batch(
        settings, identified(info), _map_info(settings, info), inputs_of(settings), filter=filter,
        filter_folder=str(Path.cwd()), sizes=sizes,
    )  # fmt: skip
    batch.work.mkdir(parents=True, exist_ok=True)
    digest, extent, total, shards, patches = hashlib.sha256(), Extent(), 0, 0, 0
    with pq.ParquetWriter(batch.work / UNCLAIMED, SCHEMA) as writer:
        for rows in _shards(_checked(batch, table, given), sizes.shard_bytes, batch.masked):
            for row in rows:
                digest.update(json.dumps(identity_of(row), sort_keys=True).encode())
            writer.write_table(
                pa.Table.from_pylist([row.row() for row in rows], SCHEMA), row_group_size=len(rows)
            )
            extent = extent.with_shard(rows)
            total, shards, patches = total + len(rows), shards + 1, patches + sum(row.patches for row in rows)
    if not total:
        raise SpecError(f"{table.name} holds no requests; give at least one")
    size = settings.batch_size or 1
    batches = min(FULL_BATCHES, max(1, patches // size // LEAST_GROUPS))
    batch = replace(batch, requests=total, shards=shards, budget=batches * size, extent=extent)
    named = fingerprint(facts_of(batch) | {"requests": digest.hexdigest()})
    return replace(batch, fingerprint=named, spec=kept(batch.spec, batch.inputs, batch.work))


def _map_info(settings: JobSpec, info: ModelInfo) -> ModelInfo | None:
    """The facts of the map model that prompts may ask for."""
    name = map_model(settings.model) if info.class_names else None
    return None if name is None else identified(describe(name))


def identity_of(row: CheckedRequest) -> dict[str, Any]:
    """What of a request belongs to the identity of its batch.

    A setting that is told where it is given is left out elsewhere, so that older batches stay what they are.
    """
    unsaid = [
        name
        for name, value in row.told.items()
        if SETTINGS[name].fact is if_given and value == JobSpec.model_fields[name].default
    ]
    facts = {**row.row(), "classes": row.classes_hash}
    return {name: value for name, value in facts.items() if name not in ("classes_hash", *unsaid)}


def _shards(rows: Iterator[CheckedRequest], limit: int, masked: bool) -> Iterator[list[CheckedRequest]]:
    shard: list[CheckedRequest] = []
    filled = 0
    for row in rows:
        size = worst_bytes(row.width, row.height, masked)
        if shard and (filled + size > limit or len(shard) == MOST_ROWS):
            yield shard
            shard, filled = [], 0
        shard.append(row)
        filled += size
    if shard:
        yield shard


# --- one request after another ---------------------------------------------------------------------------------------


def _checked(batch: Batch, table: Table, given: set[str]) -> Iterator[CheckedRequest]:
    seen: dict[bytes, str] = {}
    schedules: set[int] = set()
    known: Known = set()
    for index, placed in enumerate(table.read(given)):
        key = hashlib.blake2b(placed.values["id"].encode(), digest_size=12).digest()
        where = placed.place.rpartition(", ")[2]
        if key in seen:
            raise SpecError(
                f"{placed.place}: the id {placed.values['id']!r} was used in {seen[key]}; ids must differ"
            )
        seen[key] = where
        try:
            _check_present(placed, given)
            asked = _asked(batch, index, placed, table.folder, known)
            if asked.steps not in schedules:
                schedule_of(asked.spec(batch.spec), batch.info)
                schedules.add(asked.steps)
        except ValueError as error:
            kind = type(error) if isinstance(error, SpecError) else SpecError
            raise kind(f"{placed.place}: {error}") from None
        yield asked


def _check_present(placed: Placed, given: set[str]) -> None:
    for name, flag in FOR_ALL.items():
        if name not in placed.values and name not in given:
            raise SpecError(f"the {name} is empty; give one, or {flag} for all")


def _asked(batch: Batch, index: int, placed: Placed, folder: Path, known: Known) -> CheckedRequest:
    """Raises SpecError or ValueError for a request that cannot be drawn."""
    values = dict(placed.values)
    name = values.pop("id")
    values.setdefault("seed", (batch.spec.seed + index) % 2**64)
    if "classes" in values:
        values["classes"] = _class_map(values["classes"], folder, batch.work / MASKS)
    spec = JobSpec(**{**batch.spec.model_dump(include=set(OF_ROWS)), **values, "out": batch.out})
    spec = resolve(
        batch.spec.model_copy(update={field: getattr(spec, field) for field in OF_ROWS}), batch.info
    )
    content = None if spec.classes is None else inputs_of(spec)["classes"]
    if spec.classes is None:
        spec = spec.model_copy(update={"class_labels": None})
    _check_prompt(batch, spec, known)
    canvas = canvas_of(spec, batch.info)
    regions_of(spec, batch.info, canvas)
    if spec.classes is not None:
        _check_mask(spec.classes, stamp(spec.classes), spec.width, spec.height)
    if worst_bytes(spec.width, spec.height, batch.masked) > batch.sizes.shard_bytes:
        raise SpecError(
            f"{spec.width}x{spec.height} pixels do not fit in a shard of {batch.sizes.shard_bytes // 10**6} MB; "
            "make that picture with hypermosaic generate"
        )
    block = spec.block or 1
    giant = canvas.height > block or canvas.width > block
    if giant:
        prepare_described(spec, batch.info, check_fit=True, map_info=batch.map_info)
    rows, columns = (_along(length, batch.info.patch, spec) for length in (canvas.height, canvas.width))
    told = {field: _told(getattr(spec, field)) for field in OF_ROWS}
    return CheckedRequest(index, name, told, content, giant, rows * columns)


def _told(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def _along(length: int, patch: int, spec: JobSpec) -> int:
    """Patches of a step along an axis, as a rule: shifted tilings cut one in two."""
    if spec.method == "shifted":
        return -(-length // patch) + 1
    stride = max(1, round(patch * (1 - spec.overlap)))
    return max(1, -(-(length - patch) // stride) + 1)


def _check_prompt(batch: Batch, spec: JobSpec, known: Known) -> None:
    """Words and maps are checked once a batch, however many requests have them."""
    key = (spec.prompt, spec.classes, spec.class_labels)
    if key not in known:
        if len(known) > MOST_KNOWN:
            known.clear()
        check_words(spec, batch.info)
        known.add(key)


def _class_map(given: Any, folder: Path, masks: Path) -> Path:
    """The file of a class map that is given as a path, as bytes, or as both in a mapping."""
    if isinstance(given, dict):
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes | bytearray | memoryview):
        content = bytes(given)
        path = masks / f"{hashlib.sha256(content).hexdigest()}.png"
        if not path.is_file() or content_hash(path) != path.stem:
            replace_file(path, content)
        return path
    if not isinstance(given, str | Path):
        raise SpecError(f"classes {str(given)[:40]!r} is neither a path nor the bytes of an image")
    return absolute(folder / Path(given).expanduser())


@lru_cache(maxsize=4096)
def _check_mask(path: Path, key: str, width: int, height: int) -> None:
    """A class map is of its picture's proportions, to a pixel of the map. key: its stamp."""
    from cluster.words.class_maps import opened

    del key
    labels = opened(path)
    rows, columns = labels.height, labels.width
    if abs(columns * height - rows * width) > max(width, height):
        raise SpecError(
            f"class map {path} of {columns}x{rows} does not match the picture of {width}x{height}; "
            "give both the same proportions"
        )
