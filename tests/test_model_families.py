"""Every model family against diffusers' own pipelines, on tiny random models."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_class_models
import tiny_models
import torch
from families import (
    BUILDERS,
    TEXT,
    TOLERANCE,
    WORDS,
    diffusers,
    noise,
    predict,
    request_for,
    squares,
    theirs,
)

from generation.models import loading, text_flow
from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.embedded import AutoencoderCodec
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from storage.geometry import Box

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""diffusers' Euler schedulers hand tensors to np.array, at which NumPy 2 grumbles."""


# --- what is described is what is loaded --------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_describe_reports_what_load_reports(
    name: str, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    info = describe(str(folders[name]))
    assert info == models[name].info
    assert all(Path(file).is_file() for file in info.files)
    weights = [Path(file) for file in info.files if file.endswith(".safetensors")]
    networks = [path for path in weights if path.parent.name in ("unet", "transformer", "vae")]
    encoders = {"class_map": 0, "stable_diffusion": 1, "stable_diffusion_3": 3}.get(info.family, 2)
    assert len(networks) == 2 and len(weights) == 2 + encoders
    assert info.parameters_bytes == sum(path.stat().st_size for path in networks)


def test_facts_of_each_family(models: dict[str, Model]) -> None:
    facts = {name: model.info for name, model in models.items()}
    columns = {
        name: (i.patch, i.multiple, i.scale, i.latent_channels, i.local_codec) for name, i in facts.items()
    }
    assert columns == {
        "sd1": (16, 2, 2, 4, False),
        "sd2": (16, 2, 2, 4, False),
        "sdxl": (16, 2, 2, 4, False),
        "sd3": (16, 2, 2, 16, False),
        "flux-dev": (128, 2, 2, 16, False),
        "flux-schnell": (128, 2, 2, 16, False),
        "class-map": (16, 2, 4, 4, True),
    }
    defaults = {name: (info.guidance_scale, info.num_inference_steps) for name, info in facts.items()}
    assert defaults["sd1"] == (7.5, 50) and defaults["sdxl"] == (5.0, 50) and defaults["sd3"] == (7.0, 28)
    assert defaults["flux-dev"] == (3.5, 28) and defaults["flux-schnell"] == (0.0, 4)
    assert (
        facts["class-map"].class_names == tiny_class_models.CLASSES and facts["class-map"].notes["cell"] == 4
    )
    assert [name for name, info in facts.items() if info.notes.get("distilled_guidance")] == [
        "flux-dev",
        "flux-schnell",
    ]


def test_describing_imports_no_torch(folders: dict[str, Path]) -> None:
    script = "import sys; from generation.models.loading import describe\n"
    script += "for folder in sys.argv[1:]: describe(folder)\nassert 'torch' not in sys.modules"
    root = Path(__file__).parent.parent
    subprocess.run([sys.executable, "-c", script, *map(str, folders.values())], check=True, cwd=root)


def test_the_embedded_model_is_described() -> None:
    if not (loading.EMBEDDED / "model_index.json").exists():
        pytest.skip("the embedded weights are not in this checkout")
    info = describe("embedded")
    assert info.family == "class_map" and info.scale == 8 and len(info.class_names) == 12 and info.local_codec


