"""How long each picture took, from timings.jsonl: a group's seconds are shared by its pictures. Draws nothing.

seconds.parquet    id, index, seconds: a row for each request, in order; null where no run told
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.datasets.names import SECONDS, TIMINGS
from cluster.following.history import Tail
from storage.files import replace_by

if TYPE_CHECKING:
    from cluster.datasets.plan import Batch

MOST_ROWS = 10**7
"""Indices of requests whose seconds are remembered: four bytes each."""
UNKNOWN = -1.0


class Seconds:
    """Follows timings.jsonl."""

    def __init__(self, path: Path) -> None:
        self._tail = Tail(path)
        self._held = array("f")

    def of(self, indices: Sequence[int]) -> list[float | None]:
        """Seconds of requests, None where nobody told; a look costs what was written since the last one."""
        anew, lines = self._tail.lines()
        if anew:
            self._held = array("f")
        for line in lines:
            self._hear(line)
        known = (self._held[index] if 0 <= index < len(self._held) else UNKNOWN for index in indices)
        return [None if seconds < 0 else round(seconds, 4) for seconds in known]

    def _hear(self, line: bytes) -> None:
        """Lines that are not ours, and those of older versions, which name no rows, are passed over."""
        try:
            told = json.loads(line)
            rows, seconds = [int(row) for row in told["rows"] or ()], float(told["seconds"])
        except (ValueError, KeyError, TypeError):
            return
        for row in rows:
            if 0 <= row < MOST_ROWS:
                if row >= len(self._held):
                    self._held.extend([UNKNOWN] * (row + 1 - len(self._held)))
                self._held[row] = seconds / len(rows)


def write_seconds(batch: Batch) -> None:
    """The table of a batch whose shards are all there; a shard's requests are in memory at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("id", pa.string()), ("index", pa.int64()), ("seconds", pa.float64())])
    seconds = Seconds(batch.out / TIMINGS)

    def fill(path: Path) -> None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            for shard in range(batch.shards):
                rows = batch.shard(shard)
                indices = [row.index for row in rows]
                columns = [[row.id for row in rows], indices, seconds.of(indices)]
                writer.write_table(pa.table(columns, schema=schema))

    replace_by(batch.out / SECONDS, fill)
