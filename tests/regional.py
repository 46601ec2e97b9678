"""Small jobs with regions around a network that hears prompts by their length. Not a test itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from engine import ConvolutionalDenoiser, NearestCodec, run, tiny_job
from numpy.typing import NDArray
from PIL import Image

from cluster.engine.executors.in_process import InProcess
from cluster.engine.outputs import outputs_for
from cluster.engine.tasks import Worker
from cluster.engine.worker import build_sampler, labels_of
from cluster.jobs.job import Job
from generation.models.contracts import Conditioning, Model, Request
from storage.geometry import Box

WIDTH, HEIGHT = 2 * 53, 2 * 41


@dataclass(frozen=True)
class Heard:
    """A number of the prompt, and one of the negative prompt."""

    prompt: str
    negative_prompt: str

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        return {"told": torch.full((len(boxes),), len(self.prompt) / 10)}

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        return {"told": torch.full((len(boxes),), -len(self.negative_prompt) / 10)}


class Listening(ConvolutionalDenoiser):
    """Notes which numbers it was told, call by call."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[float] = []

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        self.heard += [round(value, 3) for value in conditioning["told"].tolist()]
        return super().predict(latents, timestep, conditioning)


def model_of(job: Job, denoiser: Any = None) -> Model:
    def conditioner_for(request: Request) -> Heard:
        return Heard(request.prompt, request.negative_prompt)

    return Model(job.info, denoiser or ConvolutionalDenoiser(), NearestCodec(), conditioner_for)


def worker_of(job: Job, denoiser: Any = None) -> Worker:
    model = model_of(job, denoiser)
    return Worker(job, build_sampler(job, model), model.codec, outputs_for(job), labels_of(job))


def drawn(job: Job, denoiser: Any = None, kind: type[InProcess] = InProcess) -> list[Any]:
    """Run the job in process; its events."""
    events: list[Any] = []
    run(job, kind(worker_of(job, denoiser)), events.append)
    return events


def regional_job(out: Path, monkeypatch: Any, **fields: Any) -> Job:
    return tiny_job(out, monkeypatch, **{"width": WIDTH, "height": HEIGHT, **fields})


def label_map(path: Path, labels: NDArray[np.integer[Any]]) -> Path:
    Image.fromarray(labels.astype(np.uint8)).save(path)
    return path


def quarters(path: Path) -> Path:
    """0 | 3 over 4 | 3, stretched over the picture, with a spot of 9."""
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 33:], labels[22:, :33], labels[12:20, 28:40] = 3, 4, 9
    return label_map(path, labels)


def told(path: Path, **more: Any) -> dict[str, Any]:
    """Fields of a spec: the map `quarters`, its labels' prompts, and a box."""
    return {
        "regions": quarters(path),
        "region": {3: "a wood", 4: "some deep water", 9: {"prompt": "a tower", "negative_prompt": "fog"}},
        "region_box": ["60%,50%,30%,40%=an old red barn"],
        **more,
    }
