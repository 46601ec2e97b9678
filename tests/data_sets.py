"""Folders of batches as they are left behind, of known pictures, without drawing one. Not a test itself.

shard 0   pictures 0 to 4, whole: id "r0".. ; request 5 failed
shard 1   at work: part 0 with pictures 6 and 7, request 8 was filtered
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from cluster.following.events import Event, JobStarted, RowsDone, StageTotal, TaskDone
from cluster.following.progress import EVENTS, JsonLines

LEGEND = (("sea", "#102030"), ("land", "#f0e0ff"), ("ice", "#ffffff"))
COLOURS = ((208, 64, 48), (64, 160, 80), (56, 88, 200))
"""Of pictures by their number, modulo three."""
PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(colour: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    encoded = io.BytesIO()
    Image.new("RGB", size, colour).save(encoded, "PNG")
    return encoded.getvalue()


def mask(classes: tuple[int, ...], size: tuple[int, int]) -> bytes:
    """Stripes of classes, from left to right."""
    ids = np.zeros((size[1], size[0]), np.uint8)
    for index, columns in enumerate(np.array_split(np.arange(size[0]), len(classes))):
        ids[:, columns] = classes[index]
    image = Image.fromarray(ids)
    image.putpalette([value for _, colour in LEGEND for value in bytes.fromhex(colour[1:])])
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return encoded.getvalue()


def row(
    index: int, prompt: str, classes: tuple[int, ...], size: tuple[int, int] = (64, 48)
) -> dict[str, Any]:
    return {
        "id": f"r{index}",
        "image": {"bytes": png(COLOURS[index % 3], size), "path": f"{index:08d}.png"},
        "mask": {"bytes": mask(classes, size), "path": f"{index:08d}-mask.png"},
        "prompt": prompt,
        "negative_prompt": "",
        "seed": 2**60 + index,
        "width": size[0],
        "height": size[1],
        "num_inference_steps": 4,
        "guidance_scale": 1.5,
        "fingerprint": f"{index:064x}",
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], rows_of_group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = {"image": PICTURE, "mask": PICTURE, "seed": pa.uint64()}
    names = list(dict.fromkeys(name for each in rows for name in each))
    columns = {name: pa.array([each.get(name) for each in rows], pictures.get(name)) for name in names}
    pq.write_table(pa.table(columns), path, row_group_size=rows_of_group)


def told(folder: Path, *events: Event) -> None:
    with JsonLines(folder / EVENTS) as log:
        for event in events:
            log(event)


def data_set(folder: Path, *more: dict[str, Any]) -> Path:
    """See above; `more` rows are those of shard 0 after its own."""
    rows = [
        row(index, ("a quiet sea", "the land")[index % 2], ((0,), (0, 1))[index % 2]) for index in range(5)
    ]
    write(folder / "data" / "train-00000-of-00002.parquet", [*rows, *more])
    lost = {"index": 5, "id": "r5", "kind": "failed", "error": "numbers that are <none>"}
    manifest = {
        "file": "data/train-00000-of-00002.parquet",
        "sha256": "0",
        "bytes": 1,
        "rows": len(rows) + len(more),
    }
    (folder / "manifests").mkdir()
    (folder / "manifests" / "train-00000-of-00002.json").write_text(
        json.dumps(manifest | {"image_bytes": 1, "missing": [lost]})
    )
    kinds: dict[str, Any] = {"kind": None, "error": None, "size": 1}
    part = [row(index, "the land", (1,)) | kinds | {"index": index} for index in (6, 7)]
    gone = {"index": 8, "id": "r8", "kind": "filtered", "error": "filter f returned False", "size": 0}
    write(folder / "work" / "parts" / "00001" / "00000.parquet", [*part, gone], 8)
    document = {
        "requests": 12 + len(more),
        "shards": 2,
        "fingerprint": "f00d",
        "model": "embedded",
        "legend": LEGEND,
    }
    (folder / "batch.json").write_text(json.dumps(document | {"settings": {}}))
    group = {"task": "draw", "shard": 0, "group": 0, "rows": [0, 1, 2, 3], "seconds": 6.0, "evaluations": 1}
    (folder / "timings.jsonl").write_text(
        json.dumps(group) + "\n" + '{"task": "shards", "rows": null}\n' + "torn {"
    )
    stages = StageTotal("draw", 4, 1), StageTotal("shards", 2, 0)
    drawn = len(rows) + len(more)
    told(
        folder,
        JobStarted(stages, 2),
        RowsDone(2, 0, 0, 0),
        TaskDone(0, "draw", 1, 2.0, 8, "host:1"),
        RowsDone(drawn + 2, 1, 1, 1),
    )
    return folder
