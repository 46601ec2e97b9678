"""A job of any text family may say `--scheduler edm_heun`: beside diffusers' pipelines, and a plain loop for flows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import FLOW_CONFIG, INFO, latents_of, run_here, tiny_job
from families import TOLERANCE, WORDS, squares
from one_patch import changed, difference, job_of, noise_of, with_scheduler

from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import unused
from cluster.spec.fields import SpecError
from generation import plain_solvers
from generation.models.contracts import Model
from generation.sampling.schedules.edm_heun import karras_levels

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", ["sd1", "sd2", "sdxl"])
def test_without_churn_it_draws_what_diffusers_pipeline_draws_by_heun(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """On Karras' levels; diffusers' pipeline has no churn."""
    settings = {"use_karras_sigmas": True, "timestep_spacing": "linspace"}
    theirs = changed(folders[name], tmp_path / "model", with_scheduler("HeunDiscreteScheduler", **settings))
    job = job_of(folders[name], tmp_path / "out", scheduler="edm_heun")
    assert job.plan.steps == 7 and job.plan.fields == (1, 2, 1, 2, 1, 2, 1, 1)
    assert difference(job, theirs) < TOLERANCE


@pytest.mark.parametrize("name", ["sd3", "flux-schnell"])
def test_along_a_flow_it_draws_what_a_plain_loop_draws(
    name: str, folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    """The network is at (1 - s) clean + s noise with s = sigma / (1 + sigma), is told 1000 s and says noise - clean."""
    job = job_of(folders[name], tmp_path / "out", scheduler="edm_heun", guidance_scale=1.0)
    run_here(job, executor=InProcess.of(JobWork(job)))
    model, start = models[name], noise_of(job)
    boxes = squares(1, start.shape[-1])
    told = model.conditioner_for(WORDS).conditional(boxes)

    def denoise(x: Any, sigma: float) -> Any:
        s = sigma / (1 + sigma)
        point = torch.from_numpy(x * (1 - s)).float()
        with torch.inference_mode():
            flow = model.denoiser.predict(point, torch.tensor(1000 * s), told)
        return x * (1 - s) - s * flow.double().numpy()

    levels = (*karras_levels(0.002, 80.0, 7.0, 4), 0.0)
    plain = plain_solvers.edm_heun(denoise, 80 * start.double().numpy(), levels, np.zeros_like)
    assert np.abs(latents_of(job) - plain[0]).max() < 3 * TOLERANCE


def test_churn_comes_from_the_models_configuration(folders: dict[str, Path], tmp_path: Path) -> None:
    """Another picture, another identity; other schedulers know nothing of it."""
    settings = {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003, "rho": 5.0}
    stirring = changed(folders["sd1"], tmp_path / "model", with_scheduler(**settings))
    jobs = {
        (folder.name, name): job_of(folder, tmp_path / f"{folder.name}-{name}", scheduler=name)
        for folder in (folders["sd1"], stirring)
        for name in ("edm_heun", "heun")
    }
    assert len({job.fingerprint for job in jobs.values()}) == 4
    for job in jobs.values():
        run_here(job, executor=InProcess.of(JobWork(job)))
    latents = {key: latents_of(job) for key, job in jobs.items()}
    assert np.isfinite(latents["model", "edm_heun"]).all()
    assert np.abs(latents["model", "edm_heun"] - latents["sd1", "edm_heun"]).max() > 0.1
    assert np.array_equal(latents["model", "heun"], latents["sd1", "heun"])


def test_which_flags_mean_something_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job(tmp_path, monkeypatch, scheduler="edm_heun", prediction_type="v_prediction", eta=0.5)
    lines = list(unused(job.spec, job.spec, job.info))
    assert lines == ["eta 0.5 changes nothing: scheduler edm_heun takes none; ddim and tcd do"]
    with pytest.raises(SpecError, match="--timestep-spacing changes nothing with scheduler edm_heun"):
        tiny_job(tmp_path, monkeypatch, scheduler="edm_heun", timestep_spacing="trailing")
    flow = replace(INFO, scheduler_config=FLOW_CONFIG)
    with pytest.raises(SpecError, match="--prediction-type changes nothing with scheduler edm_heun"):
        tiny_job(tmp_path, monkeypatch, flow, scheduler="edm_heun", prediction_type="epsilon")
