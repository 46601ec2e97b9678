"""Pictures inside a Ray Data pipeline: a class for `Dataset.map_batches`. Knows rows of requests; writes no file.

    import ray
    from cluster.datasets.ray_data import Draw

    requests = ray.data.read_parquet("requests.parquet")
    pictures = requests.map_batches(
        Draw, fn_constructor_kwargs={"model": "embedded", "width": 256, "height": 256},
        batch_size=64, compute=ray.data.ActorPoolStrategy(size=2), num_gpus=0,
    )

Requests have the columns of `hypermosaic batch`; what a row leaves out comes from the constructor. For each row there
come back `image` and, where there are classes or regions, `mask` (bytes of PNG), `fingerprint`, and `error`, which is
null where the picture was drawn. Its bytes do not depend on the batch that a row is in, nor on the number of actors.
Rows have no numbers here that seeds could follow from: each has a seed, or the constructor's is that of all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cluster.datasets.columns import mask_image, png
from cluster.datasets.entry import UNSAID
from cluster.datasets.requests import ALIASES, COLUMNS
from cluster.datasets.small import SmallPicture, SmallPictures
from cluster.jobs.job import Job, prepare_described
from cluster.jobs.models import described
from cluster.spec.fields import JobSpec, SpecError

Columns = Mapping[str, NDArray[Any]]


class Draw:
    """Draws batches of rows; built once in each actor. fields: of JobSpec, for rows that leave them out."""

    def __init__(self, **fields: Any) -> None:
        self._fields = {"executor": "in-process", "out": Path(), **fields}
        self._info = described(JobSpec(**{**UNSAID, **self._fields}))
        self._fields["commits"] = self._info.notes.get("commits", {})
        has_regions = bool(self._fields.get("regions") or self._fields.get("region_box"))
        self._masked = bool(self._info.class_names) or has_regions
        self._small: SmallPictures | None = None

    def __call__(self, columns: Columns) -> dict[str, NDArray[Any]]:
        """Columns of a batch -> the same and the pictures'. Rows that cannot be drawn say why in `error`."""
        names = list(columns)
        if "seed" not in names and "seed" not in self._fields:
            raise SpecError(
                "requests have no column seed, so that all would get the same picture; add it, or give seed to Draw"
            )
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        found: list[dict[str, Any]] = [{} for _ in rows]
        jobs: dict[tuple[int | None, bool], list[tuple[int, Job]]] = defaultdict(list)
        for place, row in enumerate(rows):
            try:
                job = self._job(row)
                jobs[(job.spec.num_inference_steps, job.plan.guided)].append((place, job))
            except ValueError as error:
                found[place] = {"error": str(error)}
        for alike in jobs.values():
            self._small = self._small or SmallPictures(alike[0][1])
            pictures, _ = self._small.draw([job for _, job in alike])
            for (place, job), picture in zip(alike, pictures, strict=True):
                found[place] = self._told(job, picture)
        added = ["image", *(["mask"] if self._masked else []), "fingerprint", "error"]
        return {**columns, **{name: _objects([row.get(name) for row in found]) for name in added}}

    def _job(self, row: dict[str, Any]) -> Job:
        own = {ALIASES.get(name, name): _plain(value) for name, value in row.items()}
        own = {
            name: value
            for name, value in own.items()
            if name in COLUMNS and name != "id" and value is not None
        }
        if "seed" not in own and "seed" not in self._fields:
            raise SpecError(
                "the seed is empty; give every request its own, or give seed to Draw for all of them"
            )
        if isinstance(own.get("classes"), bytes):
            raise SpecError(
                "classes must be a path that every node can read; bytes are for hypermosaic batch"
            )
        return prepare_described(JobSpec(**{**self._fields, **own}), self._info, check_fit=False)

    def _told(self, job: Job, picture: SmallPicture | Exception) -> dict[str, Any]:
        if isinstance(picture, Exception):
            return {"error": str(picture)}
        told = {"image": png(Image.fromarray(picture.pixels)), "fingerprint": job.fingerprint}
        if picture.classes is not None:
            told["mask"] = png(mask_image(picture.classes, picture.legend))
        return told


def _plain(value: Any) -> Any:
    """NumPy's numbers as Python's; what a table left empty as None."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, float):
        return None if np.isnan(value) else int(value) if value.is_integer() else value
    return value


def _objects(values: list[Any]) -> NDArray[Any]:
    column = np.empty(len(values), object)
    column[:] = values
    return column
