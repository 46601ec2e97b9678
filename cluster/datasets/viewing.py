"""What `view` tells of a batch: its files, its progress, what is missing, how long pictures took. Knows no HTTP.

Pictures are seen before their shard is put together: a shard that is not there yet is told of by its parts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from cluster.datasets.names import DATA, MANIFESTS, NAME, PARTS, TIMINGS, WORK
from cluster.datasets.seconds import Seconds
from cluster.datasets.status import BatchFollower
from cluster.following.progress import EVENTS
from cluster.wording import one_line
from viewer.told import Card, Sheet

SHARD = re.compile(r"train-(\d{5})-of-\d{5,}\.parquet")
NUMBERED = re.compile(r"(\d{5,})(\.parquet)?")


class BatchTeller:
    """Answers of any batch's folder, following each of them from one look to the next. Of one thread."""

    def __init__(self) -> None:
        self._followers: dict[Path, BatchFollower] = {}
        self._seconds: dict[Path, Seconds] = {}

    def status(self, folder: Path) -> Mapping[str, Any]:
        """api/status.json of a batch. Raises FormatError, OSError."""
        now = self._follower(folder).look()
        return {
            "kind": "batch",
            "state": now.state,
            "share": now.share,
            "requests": now.requests,
            "drawn": now.drawn,
            "filtered": now.filtered,
            "failed": now.failed,
            "left": now.left,
            "shards": now.shards,
            "shardsDone": now.shards_done,
            "seconds": round(now.seconds, 3),
            "secondsLeft": now.seconds_left,
            "imagesPerSecond": now.images_per_second,
            "workers": now.workers,
            "retried": now.retried,
            "giant": now.giant,
            "error": now.error,
        }

    def card(self, folder: Path) -> Card:
        """Raises what a damaged folder raises."""
        now = self._follower(folder).look()
        files = self.sheet(folder).files
        first = next(iter(files.values()), None)
        facts = [f"{now.requests:,} request{'s' * (now.requests != 1)}", now.model]
        if now.failed:
            facts.insert(1, f"{now.failed:,} failed")
        times = [path.stat().st_mtime for path in (folder / EVENTS, folder / NAME) if path.is_file()]
        return Card(
            title=folder.name,
            state=now.state,
            share=now.share,
            facts=tuple(fact for fact in facts if fact),
            changed=max(times, default=0.0),
            error=one_line(now.error) if now.error else None,
            preview_version=None if first is None else int(first.stat().st_mtime),
            kind="batch",
        )

    def sheet(self, folder: Path) -> Sheet:
        """Raises SpecError where there is no batch, FormatError where it cannot be read."""
        saved = self._follower(folder).saved()
        settings = saved.get("settings")
        facts = {"model": str(saved.get("model", ""))}
        if isinstance(settings, dict) and settings.get("unconditional"):
            facts["unconditional"] = "unconditional"
        return Sheet(
            title=folder.resolve().name,
            files=dict(_files(folder)),
            legend=_legend(saved.get("legend")),
            facts={name: fact for name, fact in facts.items() if fact},
        )

    def missing(self, folder: Path, first: int, count: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        """{id, index, kind, error} of requests of whole shards, then of parts; one table is in memory at a time."""
        found: list[Mapping[str, Any]] = []
        total = 0
        for rows in _missing(folder):
            found += islice(rows, max(0, first - total), max(0, first - total) + count - len(found))
            total += len(rows)
        return found, total

    def seconds(self, folder: Path, indices: Sequence[int]) -> Sequence[float | None]:
        if folder not in self._seconds:
            self._seconds[folder] = Seconds(folder / TIMINGS)
        return self._seconds[folder].of(indices)

    def _follower(self, folder: Path) -> BatchFollower:
        if folder not in self._followers:
            self._followers[folder] = BatchFollower(folder)
        return self._followers[folder]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """(name in addresses, Parquet file) of every shard in order: "7", or "7-3" for the fourth part of one at work."""
    whole = {int(found[1]): path for path, found in _named(folder / DATA, SHARD)}
    parts = {int(found[1]): path for path, found in _named(folder / WORK / PARTS, NUMBERED) if not found[2]}
    for shard in sorted({*whole, *parts}):
        if shard in whole:
            yield str(shard), whole[shard]
            continue
        for path, found in sorted(_named(parts[shard], NUMBERED), key=lambda entry: int(entry[1][1])):
            if found[2]:
                yield f"{shard}-{int(found[1])}", path


def _named(folder: Path, pattern: re.Pattern[str]) -> Iterator[tuple[Path, re.Match[str]]]:
    """Entries of a folder whose names fit; none where the folder is not there, or just goes away."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for path in entries:
        found = pattern.fullmatch(path.name)
        if found is not None:
            yield path, found


def _missing(folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Requests without a picture, of each whole shard and each part."""
    for path in sorted((folder / MANIFESTS).glob("train-*.json")):
        yield json.loads(path.read_bytes())["missing"]
    for name, path in _files(folder):
        if "-" in name:
            yield _missing_of_part(path)


def _missing_of_part(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path, columns=["id", "index", "kind", "error"]).to_pylist()
    except FileNotFoundError:  # its shard was just put together
        return []
    return [row for row in rows if row["kind"] is not None]


def _legend(saved: Any) -> tuple[tuple[str, str], ...]:
    """(name, "#rrggbb") of each class as batch.json has them; empty for models without classes, and for older files."""
    if not isinstance(saved, list) or len(saved) > 254:
        return ()
    legend = [
        (str(entry[0]), str(entry[1])) for entry in saved if isinstance(entry, list) and len(entry) == 2
    ]
    good = all(re.fullmatch("#[0-9a-f]{6}", colour) for _, colour in legend)
    return tuple(legend) if good and len(legend) == len(saved) else ()
