"""Every model family against diffusers' own pipelines, on tiny random models; and every way a model can be
wrong.
"""

import importlib
import json
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

from generation.models import loading, text_flow, text_unet
from generation.models.contracts import Conditioning, Model, ModelInfo, Request
from generation.models.embedded import AutoencoderCodec
from generation.models.errors import ModelError
from generation.models.loading import describe, load
from storage.geometry import Box

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_models.build_sd1,
    "sd2": tiny_models.build_sd2,
    "sdxl": tiny_models.build_sdxl,
    "sd3": tiny_models.build_sd3,
    "flux-dev": tiny_models.build_flux,
    "flux-schnell": lambda folder: tiny_models.build_flux(folder, guided=False),
    "class-map": tiny_models.build_class_map,
}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
"""diffusers' Euler schedulers hand tensors to np.array, at which NumPy 2 grumbles."""

TEXT = [name for name in BUILDERS if name != "class-map"]
TOLERANCE = 1e-4
"""Largest difference from diffusers' latents, which have a standard deviation near 1. Both sides compute in
float32; they batch the two guidance evaluations differently, so the last bits differ."""

WORDS = Request("a lake", "blurry", tiny_models.PATCH, tiny_models.PATCH)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks lose time to threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    """The same, loaded."""
    return {name: load(str(folder)) for name, folder in folders.items()}


class Stripes:
    """Class ids that grow downwards, with a first row that has none."""

    def read(self, box: Box) -> torch.Tensor:
        """-1, 0, 1, 2, 0, 1, 2, ... by row."""
        rows = torch.arange(box.y0, box.y1) - 1
        return torch.where(rows < 0, -1, rows % len(tiny_models.CLASSES))[:, None].expand(box.shape)


def request_for(name: str) -> Request:
    """Words, or stripes."""
    return replace(WORDS, classes=Stripes()) if name == "class-map" else WORDS


def noise(info: ModelInfo, count: int, side: int | None = None) -> torch.Tensor:
    """(count, C, side, side) seeded noise; the side is a native patch's unless given."""
    size = side or info.patch
    return torch.randn(count, info.latent_channels, size, size, generator=torch.Generator().manual_seed(11))


def squares(count: int, side: int) -> list[Box]:
    """Patches in a row."""
    return [Box(0, side, place * side, (place + 1) * side) for place in range(count)]


def predict(model: Model, request: Request = WORDS) -> torch.Tensor:
    """One evaluation, on 16 latents."""
    conditioning = model.conditioner_for(request).conditional(squares(1, 16))
    return model.denoiser.predict(noise(model.info, 1, 16), torch.tensor(500.0), conditioning)


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
    assert facts["class-map"].class_names == tiny_models.CLASSES and facts["class-map"].notes["cell"] == 4
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


def theirs(
    folder: Path, latents: torch.Tensor, request: Request, steps: int, guidance: float
) -> torch.Tensor:
    """diffusers' pipeline on the same canvas."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    flux = isinstance(pipeline, diffusers.FluxPipeline)
    pixels = latents.shape[-1] * pipeline.vae_scale_factor
    given = pipeline._pack_latents(latents, *latents.shape) if flux else latents
    negative = {} if flux else {"negative_prompt": request.negative_prompt or None}
    result: torch.Tensor = pipeline(
        request.prompt,
        height=pixels,
        width=pixels,
        latents=given.clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        **negative,
    ).images
    return pipeline._unpack_latents(result, pixels, pixels, pipeline.vae_scale_factor) if flux else result


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


# --- LoRA ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "part"), [("sd1", "unet"), ("sdxl", "unet"), ("sd3", "transformer"), ("flux-dev", "transformer")]
)
def test_lora_changes_the_prediction(
    name: str, part: str, folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    file = tiny_models.build_lora(folders[name], tmp_path, part)
    plain = predict(models[name])
    full, half, none = (
        predict(load(str(folders[name]), loras=[f"{file}{end}"])) for end in ("", ":0.5", ":0")
    )
    assert float((full - plain).abs().max()) > 1e-3 and float((full - half).abs().max()) > 1e-4
    torch.testing.assert_close(none, plain, atol=1e-5, rtol=1e-5)


def test_loras_add_up_and_are_described(folders: dict[str, Path], tmp_path: Path) -> None:
    first = tiny_models.build_lora(folders["sd1"], tmp_path / "first", "unet", seed=1)
    second = tiny_models.build_lora(folders["sd1"], tmp_path / "second", "unet", seed=2)
    loras = [f"{first}:0.5", str(second.parent)]
    info = describe(str(folders["sd1"]), loras=loras)
    model = load(str(folders["sd1"]), loras=loras)
    assert model.info == info and info.notes["loras"] == ((str(first), 0.5), (str(second), 1.0))
    assert {str(first), str(second)} <= set(info.files)
    assert isinstance(model.denoiser, text_unet.UNetDenoiser)
    assert not any("lora" in key for key in model.denoiser.unet.state_dict())
    told = model.conditioner_for(WORDS).conditional(squares(1, 16))["prompt_embeds"]
    expected = with_adapters(folders["sd1"], {first: 0.5, second: 1.0})(
        noise(info, 1), 500.0, encoder_hidden_states=told
    ).sample
    torch.testing.assert_close(predict(model), expected, atol=TOLERANCE, rtol=TOLERANCE)


def with_adapters(folder: Path, loras: dict[Path, float]) -> Any:
    """diffusers' UNet with the updates kept apart, as its users would have them."""
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for place, file in enumerate(loras):
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=f"lora{place}")
    pipeline.set_adapters([f"lora{place}" for place in range(len(loras))], list(loras.values()))
    return pipeline.unet.requires_grad_(False)


