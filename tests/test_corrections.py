"""Configurations that diffusers corrects when it loads them: its own pipelines are what the whole engine must equal."""

import importlib
import inspect
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import latents_of, run_here
from families import TOLERANCE, WORDS, theirs

from cluster.executors.in_process import InProcess
from cluster.job import Job, prepare, prepare_described
from cluster.spec import JobSpec
from generation import schedules
from generation.models import corrections
from generation.models.contracts import ModelInfo
from generation.models.loading import describe
from generation.noise import Purpose, noise

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The configuration file of:FutureWarning"),
]
"""The second is the oracle's: our own loading is silent, and says in a line of its own what it corrects."""

GONE = object()
INDEX, SCHEDULER, UNET = "model_index.json", "scheduler/scheduler_config.json", "unet/config.json"
DDIM: dict[str, Any] = {INDEX: {"scheduler": ["diffusers", "DDIMScheduler"]}}


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


def job_of(folder: Path, out: Path, **more: Any) -> Job:
    """Of a canvas of one patch."""
    fields: dict[str, Any] = {
        "prompt": WORDS.prompt, "negative_prompt": WORDS.negative_prompt, "num_inference_steps": 4,
        "guidance_scale": 4.0, "method": "hann", "seed": 7, "executor": "in-process", "device": "cpu",
        "batch_size": 1, "tile": 64,
    }  # fmt: skip
    return prepare(JobSpec(model=str(folder), width=8, height=8, out=out, **{**fields, **more}))


def difference(job: Job, folder: Path, request: Any = WORDS) -> float:
    """The largest of our latents from those of diffusers' pipeline that starts from the same noise."""
    run_here(job, executor=InProcess.of(job))
    start = noise(7, Purpose.START, 0, job.info.latent_channels, job.plan.canvas.box, job.plan.canvas)
    expected = theirs(folder, torch.from_numpy(start)[None], request, 4, 4.0)
    return float(abs(latents_of(job) - expected[0].numpy()).max())


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
    ours = schedules.Schedule(name, info.scheduler_config, 5)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    assert ours.init_noise_sigma == pytest.approx(float(theirs.init_noise_sigma))
    assert not theirs.config.get("clip_sample")


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
        assert ("steps_offset" not in signature) == (name in corrections.WITHOUT_OFFSET), name
