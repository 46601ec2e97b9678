"""A spec made definite: what it leaves open is chosen by the model, the method and the machine. Reads no file."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster.machine import local_machine
from cluster.spec.fields import Device, DType, JobSpec, SpecError
from cluster.spec.prediction import check_prediction
from generation.sampling import methods
from generation.sampling.batching import cell_side
from generation.sampling.covers import stride_of

if TYPE_CHECKING:
    from generation.models.contracts import ModelInfo

BLOCK = 128
"""Latents along a block, at least, unless a spec says otherwise."""
PREVIEWS = 4
"""Of a block while it is denoised, unless a spec says otherwise; one more when it is done."""
BATCH_SIZES: Mapping[str, int] = {"cpu": 4, "cuda": 16}
DTYPES: Mapping[str, DType] = {"cpu": "float32", "cuda": "float16"}


def resolve(spec: JobSpec, info: ModelInfo) -> JobSpec:
    """The same job with every open choice made: by the model's own settings, then by this machine.

    Raises SpecError for a scheduler that does not exist, a block smaller than the model's patch, and a GPU that
    is not there.
    """
    _check_scheduler(spec.scheduler)
    check_prediction(spec, info)
    spec = _joined_as_the_model_likes(spec, info)
    machine = local_machine()
    device: Device = spec.device or ("cuda" if machine.gpus else "cpu")
    if device == "cuda" and not machine.gpus and not (spec.executor == "ray" and machine.ray_address):
        raise SpecError(
            "device cuda needs a GPU, and PyTorch finds none here; use --device cpu, or RAY_ADDRESS"
        )
    batch_size = spec.batch_size or BATCH_SIZES[device]
    steps = spec.num_inference_steps or info.num_inference_steps
    return spec.model_copy(
        update={
            "scheduler": spec.scheduler or info.scheduler,
            "num_inference_steps": steps,
            "guidance_scale": _guidance_scale(spec, info),
            "eta": _eta(spec, info),
            "dtype": spec.dtype or (info.notes.get("half") if device == "cuda" else None) or DTYPES[device],
            "device": device,
            "batch_size": batch_size,
            "block": _block(spec, info, batch_size),
            "workers": _workers(spec, device, machine.cores, machine.gpus),
            "blend_last": methods.blended(spec.method, steps, spec.blend_last),
            "preview_every": -(-steps // PREVIEWS) if spec.preview_every is None else spec.preview_every,
            "commits": dict(info.notes.get("commits", {})),
        }
    )


def _joined_as_the_model_likes(spec: JobSpec, info: ModelInfo) -> JobSpec:
    """The model's own method, if it has one and none was given, and with that method its own overlap."""
    own: methods.Name = info.notes.get("method", spec.method)
    if "method" in spec.model_fields_set and spec.method != own:
        return spec
    overlap = spec.overlap if "overlap" in spec.model_fields_set else info.notes.get("overlap", spec.overlap)
    return spec.model_copy(update={"method": own, "overlap": overlap})


def _guidance_scale(spec: JobSpec, info: ModelInfo) -> float:
    if spec.cond_scale is None:
        return info.guidance_scale if spec.guidance_scale is None else spec.guidance_scale
    if spec.guidance_scale not in (None, 1 + spec.cond_scale):
        raise SpecError(
            f"guidance_scale {spec.guidance_scale:g} and cond_scale {spec.cond_scale:g} disagree: a cond_scale of X is "
            "a guidance_scale of 1 + X; give one of them"
        )
    return 1 + spec.cond_scale


def _eta(spec: JobSpec, info: ModelInfo) -> float | None:
    """What the model's pipeline asks of schedulers whose own default is another; None leaves them their own."""
    asked = info.notes.get("eta")
    if spec.eta is not None or asked is None:
        return spec.eta
    from generation.sampling.schedules.names import own_eta

    return asked if own_eta(spec.scheduler or info.scheduler) not in (None, asked) else None


def _check_scheduler(name: str | None) -> None:
    if name is None:
        return
    from generation.sampling.schedules.names import check_name

    try:
        check_name(name)
    except ValueError as error:
        raise SpecError(str(error)) from None


def _block(spec: JobSpec, info: ModelInfo, batch_size: int) -> int:
    """The side of a block: whole cells, whose patches fill batches; no larger than the canvas."""
    if spec.block is not None and spec.block < info.patch:
        raise SpecError(
            f"block {spec.block} is smaller than the model's patch of {info.patch} latents; give at least {info.patch}"
        )
    overlaps = spec.method in methods.OVERLAPPING
    stride = stride_of(info.patch, spec.overlap) if overlaps else info.patch
    cell = cell_side(stride, batch_size)
    cells = math.ceil((spec.block or max(BLOCK, info.patch)) / cell)
    longest = max(info.patch, math.ceil(max(spec.height, spec.width) / info.scale))
    return min(cells * cell, longest)


def _workers(spec: JobSpec, device: str, cores: int, gpus: int) -> int | None:
    """None on a cluster of Ray's, which is asked for its size once it is joined."""
    if spec.executor == "in-process":
        return 1
    if spec.workers is None and "RAY_ADDRESS" in os.environ:
        return None
    return spec.workers or (max(1, gpus) if device == "cuda" else max(1, cores // spec.threads))
