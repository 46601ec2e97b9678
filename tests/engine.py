"""A tiny engine for tests: small networks, a spec, and jobs run in process. Not a test itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cluster.engine import driver
from cluster.engine.closing import open_ledger
from cluster.engine.executors.contract import Executor
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.engine.worker import build_sampler
from cluster.following.events import OnEvent
from cluster.jobs.job import Job, prepare
from cluster.patience import LIMITS, Limits
from cluster.spec.fields import JobSpec
from cluster.spec.job_file import LATENTS
from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from storage.arrays import ArrayStore
from storage.geometry import Box

CHANNELS, SCALE, PATCH = 3, 2, 16
OF_THE_PICTURE = ("latents.zarr", "image.zarr", "image_files", "provenance.xmp")

INFO = ModelInfo(
    family="test",
    latent_channels=CHANNELS,
    scale=SCALE,
    patch=PATCH,
    multiple=1,
    tile=24,
    tile_margin=4,
    local_codec=False,
    guidance_scale=1.0,
    num_inference_steps=4,
    scheduler="ddim",
    scheduler_config={"_class_name": "DDIMScheduler"},
)
FLOW_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


class ConvolutionalDenoiser:
    """Random weights, and a receptive field of 7: it sees where a patch ends. Counts its evaluations."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.kernels = [torch.randn(CHANNELS, CHANNELS, 3, 3, generator=generator) * 0.3 for _ in range(3)]
        self.evaluated = 0

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        self.evaluated += len(latents)
        x = latents + conditioning["told"][:, None, None, None]
        for kernel in self.kernels:
            x = torch.tanh(torch.nn.functional.conv2d(x, kernel, padding=1))
        return x


class IdentityDenoiser:
    """Predicts what it is shown."""

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        return latents


class NearestCodec:
    """Pixels are the latents, enlarged: decode(encode(x)) == x where x is constant on cells."""

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return latents.repeat_interleave(SCALE, 2).repeat_interleave(SCALE, 3)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, SCALE)


@dataclass(frozen=True)
class Told:
    """Tells a patch a number of its place on the canvas, as a class map would; zero without the prompt."""

    value: float
    height: int
    width: int

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        places = [(box.y0 % self.height) / self.height + (box.x0 % self.width) / self.width for box in boxes]
        return {"told": self.value + 0.3 * torch.tensor(places, dtype=torch.float32)}

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        return {"told": torch.zeros(len(boxes))}


def tiny_model(denoiser: Any = None, info: ModelInfo = INFO) -> Model:
    def conditioner_for(request: Request) -> Told:
        return Told(len(request.prompt) / 10, request.height, request.width)

    return Model(info, denoiser or ConvolutionalDenoiser(), NearestCodec(), conditioner_for)


def tiny_job(out: Path, monkeypatch: Any, info: ModelInfo = INFO, **fields: Any) -> Job:
    """A prepared job around the tiny model's facts."""
    monkeypatch.setattr("generation.models.loading.describe", lambda *args, **kwargs: info)
    defaults: dict[str, Any] = {
        "prompt": "a test", "width": 2 * 53, "height": 2 * 41, "executor": "in-process", "batch_size": 1, "block": 16,
        "tile": 16, "tile_format": "png", "num_inference_steps": 4, "device": "cpu", "dtype": "float32", "workers": 1,
    }  # fmt: skip
    return prepare(JobSpec(**{**defaults, **fields}, out=out))


def tiny_worker(job: Job, denoiser: Any = None) -> Worker:
    torch.set_num_threads(1)
    model = tiny_model(denoiser, job.info)
    return Worker(job, build_sampler(job, model), model.codec, outputs_for(job))


def run(job: Job, executor: Executor, on_event: OnEvent, limits: Limits = LIMITS) -> None:
    """Run a job on an executor that the caller closes."""
    with open_ledger(job) as ledger:
        driver.run(job, executor, ledger, on_event, limits)


def run_here(job: Job, denoiser: Any = None, executor: Any = None) -> list[Any]:
    """Run a job in process; the events."""
    events: list[Any] = []
    run(job, executor or InProcess(tiny_worker(job, denoiser)), events.append)
    return events


def latents_of(job: Job) -> np.ndarray:
    return ArrayStore(job.spec.out).read(LATENTS, (slice(None),) * 3)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of the finished picture (latents, tiles, where it comes from) and its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.parts[len(folder.parts)] in OF_THE_PICTURE
    }


def whole_block(job: Job) -> Job:
    """The same job with the whole canvas in one block."""
    side = max(job.plan.canvas.height, job.plan.canvas.width)
    grid = replace(job.plan.grid, block=side)
    return replace(job, plan=replace(job.plan, grid=grid))


def hash_of(folder: Path) -> str:
    """Of every name and byte in it, and when each was written."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path}\0{path.stat().st_mtime_ns}\0".encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()
