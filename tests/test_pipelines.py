"""The whole engine on a canvas of one patch against diffusers' own pipeline from the same noise, family by family."""

from pathlib import Path

import pytest
import torch
from engine import latents_of, run_here
from families import TEXT, TOLERANCE, WORDS, theirs

from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import prepare
from cluster.spec.fields import JobSpec
from generation.sampling.noise import Purpose, noise

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", TEXT)
def test_one_patch_equals_diffusers_pipeline(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    steps = 2 if name.startswith("flux") else 4
    guidance = 0.0 if name == "flux-schnell" else 4.0
    spec = JobSpec(
        prompt=WORDS.prompt, negative_prompt=WORDS.negative_prompt, model=str(folders[name]), width=8, height=8,
        num_inference_steps=steps, guidance_scale=guidance, method="hann", seed=7, executor="in-process",
        device="cpu", out=tmp_path, batch_size=1, tile=64,
    )  # fmt: skip
    job = prepare(spec)  # 8 x 8 pixels are less than a patch: the canvas is exactly one
    assert (
        job.plan.canvas.box.shape == (job.info.patch, job.info.patch) and job.plan.patches == job.plan.steps
    )
    run_here(job, executor=InProcess.of(JobWork(job)))
    start = noise(7, Purpose.START, 0, job.info.latent_channels, job.plan.canvas.box, job.plan.canvas)
    expected = theirs(folders[name], torch.from_numpy(start)[None], WORDS, steps, guidance)
    assert abs(latents_of(job) - expected[0].numpy()).max() < TOLERANCE
