"""Training: what is held out, how class maps are coarsened, the latents' round trip, and exact resume."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from generation.training import (
    autoencoder,
    checkpoints,
    classes,
    data,
    denoiser,
    earth,
    export,
    latents,
    networks,
    samples,
)

LATENTS = 48


def smooth_noise(random: np.random.Generator, height: int, width: int) -> earth.Bytes:
    """A picture with structure at several scales."""
    total = np.zeros((height, width, 3))
    for cell in (1, 4, 16, 64):
        coarse = random.standard_normal(size=(height // cell + 1, width // cell + 1, 3))
        total += coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width] * cell**0.5
    return np.clip(128 + 12 * total, 0, 255).astype(np.uint8)


def synthetic_strip(seed: int = 0) -> data.Strip:
    """48 x 96 blocks: every class occurs, the left third is held out."""
    random = np.random.default_rng(seed)
    ids = random.integers(len(classes.CLASS_NAMES), size=(LATENTS // 4, LATENTS // 2)).astype(np.uint8)
    held_out = np.zeros((LATENTS, 2 * LATENTS), dtype=np.bool_)
    held_out[:, :34] = True
    pixels = smooth_noise(random, LATENTS * earth.BLOCK, 2 * LATENTS * earth.BLOCK)
    return data.Strip(pixels, ids.repeat(4, axis=0).repeat(4, axis=1), held_out)


@pytest.fixture(scope="module")
def strips() -> list[data.Strip]:
    """One synthetic strip."""
    return [synthetic_strip()]


@pytest.fixture(scope="module")
def pca(strips: list[data.Strip]) -> latents.BlockPca:
    """Sixteen components of the synthetic strip."""
    return latents.fit(strips, channels=16, crops=8, seed=0)


def test_a_strip_refuses_classes_of_another_size() -> None:
    flags = np.zeros((2, 2), dtype=np.bool_)
    with pytest.raises(ValueError, match="need \\(2, 3\\) blocks"):
        data.Strip(np.zeros((16, 24, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8), flags)


def test_held_out_rule_covers_a_ninth_of_cells_and_is_constant_inside_one() -> None:
    flags = data.held_out_cells(675, 1350)
    assert flags[:38, :38].all()
    assert not flags[:38, 38:76].any()
    assert not flags[38 : 3 * 38].any()
    assert flags[3 * 38 : 4 * 38, 2 * 38 : 3 * 38].all()
    assert 0.09 < flags.mean() < 0.13


def test_training_crops_touch_no_held_out_block_and_held_out_crops_no_other(strips: list[data.Strip]) -> None:
    random = np.random.default_rng(3)
    for held_out in (False, True):
        sampler = data.CropSampler(strips, held_out)
        for _ in range(200):
            crop = sampler.draw(random, 16, 16)
            touched = strips[0].held_out[data.blocks_touched(crop)]
            assert touched.all() if held_out else not touched.any()
            assert data.pixels_of(strips, crop).shape == (128, 128, 3)


def test_crops_that_fit_nowhere_are_refused(strips: list[data.Strip]) -> None:
    with pytest.raises(ValueError, match="use smaller crops"):
        data.CropSampler(strips, held_out=True).draw(np.random.default_rng(0), 16, 40)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("phase_y", "phase_x"), [(0, 0), (1, 3), (3, 2)])
def test_class_maps_are_constant_on_displaced_cells(
    strips: list[data.Strip], phase_y: int, phase_x: int, sampled: bool
) -> None:
    crop = data.Crop(0, 8 * 11, 8 * 37, 16, 24)
    coarse = data.Coarsening(4, phase_y, phase_x, sampled)
    plane = data.class_map(strips, crop, coarse, np.random.default_rng(0))
    assert plane.shape == (16, 24)
    for y in range(16):
        for x in range(24):
            corner = plane[max(0, (y + phase_y) // 4 * 4 - phase_y), max(0, (x + phase_x) // 4 * 4 - phase_x)]
            assert plane[y, x] == corner


def test_a_cell_aligned_with_the_classes_shows_them(strips: list[data.Strip]) -> None:
    plane = data.class_map(
        strips, data.Crop(0, 64, 320, 16, 16), data.Coarsening(4, 0, 0, False), np.random.default_rng()
    )
    np.testing.assert_array_equal(plane, strips[0].classes[8:24, 40:56])


def test_coarsening_refuses_a_phase_outside_the_cell() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        data.Coarsening(4, 4, 0, False)


def test_majority_takes_the_commonest_and_the_null_class_is_zero() -> None:
    assert data.majority(np.array([[3, 5, 5, 7], [2, 2, 1, 1]], dtype=np.uint8)).tolist() == [5, 1]
    planes = data.one_hot(np.array([[2, 12]], dtype=np.uint8))
    assert planes[:, 0, 0].argmax() == 2
    assert planes[:, 0, 0].sum() == 1
    assert planes[:, 0, 1].sum() == 0


def test_latents_have_unit_variance_and_all_components_invert_exactly(strips: list[data.Strip]) -> None:
    pixels = latents.to_unit([strips[0].pixels[:128, 400:528]])
    full = latents.fit_blocks(latents.blocks_of(latents.to_unit([strips[0].pixels])).flatten(0, 2), 192)
    round_trip = full.decode(full.encode(pixels))
    assert full.encode(pixels).shape == (1, 192, 16, 16)
    np.testing.assert_array_equal(latents.to_bytes(round_trip), latents.to_bytes(pixels))
    blocks = latents.blocks_of(pixels)
    torch.testing.assert_close(latents.pixels_from_blocks(blocks), pixels)


def test_more_components_reconstruct_better(strips: list[data.Strip]) -> None:
    pixels = latents.to_unit([strips[0].pixels])
    blocks = latents.blocks_of(pixels).flatten(0, 2)
    errors = []
    for channels in (4, 16, 64):
        few = latents.fit_blocks(blocks, channels)
        errors.append(float((few.decode(few.encode(pixels)) - pixels).square().mean()))
    assert errors == sorted(errors, reverse=True)


def test_components_survive_a_file(pca: latents.BlockPca, tmp_path: Path) -> None:
    latents.save_pca(pca, tmp_path / "latents.npz")
    loaded = latents.load_pca(tmp_path / "latents.npz")
    for field in dataclasses.fields(pca):
        assert torch.equal(getattr(loaded, field.name), getattr(pca, field.name))


class OneConvolution(nn.Module):
    """The smallest network with the denoiser's signature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(28, 16, 3, padding=1)

    def forward(self, noisy: torch.Tensor, step: torch.Tensor) -> "OneConvolution.Output":
        return OneConvolution.Output(self.layer(noisy) * (1.0 + step[:, None, None, None] / 1000))

    @dataclasses.dataclass
    class Output:
        sample: torch.Tensor


