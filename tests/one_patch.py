"""A job of one patch, whose latents must be those of diffusers' own pipeline. Not a test itself."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from engine import latents_of, run_here
from families import WORDS, theirs

from cluster.engine.continuing import noted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import Job, prepare
from cluster.spec.fields import JobSpec
from generation.sampling.noise import Purpose, noise

GONE = object()
INDEX, SCHEDULER, UNET = "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"


def with_scheduler(index_class: str | None = None, **settings: Any) -> dict[str, dict[str, Any]]:
    """Changes of a folder: of the scheduler's settings, and of its class in both files."""
    if index_class is None:
        return {SCHEDULER: settings}
    settings = {"_class_name": index_class, **settings}
    return {INDEX: {"scheduler": ["diffusers", index_class]}, SCHEDULER: settings}


def changed(folder: Path, target: Path, changes: dict[str, dict[str, Any]]) -> Path:
    """A copy of a model whose JSON files have other values; GONE takes one out."""
    shutil.copytree(folder, target)
    for name, values in changes.items():
        content = {**json.loads((target / name).read_text()), **values}
        content = {key: value for key, value in content.items() if value is not GONE}
        (target / name).write_text(json.dumps(content))
    return target


def job_of(folder: Path, out: Path, **more: Any) -> Job:
    """Of a canvas of one patch."""
    fields: dict[str, Any] = {
        "prompt": WORDS.prompt, "negative_prompt": WORDS.negative_prompt, "num_inference_steps": 4,
        "guidance_scale": 4.0, "method": "hann", "seed": 7, "executor": "in-process", "device": "cpu",
        "batch_size": 1, "tile": 64,
    }  # fmt: skip
    spec = JobSpec(model=str(folder), width=8, height=8, out=out, **{**fields, **more})
    return prepare(spec, note=noted)


def difference(job: Job, folder: Path, request: Any = WORDS) -> float:
    """The largest of our latents from those of diffusers' pipeline that starts from the same noise."""
    run_here(job, executor=InProcess.of(JobWork(job)))
    expected = theirs(folder, noise_of(job), request, 4, 4.0)
    return float(abs(latents_of(job) - expected[0].numpy()).max())


def noise_of(job: Job) -> torch.Tensor:
    """(1, C, h, w) that the job starts from."""
    start = noise(7, Purpose.START, 0, job.info.latent_channels, job.plan.canvas.box, job.plan.canvas)
    return torch.from_numpy(start)[None]
