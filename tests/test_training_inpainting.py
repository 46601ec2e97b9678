"""The inpainting variant: what is hidden, what it reads, that it begins as the denoiser, learns, and is exported."""

import json
from pathlib import Path

import numpy as np
import pytest
import synthetic
import torch

from generation.training import checkpoints, denoiser, export, inpainting, loop, networks
from generation.training.classes import EARTH

CHANNELS, CLASSES = networks.CHANNELS, 12
READ = CHANNELS + CLASSES + inpainting.extra_planes(CHANNELS)


def small(in_channels: int = READ) -> torch.nn.Module:
    return networks.build_unet(in_channels=in_channels, widths=(32, 32), sample_size=16)


@pytest.fixture(name="subject")
def the_subject() -> inpainting.InpaintingSubject:
    return inpainting.InpaintingSubject(
        synthetic.sets(), synthetic.pca(), denoiser.Phase(1.0, 4, 16, 16), small
    )


def test_every_kind_is_drawn_and_hidden_shares_are_moderate() -> None:
    random = np.random.default_rng(0)
    masks = [inpainting.draw_hidden(random, 32, 16) for _ in range(400)]
    assert all(mask.shape == (32, 16) and mask.dtype == bool and mask.any() for mask in masks)
    whole = np.mean([mask.all() for mask in masks])
    straight = np.mean(
        [mask.any(0).sum() * mask.any(1).sum() == mask.sum() and not mask.all() for mask in masks]
    )
    assert 0.05 < whole < 0.16  # nothing visible
    assert 0.6 < straight < 0.9  # sides, corners and insides are rectangles
    sides = [mask for mask in masks if mask.all(0).any() and not mask.all()]
    assert any(mask[:, 0].all() and not mask[:, -1].any() for mask in sides)
    assert any(mask[:, -1].all() and not mask[:, 0].any() for mask in sides)


def test_hidden_latents_are_not_told(subject: inpainting.InpaintingSubject) -> None:
    batch = subject.draw(0, *loop.generators(3, 0, 0))
    assert batch.classes.shape == (4, CLASSES + 1 + CHANNELS, 16, 16)
    hidden, context = batch.classes[:, CLASSES : CLASSES + 1], batch.classes[:, CLASSES + 1 :]
    assert hidden.unique().tolist() == [0.0, 1.0]
    assert torch.equal(context, batch.latents * (1 - hidden))


def test_it_begins_as_the_denoiser(tmp_path: Path) -> None:
    torch.manual_seed(1)
    teacher = small(CHANNELS + CLASSES)
    pace = loop.TrainingPace(1, (1e-3,))
    state = checkpoints.start(teacher, loop.build_optimiser([teacher], pace))
    checkpoints.save(state, tmp_path / "denoiser.pt")
    variant = small()
    inpainting.warm_start(variant, tmp_path / "denoiser.pt")
    seen = torch.randn(2, READ, 16, 16)
    step = torch.tensor([100, 700])
    with torch.no_grad():
        expected = teacher.eval()(seen[:, : CHANNELS + CLASSES], step).sample
        assert torch.allclose(variant.eval()(seen, step).sample, expected, atol=1e-5)


def test_visible_places_count_a_tenth_of_hidden_ones_and_those_beside_them_three_times(
    subject: inpainting.InpaintingSubject,
) -> None:
    class Zero(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.zeros(()))

        def forward(self, seen: torch.Tensor, steps: torch.Tensor):
            return type("Said", (), {"sample": self.bias.expand(len(seen), CHANNELS, *seen.shape[2:])})

    batch = subject.draw(0, *loop.generators(3, 0, 1))
    state = checkpoints.start(Zero(), torch.optim.SGD([torch.nn.Parameter(torch.zeros(()))], lr=0.1))
    target = subject.schedule.get_velocity(batch.latents, batch.noise, batch.steps).square()
    hidden = batch.classes[:, CLASSES : CLASSES + 1].bool()
    weights = denoiser.channel_weights(subject.pca)[:, None, None]
    near = torch.zeros_like(hidden)
    padded = torch.nn.functional.pad(~hidden, (3, 3, 3, 3))
    for y in range(7):
        for x in range(7):
            near |= padded[:, :, y : y + 16, x : x + 16]
    places = torch.where(hidden, torch.where(near, 3.0, 1.0), 0.1)
    assert places.unique().tolist() == pytest.approx([0.1, 1.0, 3.0])
    expected = float((weights * target * places).mean() / places.mean())
    assert float(subject.loss(state, batch).detach()) == pytest.approx(expected, rel=1e-5)


def test_its_loss_falls(subject: inpainting.InpaintingSubject) -> None:
    torch.manual_seed(0)
    network, pace = small(), loop.TrainingPace(40, (3e-3,), warmup_steps=5)
    state = checkpoints.start(network, loop.build_optimiser([network], pace))
    run = loop.TrainingRun(Path("unused"))
    batch = subject.draw(0, *loop.generators(0, 0, 0))
    losses = [loop.take_step(state, subject, batch, pace, run) for _ in range(pace.steps)]
    assert losses[-1] < 0.8 * losses[0]


def test_its_sheet_shows_the_visible_part_the_painted_and_the_real(
    subject: inpainting.InpaintingSubject, tmp_path: Path
) -> None:
    from PIL import Image

    subject.write_sheet(small().eval(), tmp_path / "sheet.png", seed=4)
    sheet = np.asarray(Image.open(tmp_path / "sheet.png")).astype(int)
    seen, painted, real = (sheet[:, index * 128 : (index + 1) * 128] for index in range(3))
    assert sheet.shape == (inpainting.SHEET_ROWS * 128, 3 * 128, 3)
    covered = (seen == 128).all(axis=2)
    assert 0.05 < covered.mean() < 0.95
    assert np.array_equal(painted[~covered], real[~covered])
    assert not np.array_equal(painted[covered], real[covered])


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_export_puts_it_beside_the_denoiser(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for name, network in (("denoiser", small(CHANNELS + CLASSES)), ("inpainting", small())):
        state = checkpoints.start(network, torch.optim.SGD(network.parameters(), lr=0.1))
        checkpoints.save(state, tmp_path / "run" / f"{name}.pt")
    networks_of = {"denoiser": small(CHANNELS + CLASSES), "inpainting": small()}
    export.export(tmp_path / "run", tmp_path / "model", networks_of, "tiny", EARTH, jumps=4)
    import diffusers

    unet = diffusers.UNet2DModel.from_pretrained(tmp_path / "model" / "inpainting" / "unet")
    assert unet.config.in_channels == READ
    table = json.loads((tmp_path / "model" / "inpainting" / "inpainting.json").read_text())
    assert table["format_version"] == 1
    assert sum(plane["channels"] for plane in table["planes"]) == READ
