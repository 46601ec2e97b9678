"""Small batches of the tiny class-map model, and what they leave behind. Not a test itself."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

import cluster
from cluster.datasets.entry import BatchResult

SIDE = 64
ROWS = [
    {"id": f"r{index}", "label": label, "seed": 40 + index, "width": width, "height": height}
    for index, (label, width, height) in enumerate(
        [
            ("sea", 64, 64),
            ("wood", 100, 64),
            ("sand", 64, 72),
            ("sea", 64, 64),
            ("wood", 130, 90),
            ("sand", 40, 40),
        ]
    )
]
LARGE: dict[str, Any] = {"block": 64, "batch_size": 12}
"""A block that one request is larger than; groups of all the others."""
GIANT = {**ROWS[1], "id": "giant", "width": 270, "height": 180}
ONCE_ONLY = ("timings.jsonl", "seconds.parquet", "written.json", "events.jsonl", ".lock")
"""What may differ from run to run."""


def settings(model: Path, **fields: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "model": str(model), "num_inference_steps": 3, "executor": "in-process", "device": "cpu", "batch_size": 3,
    }  # fmt: skip
    return {**defaults, **fields}


def made(model: Path, out: Path, rows: Any = ROWS, **fields: Any) -> BatchResult:
    return cluster.batch(rows, out=out, **settings(model, **fields))


def table_in(out: Path) -> list[dict[str, Any]]:
    """The rows of all shards, in order."""
    return [
        row for path in sorted((out / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()
    ]


def errors_in(out: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "errors.parquet").to_pylist()
    return rows


def array_of(image: dict[str, Any]) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image["bytes"])))


def files_of_batch(out: Path) -> dict[str, bytes]:
    """Every file that a rerun must give again."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in ONCE_ONLY
    }


def draws_in(out: Path) -> list[tuple[int, int]]:
    """(shard, group) of every group that was drawn, by all runs."""
    lines = (json.loads(line) for line in (out / "timings.jsonl").read_text().splitlines())
    return [(line["shard"], line["group"]) for line in lines if line["task"] == "draw"]