SETTINGS = denoiser.DenoiserSettings(
    steps=6, warmup_steps=2, phases=(denoiser.Phase(0.5, 3, 8, 8), denoiser.Phase(1.0, 2, 8, 16))
)


def fresh_denoiser() -> checkpoints.TrainingState:
    torch.manual_seed(5)
    model = OneConvolution()
    return checkpoints.start(model, denoiser.build_optimiser(model, SETTINGS), SETTINGS.seed)


def denoiser_steps(
    state: checkpoints.TrainingState, strips: list[data.Strip], pca: latents.BlockPca, number: int
) -> list[float]:
    sampler, schedule = data.CropSampler(strips), networks.build_noise_schedule()
    return [denoiser.train_step(state, sampler, pca, schedule, SETTINGS) for _ in range(number)]


def assert_equal_states(one: checkpoints.TrainingState, other: checkpoints.TrainingState) -> None:
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, other.model.state_dict()[name]), name
        assert torch.equal(one.average[name], other.average[name]), name


def test_a_resumed_denoiser_equals_one_that_never_stopped(
    strips: list[data.Strip], pca: latents.BlockPca, tmp_path: Path
) -> None:
    whole, stopped = fresh_denoiser(), fresh_denoiser()
    losses = denoiser_steps(whole, strips, pca, 6)
    first = denoiser_steps(stopped, strips, pca, 2)
    checkpoints.save(stopped, tmp_path / "denoiser.pt")
    resumed = checkpoints.restore(fresh_denoiser(), tmp_path / "denoiser.pt")
    assert first + denoiser_steps(resumed, strips, pca, 4) == losses
    assert_equal_states(whole, resumed)
    assert not list(tmp_path.glob("*.part"))


