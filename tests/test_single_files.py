"""Models in one file: what they say of themselves, what they lack, and which flag supplies it."""

import importlib
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from engine import latents_of, run_here
from families import TOLERANCE, WORDS, assert_near, noise, predict
from one_patch import SCHEDULER, changed, difference, job_of, noise_of, with_scheduler
from safetensors.torch import load_file, save_file
from tiny_models import build_lora, build_single_file
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.engine.executors.in_process import InProcess
from cluster.engine.work import JobWork
from cluster.spec.fields import JobSpec, SpecError
from generation.models.contracts import Model
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from generation.models.single_file import family_of, parts_inside, single_file_source
from generation.models.sources import Source, folder_source

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

WEIGHTLESS = shutil.ignore_patterns("*.safetensors")


@pytest.fixture(scope="module")
def whole(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_single_file(folders["sd1"], tmp_path_factory.mktemp("single") / "whole.safetensors")


def without(
    whole: Path, file: Path, *starts: str, metadata: dict[str, str] | None = None, **more: Any
) -> Path:
    """A copy that lacks the tensors whose names begin so, with others added."""
    tensors = {
        name: value for name, value in load_file(whole).items() if not name.startswith(starts or ("-",))
    }
    save_file({**tensors, **more}, file, metadata=metadata)
    return file


# --- what a file says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("says", ["tensor", "header"])
def test_a_file_that_says_v_prediction_is_sampled_so(
    says: str, whole: Path, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    more = {"v_pred": torch.zeros(0)} if says == "tensor" else {}
    metadata = {"modelspec.prediction_type": "v"} if says == "header" else None
    file = without(whole, tmp_path / "v.safetensors", metadata=metadata, **more)
    job = job_of(file, tmp_path / "out", config_from=str(folders["sd1"]))
    assert (
        'prediction_type is "v_prediction" where scheduler/scheduler_config.json has "epsilon"' in caplog.text
    )
    same = changed(folders["sd1"], tmp_path / "same", with_scheduler(prediction_type="v_prediction"))
    assert difference(job, same) < TOLERANCE


def test_a_file_that_says_zero_snr_is_sampled_so(
    whole: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    marks = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    file = without(whole, tmp_path / "z.safetensors", **marks)
    trailing = with_scheduler("DDIMScheduler", clip_sample=False, timestep_spacing="trailing")
    config = changed(folders["sd1"], tmp_path / "config", trailing)
    job = job_of(file, tmp_path / "out", config_from=str(config))
    settings = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    same = changed(config, tmp_path / "same", with_scheduler(**settings))
    assert difference(job, same) < TOLERANCE


def test_a_scheduler_that_knows_no_zero_snr_is_told(
    whole: Path, folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = without(whole, tmp_path / "z.safetensors", v_pred=torch.zeros(0), ztsnr=torch.zeros(0))
    job_of(file, tmp_path / "out", config_from=str(folders["sd1"]))
    assert "scheduler PNDMScheduler does not start at zero SNR" in caplog.text
    caplog.clear()
    job_of(file, tmp_path / "out", config_from=str(folders["sd1"]), scheduler="euler")
    assert "zero SNR" not in caplog.text


def test_what_a_spec_says_counts_more(whole: Path, folders: dict[str, Path], tmp_path: Path) -> None:
    file = without(whole, tmp_path / "v.safetensors", v_pred=torch.zeros(0))
    job = job_of(file, tmp_path / "out", config_from=str(folders["sd1"]), prediction_type="epsilon")
    assert difference(job, folders["sd1"]) < TOLERANCE


def test_a_file_is_corrected_as_diffusers_reader_does(
    whole: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    config = changed(folders["sd1"], tmp_path / "config", with_scheduler(steps_offset=0, clip_sample=True))
    job = job_of(whole, tmp_path / "out", config_from=str(config))
    assert {fix.setting for fix in job.info.notes["corrections"]} == {"steps_offset", "clip_sample"}
    run_here(job, executor=InProcess.of(JobWork(job)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The configuration file of", category=FutureWarning)
        pipeline = diffusers.StableDiffusionPipeline.from_single_file(str(whole), config=str(config))
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        WORDS.prompt, negative_prompt=WORDS.negative_prompt, height=32, width=32, latents=noise_of(job),
        num_inference_steps=4, guidance_scale=4.0, output_type="latent",
    ).images  # fmt: skip
    assert float(abs(latents_of(job) - expected[0].numpy()).max()) < TOLERANCE


# --- what a spec says ---------------------------------------------------------------------------------------


def test_flags_of_noise_are_the_schedulers_settings(folders: dict[str, Path], tmp_path: Path) -> None:
    flags = {"prediction_type": "v_prediction", "rescale_zero_snr": True, "timestep_spacing": "trailing"}
    settings = {
        "prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing",
        "clip_sample": False,
    }  # fmt: skip
    job = job_of(folders["sd1"], tmp_path / "out", scheduler="ddim", **flags)
    same = changed(folders["sd1"], tmp_path / "same", with_scheduler("DDIMScheduler", **settings))
    assert difference(job, same) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("sd1", {"rescale_zero_snr": True}, "rescale-zero-snr changes nothing with scheduler PNDM"),
        (
            "sd1",
            {"scheduler": "dpmpp_2s", "timestep_spacing": "trailing"},
            "timestep-spacing changes nothing",
        ),
        ("sd1", {"scheduler": "ddim", "rescale_zero_snr": True}, "give --prediction-type v_prediction"),
        ("sd3", {"prediction_type": "epsilon"}, "prediction-type changes nothing"),
        ("flux-dev", {"scheduler": "dpmpp_2m", "timestep_spacing": "trailing"}, "changes nothing"),
    ],
)
def test_settings_that_would_change_nothing_are_refused(
    name: str, fields: dict[str, Any], words: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(SpecError, match=words):
        job_of(folders[name], tmp_path / "out", **fields)


def test_wrong_values_are_refused() -> None:
    fields: dict[str, Any] = {"prompt": "x", "width": 8, "height": 8, "out": "x"}
    with pytest.raises(
        SpecError, match="unknown prediction_type 'v'; choose epsilon, v_prediction or sample"
    ):
        JobSpec(**fields, prediction_type="v")
    with pytest.raises(
        SpecError, match="unknown timestep_spacing 'even'; choose leading, trailing or linspace"
    ):
        JobSpec(**fields, timestep_spacing="even")


# --- what a file lacks --------------------------------------------------------------------------------------


VAE, CLIP = "first_stage_model.", "cond_stage_model."


@pytest.fixture
def bare(folders: dict[str, Path], tmp_path: Path) -> Path:
    """The configuration of a model, without any weights."""
    return Path(shutil.copytree(folders["sd1"], tmp_path / "bare", ignore=WEIGHTLESS))


@pytest.mark.parametrize(
    ("starts", "words"),
    [
        ((VAE,), "has no VAE: give an autoencoder with --vae"),
        (
            (CLIP,),
            "has no text_encoder: give a folder or hub id in diffusers' layout that has the rest with --config-",
        ),
        (
            (VAE, CLIP),
            "has no text_encoder and VAE: give an autoencoder with --vae and a folder .* with --config-from",
        ),
    ],
)
def test_missing_parts_are_named_with_their_flags(
    starts: tuple[str, ...], words: str, whole: Path, bare: Path, tmp_path: Path
) -> None:
    file = without(whole, tmp_path / "part.safetensors", *starts)
    with pytest.raises(ModelError, match=words):
        describe(str(file), config=str(bare))


def test_on_the_command_line_nothing_has_started(whole: Path, bare: Path, tmp_path: Path) -> None:
    file, out = without(whole, tmp_path / "part.safetensors", CLIP), tmp_path / "out"
    command = ["generate", "x", "--model", str(file), "--config-from", str(bare), "--out", str(out), "--yes"]
    result = CliRunner().invoke(app, [*command, "--size", "64x64", "--executor", "in-process"])
    assert result.exit_code == 2 and "--config-from" in result.stderr
    assert not out.exists()


def test_the_configurations_folder_supplies_what_is_missing(
    whole: Path, folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    file = without(whole, tmp_path / "part.safetensors", VAE, CLIP)
    model = load(str(file), config=str(folders["sd1"]))
    assert_near(predict(model), predict(models["sd1"]))
    latents = noise(model.info, 1)
    assert_near(model.codec.decode(latents), models["sd1"].codec.decode(latents))
    weights = [str(folders["sd1"] / name) for name in ("text_encoder/model.safetensors", SCHEDULER)]
    assert {*weights, str(file)} <= set(model.info.files)


def test_an_autoencoder_is_brought_in_every_form(
    whole: Path, folders: dict[str, Path], models: dict[str, Model], bare: Path, tmp_path: Path
) -> None:
    file = without(whole, tmp_path / "part.safetensors", VAE)
    original = {name: value for name, value in load_file(whole).items() if name.startswith(VAE)}
    save_file(original, tmp_path / "original.safetensors")
    save_file({k.removeprefix(VAE): v for k, v in original.items()}, tmp_path / "bare.safetensors")
    own = folders["sd1"] / "vae"
    forms = [own, folders["sd1"], own / "diffusion_pytorch_model.safetensors"]
    for form in (*forms, tmp_path / "original.safetensors", tmp_path / "bare.safetensors"):
        model = load(str(file), config=str(bare), vae=str(form))
        latents = noise(model.info, 1)
        assert_near(model.codec.decode(latents), models["sd1"].codec.decode(latents))
        assert model.info == describe(str(file), config=str(bare), vae=str(form))
        brought = [path for path in model.info.files if path.startswith(str(form))]
        assert any(path.endswith(".safetensors") for path in brought), form


def test_an_autoencoder_takes_the_place_of_a_folders(folders: dict[str, Path], tmp_path: Path) -> None:
    """With its own scaling, as diffusers takes one that is handed over."""
    own = changed(folders["sd1"], tmp_path / "own", {"vae/config.json": {"scaling_factor": 0.5}}) / "vae"
    without_one = changed(folders["sd1"], tmp_path / "without", {})
    shutil.rmtree(without_one / "vae")
    with pytest.raises(ModelError, match=r"vae holds no weights; .*, or another autoencoder with --vae"):
        describe(str(without_one))
    assert_near(predict(load(str(without_one), vae=str(own))), predict(load(str(folders["sd1"]))))
    model = load(str(folders["sd1"]), vae=str(own))
    latents = noise(model.info, 1)
    vae = diffusers.AutoencoderKL.from_pretrained(own)
    expected = vae.decode(latents / 0.5).sample
    torch.testing.assert_close(model.codec.decode(latents), expected.detach(), atol=1e-5, rtol=0.0)
    files = set(model.info.files)
    assert str(own / "config.json") in files
    assert str(folders["sd1"] / "vae" / "diffusion_pytorch_model.safetensors") not in files


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ("nowhere", "unknown VAE"), ("sd3/vae", "latents of 16 channels, and the unet reads 4"), ("sd1/unet", "UNet"),
        ("sd3/vae/diffusion_pytorch_model.safetensors", "latents of 16 channels"),
        ("sd1/unet/diffusion_pytorch_model.safetensors", "is a UNet alone, and a VAE is needed"),
        ("sd1/tokenizer", "holds no config.json"),
    ],
)  # fmt: skip
def test_what_is_no_fitting_autoencoder_is_refused(form: str, words: str, folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=words):
        describe(str(folders["sd1"]), vae=str(folders["sd1"].parent / form))


# --- where its configuration is -----------------------------------------------------------------------------


SD2 = {
    "model.diffusion_model.input_blocks.0.0.weight": (2, 4, 3, 3),
    "model.diffusion_model.input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight": (2, 1024),
    "first_stage_model.decoder.conv_in.weight": (2, 4, 3, 3),
    "cond_stage_model.model.token_embedding.weight": (2, 1024),
}
"""Some of the names and shapes by which such a file is known."""


def test_a_file_whose_repository_is_gone_needs_the_flag(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    file = tmp_path / "sd2.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in SD2.items()}, file)
    with pytest.raises(ModelError) as caught:
        describe(str(file))
    assert str(caught.value) == (
        f"the configuration of '{file}' is not at hand (stabilityai/stable-diffusion-2-1 is not in the hub cache; "
        "HF_HUB_OFFLINE is set): give a folder or hub id in diffusers' layout with --config-from"
    )


CLIP_NAME = "transformer.text_model.embeddings.position_embedding.weight"
T5_NAME = "text_encoders.t5xxl.transformer.shared.weight"


@pytest.mark.parametrize(
    ("names", "family", "inside"),
    [
        (tuple(SD2), "Stable Diffusion 1 or 2", {"unet", "vae", "text_encoder"}),
        (
            ("model.diffusion_model.x", f"cond_stage_model.{CLIP_NAME}"),
            "Stable Diffusion 1 or 2",
            {"unet", "text_encoder"},
        ),
        (
            (f"conditioner.embedders.0.{CLIP_NAME}", "conditioner.embedders.1.model.positional_embedding"),
            "Stable Diffusion XL",
            {"unet", "text_encoder", "text_encoder_2"},
        ),
        (
            (
                "model.diffusion_model.joint_blocks.0.x",
                f"text_encoders.clip_l.{CLIP_NAME}",
                "first_stage_model.x",
            ),
            "Stable Diffusion 3",
            {"transformer", "text_encoder", "vae"},
        ),
        (
            ("joint_blocks.0.x", f"text_encoders.clip_g.{CLIP_NAME}", T5_NAME),
            "Stable Diffusion 3",
            {"transformer", "text_encoder_2", "text_encoder_3"},
        ),
        (("double_blocks.0.x",), "Flux", {"transformer"}),
        (("double_blocks.0.x", T5_NAME, "vae.x"), "Flux", {"transformer", "text_encoder_2", "vae"}),
    ],
)
def test_what_a_file_holds_is_told_by_its_names(
    names: tuple[str, ...], family: str, inside: set[str]
) -> None:
    shapes = {name: [1] for name in names}
    assert family_of(shapes) == family and parts_inside(shapes, family) == inside


def test_configurations_that_do_not_belong_are_refused(whole: Path, folders: dict[str, Path]) -> None:
    with pytest.raises(
        ModelError, match="is Stable Diffusion 1 or 2, and the configuration .* of Stable Diffusion XL"
    ):
        describe(str(whole), config=str(folders["sdxl"]))
    with pytest.raises(ModelError, match="--config-from gives the configuration of a single file"):
        describe(str(folders["sd1"]), config=str(folders["sd1"]))


def test_a_published_configuration_gives_no_weights(
    whole: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    """Nobody asked for them: a part that the file lacks is missed, whatever the repository has."""
    file = without(whole, tmp_path / "part.safetensors", VAE)

    def hub(name: str) -> Source:
        assert name == "stable-diffusion-v1-5/stable-diffusion-v1-5"
        return folder_source(name, folders["sd1"])

    found = single_file_source("x", file, None, hub)
    assert found.inside == {"unet", "text_encoder"}
    assert not found.weights("vae") and found.config("vae")["latent_channels"] == 4


# --- other kinds --------------------------------------------------------------------------------------------


def test_other_kinds_given_as_a_model_are_named(folders: dict[str, Path], tmp_path: Path) -> None:
    lora = build_lora(folders["sd1"], tmp_path / "lora", "unet")
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(64))
    (tmp_path / "page.safetensors").write_text("<!DOCTYPE html><html></html>")
    (tmp_path / "lfs.safetensors").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"
    )
    save_file({"emb_params": torch.zeros(4, 768)}, tmp_path / "word.safetensors")
    save_file({"control_model.input_hint_block.0.weight": torch.zeros(1)}, tmp_path / "control.safetensors")
    sd1 = folders["sd1"]
    for path, words in (
        (lora, "is a LoRA, and a whole model is needed; give it with --lora"),
        (tmp_path / "m.gguf", "is a GGUF file"),
        (tmp_path / "page.safetensors", "is a web page"),
        (tmp_path / "lfs.safetensors", "is a Git LFS pointer"),
        (tmp_path / "word.safetensors", "is an embedding"),
        (tmp_path / "control.safetensors", "is a ControlNet"),
        (sd1 / "vae" / "diffusion_pytorch_model.safetensors", "is a VAE, .*; give it with --vae"),
        (sd1 / "unet" / "diffusion_pytorch_model.safetensors", "is a UNet alone"),
        (sd1 / "text_encoder" / "model.safetensors", "is a text encoder alone"),
        (sd1 / "model_index.json", "is a JSON file"),
    ):
        with pytest.raises(ModelError, match=words) as caught:
            describe(str(path))
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)