def test_wrong_loras_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "update.bin").write_bytes(b"x")
    for lora, message in (
        ("nowhere.safetensors:0.5", "unknown LoRA"),
        (f"{tmp_path}/update.bin", "convert it"),
    ):
        with pytest.raises(ModelError, match=message):
            describe(str(folders["sd1"]), loras=[lora])
    file = tiny_models.build_lora(folders["sd1"], tmp_path, "unet")
    with pytest.raises(ModelError, match="takes no LoRA"):
        load(str(folders["class-map"]), loras=[str(file)])


# --- single files -------------------------------------------------------------------------------------------


def test_single_file_equals_its_folder(
    folders: dict[str, Path], models: dict[str, Model], tmp_path: Path
) -> None:
    """Unaided, diffusers would take any file for the full size: the configuration is given, in both ways."""
    file = tiny_models.build_single_file(folders["sd1"], tmp_path / "tiny.safetensors")
    model = load(str(file), config=str(folders["sd1"]))
    assert model.info == describe(str(file), config=str(folders["sd1"])) and str(file) in model.info.files
    assert_near(predict(model), predict(models["sd1"]))
    latents = noise(model.info, 1)
    assert_near(model.codec.decode(latents), models["sd1"].codec.decode(latents))
    shutil.copytree(folders["sd1"], tmp_path / "tiny", ignore=shutil.ignore_patterns("*.safetensors"))
    beside = load(str(file))
    assert str(tmp_path / "tiny" / "model_index.json") in beside.info.files
    assert_near(predict(beside), predict(models["sd1"]))


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the last bits: mapped weights lie otherwise aligned, and kernels sum in another order."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0.0)


def test_single_files_are_told_apart_by_their_tensors() -> None:
    sd1 = {"input_blocks.0.0.weight": [320, 4, 3, 3]}
    attention = "input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"
    flux = {"double_blocks.0.img_attn.norm.key_norm.scale": [128]}
    sd3 = {"joint_blocks.0.context_block.adaLN_modulation.1.bias": [9216], "pos_embed": [1, 36864, 1536]}
    xl = {"conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias": [1280]}
    unets = {"v1-5": sd1, "2-1": {**sd1, attention: [320, 1024]}, "xl-base-1.0": {**sd1, **xl}}
    for end, shapes in unets.items():
        assert str(text_unet.original_repository(shapes)).endswith(end)
    flows = {"schnell": flux, "dev": {**flux, "guidance_in.in_layer.bias": [3072]}, "3-medium-diffusers": sd3}
    for end, shapes in flows.items():
        assert str(text_flow.original_repository(shapes)).endswith(end)
    assert text_unet.original_repository({"input_blocks.0.0.weight": [320, 9, 3, 3]}) is None


# --- the hub ------------------------------------------------------------------------------------------------


