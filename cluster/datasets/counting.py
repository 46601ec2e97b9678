"""How many requests of a batch are done, and which a part holds. Knows the tables of parts; draws nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.datasets.names import FAILED, FILTERED
from cluster.datasets.shards import Manifest
from cluster.following.events import RowsDone
from cluster.patience import passes
from cluster.rereading import REREADING

DRAWN = "drawn"


@dataclass(frozen=True)
class ShardPart:
    """The requests of one task. rows: their indices; kinds: what became of how many of them."""

    rows: tuple[int, ...]
    kinds: Counter[str]


def read_part(path: Path) -> ShardPart:
    """What a finished part holds; its pictures are not read."""
    table = pq.read_table(path, columns=["index", "kind"])
    return ShardPart(
        tuple(table["index"].to_pylist()), Counter(kind or DRAWN for kind in table["kind"].to_pylist())
    )


def part_at(path: Path) -> ShardPart | None:
    """A part that is there and can be read; None otherwise, for its requests can be drawn again."""
    found: list[ShardPart] = []

    def is_read() -> bool:
        try:
            found.append(read_part(path))
        except (OSError, pa.ArrowException) as error:
            if passes(error):
                raise
        return bool(found)

    return found[0] if REREADING.is_whole(is_read) else None


@dataclass
class RequestCounts:
    """Requests that are done, by what became of them, and whole shards; of all runs."""

    kinds: Counter[str] = field(default_factory=Counter)
    shards: int = 0

    def add_shard(self, manifest: Manifest) -> None:
        """A shard that an earlier run finished."""
        self.shards += 1
        self.kinds[DRAWN] += manifest.rows
        self.kinds.update(request["kind"] for request in manifest.missing)

    def event(self) -> RowsDone:
        return RowsDone(self.kinds[DRAWN], self.kinds[FILTERED], self.kinds[FAILED], self.shards)
