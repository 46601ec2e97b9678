"""Small pictures drawn in packs, in memory: pixels and class ids as `generate` makes them. Opens no file of results.

Loads a model once; what it draws is a function of each request's job alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.engine.worker import build_sampler, class_map
from cluster.jobs.job import Job
from cluster.jobs.models import loaded
from cluster.machine import compute_with
from cluster.spec.fields import SpecError
from cluster.spec.identity import check_inputs
from cluster.words.legend import legend_of
from generation.decoding.decode import decode_box
from generation.models.contracts import ClassMap, Codec, Conditioner, Model, Request
from generation.models.errors import NumericalError
from generation.sampling.packing import Spent, draw_together, wrapped
from storage.formats.labels import Legend
from storage.geometry import Box, Canvas
from storage.light import Pixels8, to_u8

NO_CLASS = 255
REMEMBERED_PROMPTS = 32


@dataclass(frozen=True)
class SmallPicture:
    """pixels: (height, width, 3) sRGB. classes: (height, width) ids of classes or regions, 255 for none; None where the
    model knows no classes and the picture has no regions. legend: their names and colours."""

    pixels: Pixels8
    classes: NDArray[np.uint8] | None
    legend: Legend = ()


class SmallPictures:
    """Draws jobs of one model, device and dtype."""

    def __init__(self, first: Job) -> None:
        self._first = first
        self._map_model: Model | None = None

    @cached_property
    def _loaded(self) -> Model:
        return loaded(self._first.spec, self._first.info)

    @cached_property
    def _model(self) -> Model:
        """One that is told words only encodes each prompt once."""
        info = self._first.info
        return self._loaded if info.class_names or info.family == "map" else remembering(self._loaded)

    def model_of(self, job: Job) -> Model:
        """The model of a job that is drawn otherwise: the same one, or that of maps; each is loaded once."""
        if job.info.family != "map" or self._first.info.family == "map":
            return self._loaded
        self._map_model = self._map_model or loaded(job.spec, job.info)
        return self._map_model

    def draw(self, jobs: Sequence[Job]) -> tuple[list[SmallPicture | Exception], Spent]:
        """Each job's picture, or what is wrong with it; all jobs have the same steps, and guidance or none."""
        compute_with(self._first.spec.threads)
        model, maps = self._model, self._maps(jobs)
        found: list[SmallPicture | Exception] = [ValueError("not drawn")] * len(jobs)
        ready: list[tuple[int, Job, Any, ClassMap | None]] = []
        for place, (job, planes) in enumerate(zip(jobs, maps, strict=True)):
            if isinstance(planes, Exception):
                found[place] = planes
                continue
            try:
                classes = _labelled(job, planes)
                ready.append((place, job, build_sampler(job, model, classes), classes))
            except ValueError as error:  # a request that cannot be met
                found[place] = error
        if not ready:
            return found, Spent()
        drawn = draw_together(
            [sampler for _, _, sampler, _ in ready], [frame_of(job) for _, job, _, _ in ready]
        )
        for (place, job, sampler, classes), latents in zip(ready, drawn.pictures, strict=True):
            if isinstance(latents, NumericalError):
                found[place] = latents
                continue
            try:
                pixels = pixels_of(job, model.codec, latents, sampler.device)
                ids = classes_of(job, classes) if classes else None
                check_inputs(job.spec, job.inputs)
            except (NumericalError, SpecError) as error:  # of this picture alone
                found[place] = error
                continue
            found[place] = SmallPicture(pixels, ids, legend_of_job(job))
        return found, drawn.spent

    def _maps(self, jobs: Sequence[Job]) -> list[Held | Exception | None]:
        """The planes of each job's map: None where it has none, else what its map's job makes."""
        maps: list[Held | Exception | None] = [None] * len(jobs)
        wanted = [(place, job.map) for place, job in enumerate(jobs) if job.map is not None]
        if wanted:
            model = self.model_of(wanted[0][1])
            samplers = [build_sampler(job, model) for _, job in wanted]
            drawn = draw_together(samplers, [frame_of(job) for _, job in wanted])
            for (place, _), planes in zip(wanted, drawn.pictures, strict=True):
                maps[place] = planes if isinstance(planes, Exception) else Held(planes)
        return maps


@dataclass(frozen=True)
class Held:
    """The latents of a finished picture, in memory. Satisfies ReadsLatents."""

    latents: NDArray[np.float32]

    def read_box(self, name: str, channels: slice, box: Box, canvas: Canvas) -> NDArray[np.float32]:
        del name
        return wrapped(self.latents[channels], canvas, box)


def legend_of_job(job: Job) -> Legend:
    """Names and colours of a job's classes or regions; empty where it has neither."""
    return legend_of(job.info) if job.regions is None else job.regions.legend()


def remembering(model: Model) -> Model:
    """The model with a memory of prompts: its conditioner depends on nothing else."""

    @lru_cache(maxsize=REMEMBERED_PROMPTS)
    def encoded(prompt: str, negative_prompt: str, guidance_scale: float | None) -> Conditioner:
        side = model.info.patch
        return model.conditioner_for(
            Request(prompt, negative_prompt, side, side, guidance_scale=guidance_scale)
        )

    def conditioner_for(request: Request) -> Conditioner:
        return encoded(request.prompt, request.negative_prompt, request.guidance_scale)

    return replace(model, conditioner_for=conditioner_for)


def _labelled(job: Job, planes: Held | None) -> ClassMap | None:
    """Classes or regions, as `generate` labels them; the map comes from memory."""
    if job.regions is not None:
        return job.regions.classes()
    return class_map(job, planes) if job.info.class_names else None


def frame_of(job: Job) -> Box:
    """The canvas with the halo that patches reach into where it wraps."""
    canvas = job.plan.canvas
    return canvas.clip(canvas.box.expanded(job.plan.halo))


def pixels_of(job: Job, codec: Codec, latents: NDArray[np.float32], device: torch.device) -> Pixels8:
    """(height, width, 3) as level 0 stores it: decoded by superblocks, as every job is."""
    plan, layout = job.plan, job.plan.layout

    def read(box: Box) -> NDArray[np.float32]:
        return wrapped(latents, plan.canvas, box)

    out = np.empty((layout.height, layout.width, 3), np.uint8)
    whole = layout.whole(0).box
    for number, task in enumerate(layout.tasks(0)):
        wanted, box = layout.reads(task).box, plan.decode_box(number)
        decoded = decode_box(codec, plan.tiling, box, read, device)
        out[wanted.slices_in(whole)] = to_u8(decoded[wanted.slices_in(box.scaled(plan.tiling.scale))])
    return out


def classes_of(job: Job, classes: ClassMap) -> NDArray[np.uint8]:
    """(height, width) class ids of the picture's pixels, 255 for none."""
    canvas, layout = job.plan.canvas, job.plan.layout
    ids = classes.read(canvas.box).numpy()
    values = np.where(ids < 0, NO_CLASS, ids).astype(np.uint8)
    scale = job.plan.tiling.scale
    return values.repeat(scale, axis=0).repeat(scale, axis=1)[: layout.height, : layout.width]