# --- shapes and codecs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
def test_shapes(name: str, models: dict[str, Model]) -> None:
    model, boxes = models[name], squares(2, 8)
    latents, timestep = noise(model.info, 2, 8), torch.tensor(500.0)
    conditioner = model.conditioner_for(request_for(name))
    for conditioning in (conditioner.conditional(boxes), conditioner.unconditional(boxes)):
        assert all(len(value) == 2 for value in conditioning.values())
        prediction = model.denoiser.predict(latents, timestep, conditioning)
        assert (
            prediction.shape == latents.shape
            and prediction.dtype == latents.dtype
            and not prediction.requires_grad
        )
        assert bool(prediction.isfinite().all()) and float(prediction.std()) > 0.01
    pixels = model.codec.decode(latents)
    assert (
        pixels.shape == (2, 3, 8 * model.info.scale, 8 * model.info.scale) and pixels.dtype == torch.float32
    )
    assert model.codec.encode(pixels).shape == latents.shape


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_codec_scales_and_shifts_as_diffusers_does(name: str, models: dict[str, Model]) -> None:
    codec = models[name].codec
    assert isinstance(codec, AutoencoderCodec)
    vae, latents = codec.vae, noise(models[name].info, 1)
    shift = vae.config.shift_factor or 0.0
    expected = vae.decode(latents / vae.config.scaling_factor + shift).sample
    torch.testing.assert_close(codec.decode(latents), expected, atol=1e-5, rtol=0.0)
    mode = vae.encode(expected).latent_dist.mode()
    torch.testing.assert_close(
        codec.encode(expected), (mode - shift) * vae.config.scaling_factor, atol=1e-5, rtol=0.0
    )


def test_codec_with_statistics_of_each_channel() -> None:
    """latents * std / scaling + mean, as diffusers' XL pipeline has it (Playground v2.5)."""
    vae = tiny_models.autoencoder(4, 0.5, None)
    vae.register_to_config(latents_mean=(2.0, 3.0, 5.0, 7.0), latents_std=(11.0, 13.0, 17.0, 19.0))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
    mean, deviation = (
        torch.tensor(v).view(1, 4, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std)
    )
    with torch.no_grad():
        expected = vae.decode(latents * deviation / 0.5 + mean).sample
        torch.testing.assert_close(AutoencoderCodec(vae).decode(latents), expected, atol=1e-5, rtol=0.0)


def test_a_local_codec_decodes_tiles_exactly(models: dict[str, Model]) -> None:
    model = models["class-map"]
    margin, scale = model.info.tile_margin, model.info.scale
    latents = noise(model.info, 1, 4 * margin + 8)
    whole = model.codec.decode(latents)
    tile = model.codec.decode(latents[:, :, margin : 3 * margin + 8, margin : 3 * margin + 8])
    core, inside = slice(margin * scale, -margin * scale), slice(2 * margin * scale, -2 * margin * scale)
    torch.testing.assert_close(tile[..., core, core], whole[..., inside, inside], atol=1e-5, rtol=0.0)


def test_classes_become_one_hot(models: dict[str, Model]) -> None:
    conditioner = models["class-map"].conditioner_for(request_for("class-map"))
    classes = conditioner.conditional([Box(0, 5, 0, 2), Box(2, 7, 0, 2)])["classes"]
    assert classes.shape == (2, 3, 5, 2)
    assert classes[0, :, :, 0].T.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0]]
    assert not conditioner.unconditional([Box(0, 5, 0, 2)])["classes"].any()
    other = models["class-map"].conditioner_for(replace(WORDS, classes=Beyond()))
    with pytest.raises(ModelError, match="class id 3 is not among the model's 3 classes"):
        other.conditional([Box(0, 2, 0, 2)])
    with pytest.raises(ModelError, match="class map, and the request has none"):
        models["class-map"].conditioner_for(WORDS)


class Beyond:
    """A class that does not exist."""

    def read(self, box: Box) -> torch.Tensor:
        """3 everywhere."""
        return torch.full(box.shape, 3)


# --- equality with diffusers' own pipelines -----------------------------------------------------------------


def ours(model: Model, latents: torch.Tensor, request: Request, steps: int, guidance: float) -> torch.Tensor:
    """The plain loop: scale, evaluate at both ends, combine, step."""
    info, boxes = model.info, squares(len(latents), latents.shape[-1])
    scheduler = getattr(diffusers, info.scheduler).from_config(info.scheduler_config)
    set_timesteps(scheduler, info, steps)
    conditioner = model.conditioner_for(replace(request, guidance_scale=guidance))
    positive, negative = conditioner.conditional(boxes), conditioner.unconditional(boxes)
    once = guidance <= 1 or info.notes.get("distilled_guidance", False)
    latents = latents * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        seen = (
            scheduler.scale_model_input(latents, timestep)
            if hasattr(scheduler, "scale_model_input")
            else latents
        )

        def evaluate(told: Conditioning, seen: torch.Tensor = seen, timestep: Any = timestep) -> torch.Tensor:
            return model.denoiser.predict(seen, timestep, told)

        prediction = evaluate(positive)
        if not once:
            unconditional = evaluate(negative)
            prediction = unconditional + guidance * (prediction - unconditional)
        latents = scheduler.step(prediction, timestep, latents, return_dict=False)[0]
    return latents


