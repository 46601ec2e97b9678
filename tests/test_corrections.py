"""Configurations that diffusers corrects when it loads them: its own pipelines are what the whole engine must equal."""

import importlib
import inspect
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import latents_of, run_here
from families import TOLERANCE, WORDS
from one_patch import (
    GONE,
    INDEX,
    UNET,
    changed,
    difference,
    job_of,
    noise_of,
    with_scheduler,
)
from tiny_models import build_sd1

from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.jobs.job import prepare_described
from cluster.spec.fields import SpecError
from generation.models import corrections, scheduling
from generation.models.contracts import ModelInfo
from generation.models.loading import describe, load
from generation.sampling.schedules import names as schedules
from generation.sampling.schedules.building import build_schedule

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The configuration file of:FutureWarning"),
]
"""The second is the oracle's: our own loading is silent, and says in a line of its own what it corrects."""

DDIM: dict[str, Any] = {INDEX: {"scheduler": ["diffusers", "DDIMScheduler"]}}

CASES: dict[str, tuple[str, dict[str, dict[str, Any]], set[str]]] = {
    "clipping DDIM": ("sd1", with_scheduler("DDIMScheduler", clip_sample=True), {"clip_sample"}),
    "DDIM that says nothing": (
        "sd1",
        with_scheduler("DDIMScheduler", clip_sample=GONE, steps_offset=GONE),
        {"clip_sample", "steps_offset"},
    ),
    "old PNDM": ("sd1", with_scheduler(steps_offset=0), {"steps_offset"}),
    "PNDM without an offset": ("sd1", with_scheduler(steps_offset=GONE), {"steps_offset"}),
    "PNDM to one": ("sd1", with_scheduler(set_alpha_to_one=True, steps_offset=0), {"steps_offset"}),
    "Euler, leading": (
        "sd1",
        with_scheduler("EulerDiscreteScheduler", timestep_spacing="leading", steps_offset=0),
        {"steps_offset"},
    ),
    "another class in the index": ("sd1", DDIM, {"_class_name", "clip_sample"}),
    "no class in the file": ("sd1", with_scheduler(_class_name=GONE), set()),
    "old UNet": ("sd1", {UNET: {"_diffusers_version": "0.6.0.dev0"}}, {"sample_size"}),
    "UNet of no version": ("sd1", {UNET: {"_diffusers_version": GONE}}, set()),
    "settings left out": ("sd1", {UNET: {"in_channels": GONE, "out_channels": GONE}}, set()),
    "old v-prediction": ("sd2", with_scheduler(steps_offset=0), {"steps_offset"}),
    "TCD": ("sd1", with_scheduler("TCDScheduler"), set()),
    "XL that clips": ("sdxl", with_scheduler("DDIMScheduler", clip_sample=True), set()),
    "XL that says nothing": ("sdxl", with_scheduler("DDIMScheduler", steps_offset=0), set()),
    "XL of an old UNet": ("sdxl", {UNET: {"_diffusers_version": "0.6.0"}}, set()),
    "another shift": ("sd3", with_scheduler(use_dynamic_shifting=False, shift=3.0), set()),
    "shift left out": (
        "sd3",
        with_scheduler(base_shift=GONE, max_shift=GONE, base_image_seq_len=GONE),
        set(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_picture_equals_diffusers_pipeline(
    case: str, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, changes, corrected = CASES[case]
    folder = changed(folders[name], tmp_path / "model", changes)
    job = job_of(folder, tmp_path / "out")
    assert {fix.setting for fix in job.info.notes.get("corrections", ())} == corrected
    told = [record.getMessage() for record in caplog.records]
    assert all(sum(line.startswith(f"{setting} is ") for line in told) == 1 for setting in corrected)
    assert difference(job, folder) < TOLERANCE


@pytest.mark.parametrize("forced", [True, False])
def test_an_empty_negative_prompt_is_zeros_or_words(
    forced: bool, folders: dict[str, Path], tmp_path: Path
) -> None:
    changes = {INDEX: {"force_zeros_for_empty_prompt": forced}}
    folder = changed(folders["sdxl"], tmp_path / "model", changes)
    job = job_of(folder, tmp_path / "out", negative_prompt="")
    assert difference(job, folder, replace(WORDS, negative_prompt="")) < TOLERANCE


@pytest.fixture(scope="module")
def clipping(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelInfo, Any]:
    """A configuration that is corrected: our facts of it, and diffusers' pipeline."""
    settings = {"steps_offset": 0, "clip_sample": True, "timestep_spacing": "leading"}
    folder = changed(
        folders["sd1"],
        tmp_path_factory.mktemp("clipping") / "model",
        with_scheduler("DDIMScheduler", **settings),
    )
    info = describe(str(folder))
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    pipeline.register_modules(
        scheduler=diffusers.DDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    )
    return info, pipeline


@pytest.mark.parametrize("name", [name for name in schedules.SHORT_NAMES if "flow" not in name])
def test_every_scheduler_has_the_pipelines_steps(name: str, clipping: tuple[ModelInfo, Any]) -> None:
    """Also where another scheduler is asked for than the model's."""
    info, pipeline = clipping
    class_name, overrides = schedules.resolve(name)
    scheduler = getattr(diffusers, class_name).from_config(pipeline.scheduler.config, **overrides)
    theirs = diffusers.StableDiffusionPipeline(**{**pipeline.components, "scheduler": scheduler}).scheduler
    theirs.set_timesteps(5)
    ours = build_schedule(name, info.scheduler_config, 5)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma))
    assert not theirs.config.get("clip_sample")


def test_consistency_models_are_not_corrected(folders: dict[str, Path], tmp_path: Path) -> None:
    """Their pipeline clips where the file says so. One step of it draws no noise."""
    built = build_sd1(tmp_path / "built", time_cond_proj_dim=32)
    kind = {"_class_name": "LatentConsistencyModelPipeline"}
    changes = with_scheduler("LCMScheduler", clip_sample=True, steps_offset=0)
    folder = changed(built, tmp_path / "model", changes | {INDEX: changes[INDEX] | kind})
    job = job_of(folder, tmp_path / "out", num_inference_steps=1, negative_prompt="", guidance_scale=6.0)
    assert "corrections" not in job.info.notes
    run_here(job, executor=InProcess.of(JobWork(job)))
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    expected = pipeline(
        WORDS.prompt, height=32, width=32, latents=noise_of(job), num_inference_steps=1, guidance_scale=6.0,
        output_type="latent",
    ).images  # fmt: skip
    assert float(abs(latents_of(job) - expected[0].numpy()).max()) < TOLERANCE


STATISTICS = {"latents_mean": [0.1, -0.2, 0.3, 0.0], "latents_std": [1.5, 0.5, 1.0, 2.0], "shift_factor": 0.3}


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd3"])
def test_a_codec_reads_what_its_pipeline_reads(name: str, folders: dict[str, Path], tmp_path: Path) -> None:
    """XL mean and deviation, Stable Diffusion 3 and Flux the shift, Stable Diffusion 1 and 2 neither."""
    statistics = STATISTICS if name != "sd3" else {**STATISTICS, "latents_mean": None, "latents_std": None}
    folder = changed(folders[name], tmp_path / "model", {"vae/config.json": statistics})
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.vae.config.latent_channels
    start = torch.randn(1, channels, 16, 16, generator=torch.Generator().manual_seed(3))
    given = dict(height=32, width=32, num_inference_steps=1, guidance_scale=1.0)
    latents = pipeline("x", latents=start.clone(), output_type="latent", **given).images
    pixels = pipeline("x", latents=start.clone(), output_type="pt", **given).images
    decoded = load(str(folder)).codec.decode(latents)
    torch.testing.assert_close((decoded / 2 + 0.5).clamp(0, 1), pixels, atol=1e-4, rtol=0.0)


def test_a_solver_of_flows_takes_its_own_levels(folders: dict[str, Path]) -> None:
    """Flux's pipeline hands its levels to its own schedulers, and to solvers that know those of a flow none."""
    info = describe(str(folders["flux-schnell"]))
    ours = build_schedule("unipc", info.scheduler_config, 4, linear_sigmas=True)
    theirs = diffusers.UniPCMultistepScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=1.0
    )
    theirs.set_timesteps(4)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)


