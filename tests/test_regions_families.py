"""Regions with the text models people use, and with LoRAs: real encoders and networks, tiny and untrained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
from engine import latents_of, run_here
from numpy.typing import NDArray
from regional import label_map

from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
SIDE = 72


def latents(out: Path, model: Path, prompt: str = "a road", **fields: Any) -> NDArray[np.float32]:
    """Final latents of a picture of several patches and blocks."""
    spec = JobSpec(
        prompt=prompt, model=str(model), width=SIDE, height=SIDE, num_inference_steps=3, guidance_scale=4.0,
        method="hann", overlap=0.5, seed=7, executor="in-process", device="cpu", out=out, tile=64,
        **{"block": 16, **fields},
    )  # fmt: skip
    job = prepare(spec)
    run_here(job, executor=InProcess.of(JobWork(job)))
    return latents_of(job)


@pytest.fixture
def halves(tmp_path: Path) -> Path:
    """0 on the left, 3 on the right."""
    return label_map(tmp_path / "halves.png", np.repeat([[0, 3]], 2, axis=0))


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_blocks_equal_the_whole_canvas(
    name: str, folders: dict[str, Path], halves: Path, tmp_path: Path
) -> None:
    fields = {"regions": halves, "region": {3: "a hill"}, "region_feather": 4}
    parts = latents(tmp_path / "parts", folders[name], **fields)
    assert np.array_equal(parts, latents(tmp_path / "whole", folders[name], **fields, block=64))
    plain = latents(tmp_path / "plain", folders[name])
    assert not np.array_equal(parts, plain)


def test_a_lora_speaks_in_every_region(folders: dict[str, Path], halves: Path, tmp_path: Path) -> None:
    model = folders["sd1"]
    lora = {"loras": (str(tiny_models.build_lora(model, tmp_path / "lora", "unet")),)}
    regions = {"regions": halves, "region": {0: "a road", 3: "a road"}}
    alike = latents(tmp_path / "alike", model, **regions, **lora)
    assert np.array_equal(alike, latents(tmp_path / "plain", model, **lora))  # one prompt in all regions
    assert not np.array_equal(alike, latents(tmp_path / "bare", model))
    mixed = {"regions": halves, "region": {3: "a hill"}}
    with_lora = latents(tmp_path / "with", model, **mixed, **lora)
    without = latents(tmp_path / "without", model, **mixed)
    for half in (slice(0, with_lora.shape[2] // 4), slice(-with_lora.shape[2] // 4, None)):
        assert abs(with_lora[..., half] - without[..., half]).max() > 1e-3