def test_a_resumed_decoder_with_critic_equals_one_that_never_stopped(
    strips: list[data.Strip], pca: latents.BlockPca, tmp_path: Path
) -> None:
    settings = autoencoder.CodecSettings(steps=4, batch=1, extent=4, critic_from=0.5, warmup_steps=1)
    sampler = data.CropSampler(strips)

    def fresh() -> checkpoints.TrainingState:
        torch.manual_seed(5)
        modules, optimiser = autoencoder.half_of_codec("decoder", settings)
        return checkpoints.start(modules, optimiser, settings.seed)

    def go(state: checkpoints.TrainingState, number: int) -> None:
        for _ in range(number):
            autoencoder.decoder_step(state, sampler, pca, settings)
            autoencoder.advance(state, settings)

    whole, stopped = fresh(), fresh()
    go(whole, 4)
    go(stopped, 3)
    checkpoints.save(stopped, tmp_path / "decoder.pt")
    resumed = checkpoints.restore(fresh(), tmp_path / "decoder.pt")
    go(resumed, 1)
    assert_equal_states(whole, resumed)


def test_a_missing_checkpoint_leaves_the_state_fresh(tmp_path: Path) -> None:
    assert checkpoints.restore(fresh_denoiser(), tmp_path / "none.pt").step == 0


def test_loss_weight_is_one_under_noise_and_falls_with_the_signal() -> None:
    schedule = networks.build_noise_schedule()
    weights = denoiser.loss_weights(torch.tensor([1, 200, 900, 999]), schedule)
    assert weights[2] == weights[3] == 1.0
    assert weights[0] < weights[1] < 1.0


def test_phases_and_learning_rate_follow_the_plan() -> None:
    assert [denoiser.phase_at(step, SETTINGS).batch for step in range(6)] == [3, 3, 3, 2, 2, 2]
    rates = [denoiser.learning_rate_at(step, SETTINGS) for step in range(6)]
    assert rates[0] == pytest.approx(5e-4)
    assert rates[1] == rates[2] == pytest.approx(1e-3)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    steps = denoiser.stratified_steps(4, torch.Generator().manual_seed(0))
    assert (steps // 250).tolist() == [0, 1, 2, 3]


def test_the_critics_gradient_has_the_asked_share() -> None:
    torch.manual_seed(0)
    real, made = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32, requires_grad=True)
    critic = autoencoder.build_critic().eval()
    plain, _ = autoencoder.balanced_gradient(made, real, critic, 0.0)
    mixed, _ = autoencoder.balanced_gradient(made, real, critic, 0.35)
    assert float((mixed - plain).norm() / plain.norm()) == pytest.approx(0.35, rel=1e-4)


@pytest.mark.parametrize("codec", sorted(networks.CODECS))
def test_the_decoder_reaches_no_further_than_eight_latents(codec: str) -> None:
    torch.manual_seed(0)
    decoder = networks.CODECS[codec]().decoder.eval()
    clean = torch.randn(1, 16, 24, 24)
    changed = clean.clone()
    changed[:, :, 12, 12] += 1.0
    with torch.no_grad():
        moved = (
            (decoder(changed) - decoder(clean)).abs().amax(dim=(0, 1)).reshape(24, 8, 24, 8).amax(dim=(1, 3))
        )
    y, x = torch.nonzero(moved, as_tuple=True)
    assert int((y - 12).abs().max()) <= 8
    assert int((x - 12).abs().max()) <= 8


def tiny_checkpoints(folder: Path) -> None:
    torch.manual_seed(0)
    unet = networks.build_unet()
    checkpoints.save(
        checkpoints.start(unet, torch.optim.SGD(unet.parameters(), lr=0.1), 0), folder / "denoiser.pt"
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("codec", "codec_class"), [("tiny", "AutoencoderTiny"), ("subpixel", "AutoencoderDC")]
)
def test_export_writes_a_folder_that_diffusers_loads_and_samples(
    tmp_path: Path, codec: str, codec_class: str
) -> None:
    import diffusers

    tiny_checkpoints(tmp_path / "run")
    (tmp_path / "card.md").write_text("A card.\n", encoding="utf-8")
    folder = tmp_path / "earth"
    size = export.export(tmp_path / "run", folder, codec, tmp_path / "card.md")
    assert size < export.MAX_WEIGHT_BYTES
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "card.md",
        "earth",
        "run",
    ]
    table = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    assert table["format_version"] == 1
    assert [entry["name"] for entry in table["classes"]] == list(classes.CLASS_NAMES)
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet").float()
    autoencoder = getattr(diffusers, codec_class).from_pretrained(folder / "vae").float()
    assert (
        diffusers.DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler").config.prediction_type
        == "v_prediction"
    )
    maps = torch.from_numpy(data.one_hot(np.full((8, 8), 5, dtype=np.uint8)))[None]
    made = samples.sample(unet, maps, steps=2, guidance=1.5, seed=0)
    with torch.no_grad():
        assert autoencoder.decode(made).sample.shape == (1, 3, 64, 64)