def test_hub_models_come_from_the_cache_when_offline(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    cached = tmp_path / "models--tiny--sd1"
    shutil.copytree(folders["sd1"], cached / "snapshots" / commit)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    info = describe("tiny/sd1")
    assert info.notes["commit"] == commit and not any(file.endswith(".safetensors") for file in info.files)
    assert load("tiny/sd1").info == info == describe(f"tiny/sd1@{commit}")
    with pytest.raises(ModelError, match=r"unknown model 'tiny/sd1@v2'.*HF_HUB_OFFLINE is set"):
        describe("tiny/sd1@v2")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", Unreachable)
    assert describe("tiny/sd1") == info
    with pytest.raises(ModelError, match=r"not in the hub cache; no route"):
        describe("tiny/other")


class Unreachable:
    """A hub behind a cut cable, whose error is of no class that we know."""

    def model_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        """Never answers."""
        raise LookupError("no route")


class FakeHub:
    """A hub of one repository in a folder, which notes what is fetched from it."""

    def __init__(self, files: Path, cache: Path) -> None:
        self.files, self.cache, self.fetched = files, cache, list[str]()

    def model_info(self, repository: str, revision: str | None, files_metadata: bool) -> Any:
        """The listing, with sizes."""
        paths = sorted(path for path in self.files.rglob("*") if path.is_file())
        names = [path.relative_to(self.files).as_posix() for path in paths]
        files = [
            SimpleNamespace(rfilename=n, size=p.stat().st_size) for n, p in zip(names, paths, strict=True)
        ]
        return SimpleNamespace(sha="c0ffee", siblings=files)

    def snapshot_download(self, repository: str, revision: str, allow_patterns: list[str]) -> str:
        """Some files at once."""
        for name in allow_patterns:
            self.hf_hub_download(repository, name, revision)
        return str(self.cache)

    def hf_hub_download(self, repository: str, name: str, revision: str) -> None:
        """One file."""
        assert (repository, revision) == ("tiny/sd1", "c0ffee")
        (self.cache / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.files / name, self.cache / name)
        self.fetched.append(name)


def test_only_needed_files_are_downloaded(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub import constants

    files = copied(folders["sd1"], tmp_path / "remote")
    weights = files / "unet" / "diffusion_pytorch_model.safetensors"
    for name in ("fp16.safetensors", "non_ema.safetensors", "bin"):
        shutil.copy(weights, weights.with_name(f"diffusion_pytorch_model.{name}"))
    shutil.copy(weights, files / "v1-5-pruned.safetensors")
    hub = FakeHub(files, tmp_path / "cache")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    info = describe("tiny/sd1@v2")
    assert info.notes["commit"] == "c0ffee" and all(name.endswith((".json", ".txt")) for name in hub.fetched)
    hub.fetched.clear()
    assert load("tiny/sd1@v2").info == info
    parts = {"text_encoder": "model", "unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"}
    assert {name for name in hub.fetched if "safetensors" in name} == {
        f"{part}/{name}.safetensors" for part, name in parts.items()
    }
    assert not any(name.endswith(".bin") for name in hub.fetched)


# --- what is refused ----------------------------------------------------------------------------------------


def copied(folder: Path, target: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, target))


def test_unknown_models_get_a_suggestion(folders: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match="unknown model 'embeded'.*did you mean 'embedded'"):
        describe("embeded")
    with pytest.raises(ModelError, match=f"did you mean '{folders['sdxl']}'"):
        describe(f"{folders['sdxl']}x")
    with pytest.raises(ModelError, match="hub id org/name"):
        load("nothing here")
    with pytest.raises(ModelError, match="dtype 'int8'.*float32, float16, bfloat16"):
        load(str(folders["sd1"]), dtype="int8")


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-100], lambda raw: raw[:20], lambda raw: b"", lambda raw: b"x" * 99]
)
def test_damaged_weights_are_named(
    damage: Callable[[bytes], bytes], folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = copied(folders["sd3"], tmp_path / "damaged")
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    for act in (describe, load):
        with pytest.raises(ModelError, match=f"{file} is not a whole safetensors file") as caught:
            act(str(folder))
        assert "\n" not in str(caught.value)


def test_damaged_configuration_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "damaged")
    (folder / "unet" / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"unet/config.json cannot be read"):
        describe(str(folder))
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"vae holds no weights"):
        describe(str(folder))
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"model_index.json is missing"):
        describe(str(folder))


def test_pickles_need_permission(folders: dict[str, Path], models: dict[str, Model], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "pickled")
    safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
    from safetensors.torch import load_file

    torch.save(load_file(safe), safe.with_suffix(".bin"))
    safe.unlink()
    for act in (describe, load):
        with pytest.raises(ModelError, match=r"diffusion_pytorch_model.bin is pickled"):
            act(str(folder))
    assert torch.equal(predict(load(str(folder), allow_pickle=True)), predict(models["sd1"]))
    with pytest.raises(ModelError, match="is pickled"):
        (tmp_path / "old.ckpt").write_bytes(b"x")
        describe(str(tmp_path / "old.ckpt"), config=str(folders["sd1"]))


def test_other_pipelines_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = copied(folders["sd1"], tmp_path / "other")
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": "KandinskyPipeline"}))
    with pytest.raises(ModelError, match=r"'KandinskyPipeline' .* StableDiffusionXLPipeline.*FluxPipeline"):
        describe(str(folder))
    shutil.copy(folders["sd1"] / "model_index.json", index)
    unet = folder / "unet" / "config.json"
    unet.write_text(json.dumps({**json.loads(unet.read_text()), "in_channels": 9}))
    with pytest.raises(ModelError, match="not a text-to-image model: its unet reads 9 channels"):
        describe(str(folder))