def test_corrections_belong_to_the_identity(folders: dict[str, Path], tmp_path: Path) -> None:
    """Half a picture that was made before them cannot be finished with them."""
    same = changed(folders["sd1"], tmp_path / "same", {})
    assert "corrections" not in describe(str(same)).notes
    old = changed(folders["sd1"], tmp_path / "old", with_scheduler(steps_offset=0))
    job = job_of(old, tmp_path / "out")
    assert job.info.scheduler_config["steps_offset"] == 1
    uncorrected = replace(job.info, notes={})
    assert prepare_described(job.spec, uncorrected).fingerprint != job.fingerprint
    assert "steps_offset is 1 where scheduler/scheduler_config.json has 0" in str(
        job.info.notes["corrections"][0]
    )


def test_what_classes_take_by_default() -> None:
    """The tables are diffusers' signatures."""
    for name, values in corrections.DEFAULTS.items():
        signature = inspect.signature(getattr(diffusers, name).__init__).parameters
        for setting, value in values.items():
            default = signature[setting].default
            assert tuple(default) == value if isinstance(value, tuple) else default == value, (name, setting)
    for name in schedules.CLASS_NAMES:
        signature = inspect.signature(getattr(diffusers, name).__init__).parameters
        clips = "clip_sample" in signature and signature["clip_sample"].default is True
        assert clips == bool(corrections.completed(name, {}).get("clip_sample")), name
        assert ("steps_offset" not in signature) == (name in scheduling.WITHOUT_OFFSET), name


@pytest.mark.parametrize("who", ["the configuration", "a flag against it"])
def test_epsilon_from_zero_snr_is_refused_whoever_says_it(
    who: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = {"prediction_type": "v_prediction"} if who == "a flag against it" else {}
    settings = with_scheduler("DDIMScheduler", clip_sample=False, rescale_betas_zero_snr=True, **config)
    folder = changed(folders["sd1"], tmp_path / "model", settings)
    flags = {"prediction_type": "epsilon"} if config else {}
    with pytest.raises(SpecError) as caught:
        job_of(folder, tmp_path / "out", **flags)
    assert str(caught.value) == (
        f"zero SNR, at which model '{folder}' starts, leaves nothing of the picture to find where the model predicts "
        "epsilon, its noise; give --prediction-type v_prediction, if it predicts that"
    )
    for more in ({"prediction_type": "v_prediction"}, {**flags, "rescale_zero_snr": False}):
        assert job_of(folder, tmp_path / "out", **more)
    assert job_of(folder, tmp_path / "out", scheduler="pndm", **flags), "which does not start at zero SNR"
