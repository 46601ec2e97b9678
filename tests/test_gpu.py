"""The same picture on a CUDA device: near the CPU's latents, and the same bytes when made again there."""

from pathlib import Path
from typing import Any

import pytest
import torch
from engine import files_of, latents_of, run_here

from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import Job, prepare
from cluster.spec.fields import JobSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device here"),
]


def made(out: Path, **fields: Any) -> Job:
    defaults: dict[str, Any] = {
        "prompt": "archipelago",
        "width": 512,
        "height": 384,
        "num_inference_steps": 6,
    }
    job = prepare(JobSpec(**{**defaults, **fields}, executor="in-process", method="hann", out=out))
    run_here(job, executor=InProcess.of(JobWork(job)))
    return job


def test_cuda_is_near_the_cpu(tmp_path: Path) -> None:
    cpu, cuda = (latents_of(made(tmp_path / name, device=name, dtype="float32")) for name in ("cpu", "cuda"))
    assert abs(cpu - cuda).max() < 0.02, "float32 convolutions in TF32 differ by about a thousandth"


def test_cuda_repeats_itself_bit_for_bit(tmp_path: Path) -> None:
    first, again, other = (
        made(tmp_path / name, device="cuda", block=block)
        for name, block in (("first", 64), ("again", 64), ("other", 48))
    )
    assert files_of(first.spec.out) == files_of(again.spec.out) == files_of(other.spec.out)


def test_half_precision_makes_the_same_picture(tmp_path: Path) -> None:
    full, half = (
        latents_of(made(tmp_path / name, device="cuda", dtype=name)) for name in ("float32", "float16")
    )
    assert abs(full - half).mean() < 0.02