def set_timesteps(scheduler: Any, info: ModelInfo, steps: int) -> None:
    """As the notes of ModelInfo say."""
    shift = {"mu": info.notes["mu"]} if "mu" in info.notes else {}
    if info.notes.get("linear_sigmas"):
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps), **shift)
    else:
        scheduler.set_timesteps(steps, **shift)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
@pytest.mark.parametrize("name", TEXT)
def test_equal_to_diffusers_pipeline(
    name: str, guidance: float, folders: dict[str, Path], models: dict[str, Model]
) -> None:
    steps = 2 if name.startswith("flux") else 4
    latents = noise(models[name].info, 1)
    expected = theirs(folders[name], latents, WORDS, steps, guidance)
    assert float((expected - latents).abs().max()) > 0.1
    actual = ours(models[name], latents, WORDS, steps, guidance)
    torch.testing.assert_close(actual, expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_equal_to_diffusers_without_a_negative_prompt(
    folders: dict[str, Path], models: dict[str, Model]
) -> None:
    """XL then has zeros at the other end, not the encoding of the empty prompt."""
    latents, request = noise(models["sdxl"].info, 1), replace(WORDS, negative_prompt="")
    expected = theirs(folders["sdxl"], latents, request, 3, 5.0)
    torch.testing.assert_close(
        ours(models["sdxl"], latents, request, 3, 5.0), expected, atol=TOLERANCE, rtol=TOLERANCE
    )


def test_equal_to_diffusers_where_the_unet_reads_the_guidance_scale(tmp_path: Path) -> None:
    folder = tiny_models.build_sd1(tmp_path / "lcm", time_cond_proj_dim=32)
    model = load(str(folder))
    latents = noise(model.info, 1)
    assert model.info.notes["distilled_guidance"]
    expected = theirs(folder, latents, WORDS, 3, 6.0)
    torch.testing.assert_close(ours(model, latents, WORDS, 3, 6.0), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_words_and_guidance_matter(models: dict[str, Model]) -> None:
    """The equalities above would hold of networks that ignore their conditioning."""
    for name in TEXT:
        change = predict(models[name]) - predict(models[name], replace(WORDS, prompt="a red brick wall"))
        assert float(change.abs().max()) > 1e-3, name
    change = predict(models["flux-dev"]) - predict(models["flux-dev"], replace(WORDS, guidance_scale=9.0))
    assert float(change.abs().max()) > 1e-3


def test_half_precision_stays_near(folders: dict[str, Path], models: dict[str, Model]) -> None:
    for name in ("sd1", "flux-dev"):
        half = load(str(folders[name]), dtype="bfloat16")
        exact = predict(models[name])
        assert predict(half).dtype == torch.float32
        assert float((predict(half) - exact).abs().max()) < 0.1 * float(exact.abs().max())
        codec = half.codec
        assert isinstance(codec, AutoencoderCodec) and codec.vae.dtype == torch.float32


def test_flux_packing_is_diffusers_own() -> None:
    latents = torch.randn(2, 3, 6, 10)
    theirs_packed = diffusers.FluxPipeline._pack_latents(latents, *latents.shape)
    assert torch.equal(text_flow.packed(latents), theirs_packed)
    assert torch.equal(text_flow.unpacked(theirs_packed, 6, 10), latents)
    ids = diffusers.FluxPipeline._prepare_latent_image_ids(1, 3, 5, "cpu", torch.float32)
    assert torch.equal(text_flow.image_ids(6, 10).float(), ids)
