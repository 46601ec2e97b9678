"""The dataset's card, README.md: front matter for dataset hubs, counts, model, licence. Knows manifests; draws nothing.

The same batch gives the same card, so it holds no date and no time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from cluster.datasets.columns import features, table_schema
from cluster.datasets.names import CARD, FAILED, FILTERED, NAME
from cluster.datasets.plan import Batch
from cluster.datasets.shards import Manifest
from cluster.spec.job_file import versions
from cluster.spec.paths import model_in_public
from storage.files import replace_file

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
EMBEDDED_LICENCE = (
    "The pictures were made by the model that ships with hypermosaic, under the Apache licence 2.0. They show\n"
    "synthetic geography: no place in them exists, and nothing in them is a measurement."
)
OTHER_LICENCE = (
    "The pictures were made by the model `{model}`. What may be done with them is for that model's licence to say;\n"
    "read it before you pass this dataset on, and put it in place of `license: other` above."
)


def write_card(batch: Batch, manifests: Sequence[Manifest]) -> None:
    """README.md of a batch whose shards are all there. Raises OSError."""
    front = yaml.safe_dump(_front(batch, manifests), sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n{_body(batch, manifests)}"
    replace_file(batch.out / CARD, text.encode())


def is_embedded(batch: Batch) -> bool:
    """Whether the model is the one that comes with the package."""
    return batch.spec.model.partition("/")[0] == "embedded"


def _front(batch: Batch, manifests: Sequence[Manifest]) -> dict[str, Any]:
    rows = sum(manifest.rows for manifest in manifests)
    schema = table_schema(batch)
    described = [{"name": name, "dtype": _dtype(kind)} for name, kind in features(schema).items()]
    tasks = ["image-segmentation"] if batch.info.class_names else ["text-to-image"]
    return {
        "license": "apache-2.0" if is_embedded(batch) else "other",
        "task_categories": tasks,
        "tags": ["synthetic", "hypermosaic"],
        "size_categories": [next((name for limit, name in SIZES if rows < limit), "1M<n<10M")],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*.parquet"}]}
        ],
        "dataset_info": {
            "features": described,
            "splits": [
                {
                    "name": "train",
                    "num_bytes": sum(manifest.image_bytes for manifest in manifests),
                    "num_examples": rows,
                }
            ],
            "download_size": sum(manifest.bytes for manifest in manifests),
        },
    }


def _dtype(kind: dict[str, Any]) -> str:
    return "image" if kind["_type"] == "Image" else str(kind["dtype"])


def _body(batch: Batch, manifests: Sequence[Manifest]) -> str:
    rows = sum(manifest.rows for manifest in manifests)
    kinds = [request["kind"] for manifest in manifests for request in manifest.missing]
    model = model_in_public(batch.spec.model)
    lines = [
        "# Synthetic pictures",
        "",
        f"{rows:,} pictures in {batch.shards:,} shard{'s' * (batch.shards != 1)}, of {batch.requests:,} requests: "
        f"{kinds.count(FILTERED):,} were left out by a filter, {kinds.count(FAILED):,} failed (`errors.parquet`).",
        "",
        "| | |",
        "|---|---|",
        f"| model | `{model}` |",
        f"| made by | hypermosaic {versions()['hypermosaic']} |",
        f"| fingerprint | `{batch.fingerprint}` |",
        *([f"| filter | `{batch.filter}` |"] if batch.filter else []),
        "",
        "The same requests and settings give the same files, byte for byte, on the same kind of device "
        "and with the same versions.",
        "",
        *_classes(batch),
        "## Licence",
        "",
        EMBEDDED_LICENCE if is_embedded(batch) else OTHER_LICENCE.format(model=model),
        "",
    ]
    return "\n".join(lines)


def _classes(batch: Batch) -> list[str]:
    """What masks mean, as the batch has it since it began."""
    if not batch.masked:
        return []
    legend = json.loads((batch.out / NAME).read_text(encoding="utf-8"))["legend"]
    named = ", ".join(f"{index} {name}" for index, (name, _) in enumerate(legend))
    kind = "class" if batch.info.class_names else "region"
    return [
        "## Classes" if batch.info.class_names else "## Regions",
        "",
        f"`mask` holds the {kind} of every pixel by its number: {named}.",
        f"255 is no {kind}: leave these pixels out when you train (`ignore_index=255` in PyTorch's losses).",
        "",
    ]
