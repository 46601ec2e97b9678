"""Training: what is held out, how class maps are coarsened, the latents' round trip, the export."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch
from torch import nn

from generation.training import (
    autoencoder,
    checkpoints,
    classes,
    crops,
    data,
    export,
    latents,
    networks,
    samples,
)


@pytest.fixture(name="strips")
def the_strips() -> tuple[data.Strip, ...]:
    return synthetic.strips()


@pytest.fixture(name="sets")
def the_sets() -> crops.CropSets:
    return synthetic.sets()


@pytest.fixture(name="pca")
def the_pca() -> latents.BlockPca:
    return synthetic.pca()


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


def test_training_crops_touch_no_held_out_block_and_held_out_crops_no_other(
    strips: tuple[data.Strip, ...],
) -> None:
    random = np.random.default_rng(3)
    for held_out in (False, True):
        source = data.StripCrops(strips, held_out)
        for _ in range(200):
            place = source.find(random, 16, 16)
            touched = strips[0].held_out[data.blocks_touched(place)]
            assert touched.all() if held_out else not touched.any()
            assert data.crop_at(strips, place).pixels.shape == (128, 128, 3)


def test_crops_that_fit_nowhere_are_refused(strips: tuple[data.Strip, ...]) -> None:
    with pytest.raises(ValueError, match="use smaller crops"):
        data.StripCrops(strips, held_out=True).draw(np.random.default_rng(0), 16, 40)


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize(("phase_y", "phase_x"), [(0, 0), (1, 3), (3, 2)])
def test_class_maps_are_constant_on_displaced_cells(
    strips: tuple[data.Strip, ...], phase_y: int, phase_x: int, sampled: bool
) -> None:
    crop = data.crop_at(strips, data.Place(0, 8 * 11, 8 * 37, 16, 24))
    assert crop.classes is not None
    plane = crops.coarsened(
        crop.classes, crops.Coarsening(4, phase_y, phase_x, sampled), np.random.default_rng(0)
    )
    assert plane.shape == (16, 24)
    for y in range(16):
        for x in range(24):
            corner = plane[max(0, (y + phase_y) // 4 * 4 - phase_y), max(0, (x + phase_x) // 4 * 4 - phase_x)]
            assert plane[y, x] == corner


def test_a_cell_aligned_with_the_classes_shows_them(strips: tuple[data.Strip, ...]) -> None:
    crop = data.crop_at(strips, data.Place(0, 64, 320, 16, 16))
    assert crop.classes is not None
    plane = crops.coarsened(crop.classes, crops.CANONICAL, np.random.default_rng())
    np.testing.assert_array_equal(plane, strips[0].classes[8:24, 40:56])


def test_classes_beyond_a_strip_are_those_of_its_border(strips: tuple[data.Strip, ...]) -> None:
    crop = data.crop_at(strips, data.Place(0, 0, 0, 4, 4))
    assert crop.classes is not None
    assert crop.classes.shape == (4 + 2 * crops.MARGIN, 4 + 2 * crops.MARGIN)
    assert (crop.classes[: crops.MARGIN, : crops.MARGIN] == strips[0].classes[0, 0]).all()


def test_a_crop_refuses_classes_of_another_size() -> None:
    with pytest.raises(ValueError, match="need \\(18, 18\\) classes"):
        crops.Crop(np.zeros((16, 16, 3), dtype=np.uint8), np.zeros((2, 2), dtype=np.uint8))


def test_coarsening_refuses_a_phase_outside_the_cell_and_cells_beyond_the_margin() -> None:
    with pytest.raises(ValueError, match="must lie in"):
        crops.Coarsening(4, 4, 0, False)
    with pytest.raises(ValueError, match="margin of 8"):
        crops.Coarsening(16, 0, 0, False)


def test_majority_takes_the_commonest_and_the_null_class_is_zero() -> None:
    cells = np.array([[3, 5, 5, 7], [2, 2, 1, 1], [255, 255, 255, 4]], dtype=np.uint8)
    assert crops.majority(cells).tolist() == [5, 1, 255]
    planes = crops.one_hot(np.array([[2, 12]], dtype=np.uint8), 12)
    assert planes[:, 0, 0].argmax() == 2
    assert planes[:, 0, 0].sum() == 1
    assert planes[:, 0, 1].sum() == 0


def test_a_crop_without_a_map_is_told_no_class() -> None:
    bare = crops.Crop(np.zeros((16, 24, 3), dtype=np.uint8), None)
    random = np.random.default_rng(0)
    assert crops.condition(bare, crops.CANONICAL, 0, random).shape == (0, 2, 3)
    assert crops.condition(bare, crops.CANONICAL, 5, random).shape == (5, 2, 3)
    assert not crops.condition(bare, crops.CANONICAL, 5, random).any()


def test_latents_have_unit_variance_and_all_components_invert_exactly(strips: tuple[data.Strip, ...]) -> None:
    pixels = latents.to_unit([strips[0].pixels[:128, 400:528]])
    full = latents.fit_blocks(latents.blocks_of(latents.to_unit([strips[0].pixels])).flatten(0, 2), 192)
    round_trip = full.decode(full.encode(pixels))
    assert full.encode(pixels).shape == (1, 192, 16, 16)
    np.testing.assert_array_equal(latents.to_bytes(round_trip), latents.to_bytes(pixels))
    blocks = latents.blocks_of(pixels)
    torch.testing.assert_close(latents.pixels_from_blocks(blocks), pixels)


def test_more_components_reconstruct_better(strips: tuple[data.Strip, ...]) -> None:
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


SMALL = {"widths": (32, 32), "sample_size": 8}


def save_fresh(model: nn.Module, path: Path) -> None:
    checkpoints.save(checkpoints.start(model, torch.optim.SGD(model.parameters(), lr=0.1)), path)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize(
    ("codec", "codec_class"), [("tiny", "AutoencoderTiny"), ("subpixel", "AutoencoderDC")]
)
def test_export_writes_a_folder_that_diffusers_loads_and_samples(
    tmp_path: Path, codec: str, codec_class: str
) -> None:
    import diffusers

    torch.manual_seed(0)
    save_fresh(networks.build_unet(**SMALL), tmp_path / "run" / "denoiser.pt")
    (tmp_path / "card.md").write_text("A card.\n", encoding="utf-8")
    folder = tmp_path / "earth"
    size = export.export(
        tmp_path / "run",
        folder,
        {"denoiser": networks.build_unet(**SMALL)},
        codec,
        classes.EARTH,
        tmp_path / "card.md",
    )
    assert size == sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["card.md", "earth", "run"]
    table = json.loads((folder / "classes.json").read_text(encoding="utf-8"))
    assert table["format_version"] == 1
    assert [entry["name"] for entry in table["classes"]] == list(classes.CLASS_NAMES)
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet").float()
    loaded = getattr(diffusers, codec_class).from_pretrained(folder / "vae").float()
    scheduler = diffusers.UniPCMultistepScheduler.from_pretrained(folder / "scheduler")
    assert scheduler.config.prediction_type == "v_prediction"
    maps = torch.from_numpy(crops.one_hot(np.full((8, 8), 5, dtype=np.uint8), 12))[None]
    made = samples.sample(unet, maps, steps=2, guidance=1.5, seed=0)
    with torch.no_grad():
        assert loaded.decode(made).sample.shape == (1, 3, 64, 64)


def test_the_embedded_networks_fit_into_sixteen_megabytes() -> None:
    parts = [networks.build_unet(), networks.CODECS["subpixel"]()]
    assert sum(2 * tensor.numel() for part in parts for tensor in part.parameters()) < 17_000_000


def test_the_lattice_profile_shows_where_blocks_meet() -> None:
    ramp = torch.arange(32.0).expand(1, 3, 16, 32)
    flat = autoencoder.lattice_profile(ramp.diff(dim=3), 3)
    assert torch.allclose(flat, torch.ones(8))
    stepped = ramp + (torch.arange(32) // 8) * 3.0
    profile = autoencoder.lattice_profile(stepped.diff(dim=3), 3)
    assert torch.allclose(profile, torch.tensor([1.0] * 7 + [4.0]))
    again = autoencoder.lattice_profile(stepped.mT.diff(dim=2), 2)
    assert torch.allclose(again, profile)
