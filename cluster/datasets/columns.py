"""The columns of a batch's tables, in the Hugging Face image schema, and the PNGs in them. Knows no disk.

image   struct<bytes, path>   PNG, RGB
mask    struct<bytes, path>   PNG, indexed: the class, or the region, of every pixel by its number, 255 for none; with
                              class-map models, or regions
score   the filter's number, null where it said True; where there is a filter
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from cluster.datasets.plan import Batch, CheckedRequest
from cluster.datasets.requests import OF_ROWS
from cluster.datasets.small import NO_CLASS, SmallPicture
from cluster.spec.fields import INPUTS, SETTINGS
from storage.formats.labels import Legend

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ORDER = ("prompt", "negative_prompt", "seed", "width", "height", "num_inference_steps", "guidance_scale")
"""Columns of settings that come first; files, which lie on this machine, are none."""
SCALARS = {
    name: pa.type_for_alias(SETTINGS[name].column)
    for name in (*ORDER, *(name for name in OF_ROWS if name not in (*ORDER, *INPUTS)))
}
SCALARS |= {"fingerprint": pa.string()}
ERRORS = pa.schema(
    [("id", pa.string()), ("index", pa.int64()), ("kind", pa.string()), ("error", pa.string())]
)


def table_schema(batch: Batch) -> pa.Schema:
    """The columns of shards."""
    fields = [("id", pa.string()), ("image", IMAGE)]
    fields += [("mask", IMAGE)] if batch.masked else []
    fields += list(SCALARS.items())
    fields += [("score", pa.float64())] if batch.filter else []
    schema = pa.schema(fields)
    info = {"info": {"features": features(schema)}}
    return schema.with_metadata({"huggingface": json.dumps(info)})


def part_schema(batch: Batch) -> pa.Schema:
    """The columns of the parts that shards are put together from: a shard's, with what became of each request."""
    own = [("index", pa.int64()), ("kind", pa.string()), ("error", pa.string()), ("size", pa.int64())]
    return pa.schema([pa.field(name, kind) for name, kind in own] + list(table_schema(batch)))


def features(schema: pa.Schema) -> dict[str, Any]:
    """The columns as the library `datasets` describes them."""
    return {
        field.name: {"_type": "Image"}
        if field.type == IMAGE
        else {"dtype": {"double": "float64"}.get(str(field.type), str(field.type)), "_type": "Value"}
        for field in schema
    }


def drawn_row(
    row: CheckedRequest, picture: SmallPicture, fingerprint: str, score: float | None
) -> dict[str, Any]:
    """A request's row of a part."""
    values: dict[str, Any] = {"index": row.index, "id": row.id, "fingerprint": fingerprint, "score": score}
    values |= {name: row.told[name] for name in SCALARS if name != "fingerprint"}
    values["image"] = {"bytes": png(Image.fromarray(picture.pixels)), "path": f"{row.index:08d}.png"}
    size = len(values["image"]["bytes"])
    if picture.classes is not None:
        mask = png(mask_image(picture.classes, picture.legend))
        values["mask"] = {"bytes": mask, "path": f"{row.index:08d}-mask.png"}
        size += len(mask)
    return values | {"size": size}


def missing_row(row: CheckedRequest, kind: str, error: str) -> dict[str, Any]:
    """The row of a part of a request without a picture."""
    line = " ".join(error.split())[:500]
    return {"index": row.index, "id": row.id, "kind": kind, "error": line, "size": 0}


def as_table(rows: list[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows in order; what a row lacks is null."""
    columns = {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in schema}
    return pa.table(columns, schema)


def mask_image(ids: NDArray[np.uint8], legend: Legend) -> Image.Image:
    """An indexed picture in the legend's colours; no class is black."""
    image = Image.fromarray(ids)
    image.putpalette(_palette(legend))
    return image


def _palette(legend: Legend) -> bytes:
    palette = bytearray(3 * 256)
    for index, (_, colour) in enumerate(legend):
        palette[3 * index : 3 * index + 3] = bytes.fromhex(colour[1:])
    assert len(legend) <= NO_CLASS
    return bytes(palette)


def png(image: Image.Image) -> bytes:
    """The file's bytes, the same for the same pixels."""
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
