"""Builds a Worker of a job: loads its model, encodes its prompt, opens its outputs. Runs no task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.jobs.job import Job
from cluster.jobs.models import loaded
from cluster.machine import compute_with
from cluster.spec.identity import check_inputs
from generation.models.contracts import ClassMap, Model, Request
from generation.models.maps import Legend
from generation.places.scenes import Scene, SceneMap, UniformMap, parse
from generation.sampling.denoise import Sampler
from generation.sampling.unconditional import Unconditional
from storage.arrays import ArrayStore

if TYPE_CHECKING:
    from cluster.words.class_maps import ReadsLatents


def build_worker(job: Job) -> Worker:
    """Load everything that the job's tasks need.

    Raises ModelError where the model cannot be loaded or is not what it was when the job began, SpecError where a file
    of the user's is not.
    """
    compute_with(job.spec.threads)
    check_inputs(job.spec, job.inputs)
    model = loaded(job.spec, job.info)
    classes = labels_of(job)
    return Worker(job, build_sampler(job, model, classes), model.codec, outputs_for(job), classes)


def build_sampler(job: Job, model: Model, classes: ClassMap | None = None) -> Sampler:
    """The job's sampler around a loaded model; `classes` is its class map, where it knows classes."""
    spec = job.spec
    request = Request(
        prompt=spec.prompt,
        negative_prompt=spec.negative_prompt,
        height=job.plan.canvas.height,
        width=job.plan.canvas.width,
        classes=classes,
        guidance_scale=spec.guidance_scale,
        seed=spec.seed,
    )
    conditioner = model.conditioner_for(request)
    return Sampler(
        canvas=job.plan.canvas,
        cover=job.plan.cover,
        schedule=job.schedule(),
        seed=spec.seed,
        channels=job.info.latent_channels,
        denoiser=model.denoiser,
        conditioner=Unconditional(conditioner) if spec.cond_scale == 0 else conditioner,
        guidance_scale=(spec.guidance_scale or 1.0) if job.plan.guided else 1.0,
        batching=job.plan.batching,
        device=torch.device(spec.device or "cpu"),
        dtype=getattr(torch, spec.dtype or "float32"),
        mixture=None if job.regions is None else job.regions.mixture(model, request),
    )


def labels_of(job: Job) -> ClassMap | None:
    """What is labelled beside the picture: classes, or regions; None where it has neither."""
    if job.regions is not None:
        return job.regions.classes()
    return class_map(job) if job.info.class_names else None


def class_map(job: Job, invented: ReadsLatents | None = None) -> ClassMap:
    """Where the classes lie: the user's map, the invented one, or the scene or class that the prompt names.

    invented: the planes of the job's map, where they are not in that job's folder.
    """
    from cluster.words.class_maps import InventedMap, image_map

    names, cell = job.info.class_names, int(job.info.notes.get("cell", 1))
    if job.spec.classes is not None:
        return image_map(job.spec, job.info, job.plan.canvas)
    if job.map is not None:
        cells = job.map.plan.canvas
        planes = invented or ArrayStore(job.map.spec.out)
        legend = Legend.of(job.map.info)
        return InventedMap(planes, cells, job.plan.canvas, cell, legend, job.spec.clean_map)
    wanted = parse(job.spec.prompt, names)
    if isinstance(wanted, Scene):
        return SceneMap(wanted, job.spec.seed, job.plan.canvas, cell, names)
    assert isinstance(wanted, str)  # a mix has a map
    return UniformMap(names.index(wanted))
