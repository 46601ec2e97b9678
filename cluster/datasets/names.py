"""What lies where in the folder of a batch. Names alone: imports nothing, so that looking at a batch is quick."""

from __future__ import annotations

from pathlib import Path

NAME = "batch.json"
"""Settings and fingerprint: what makes a folder one of a batch."""
DATA, MANIFESTS, ERROR_TABLE, TIMINGS, SECONDS, SUCCESS = (
    "data",
    "manifests",
    "errors.parquet",
    "timings.jsonl",
    "seconds.parquet",
    "_SUCCESS",
)
WORK, PARTS, GIANTS, REQUESTS, MASKS = "work", "parts", "giants", "requests.parquet", "masks"
CARD = "README.md"
GIANT, DRAW, WRITE = "giants", "draw", "shards"
"""Tasks, as events and timings call them."""
FAILED, FILTERED = "failed", "filtered"
"""Why a request has no picture."""


def is_batch(folder: Path) -> bool:
    """Whether a folder holds a batch, begun or finished."""
    return (folder / NAME).is_file()
