"""Training of the map model: views of a small globe, what is held out, wishes, exact resume, maps on a canvas."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from generation.models.maps import WishConditioner, scale_feature, smoothed
from generation.training import (
    checkpoints,
    loop,
    networks,
    world,
    world_evaluation,
    world_globe,
    world_network,
)
from generation.training.classes import CLASS_ID, CLASS_NAMES, EARTH
from generation.training.world_samples import (
    CALM,
    MapSampling,
    UniformWish,
    invent,
    map_denoiser,
    map_sampler,
)
from storage.geometry import Box, Canvas

ROWS = 180
PHASES = (world.MapPhase(0.5, 4, 16), world.MapPhase(1.0, 2, 24))
PACE = loop.TrainingPace(steps=6, learning_rates=(2e-3,), warmup_steps=2, average_decay=0.9, seed=3)


def small_globe() -> world_globe.World:
    """Broad wavy bands of classes, and every third square of 15 degrees held out in every other row."""
    row, column = np.meshgrid(np.arange(ROWS), np.arange(2 * ROWS), indexing="ij")
    wave = 20 * np.sin(column * 2 * np.pi / 120) * np.sin(np.pi * row / ROWS)
    ids = ((row + wave + 20) // 30 % len(CLASS_NAMES)).astype(np.uint8)
    held_out = (row // 15 % 2 == 0) & (column // 15 % 3 == 0)
    return world_globe.World(ids, held_out)


@pytest.fixture(scope="module")
def globe() -> world_globe.World:
    """The small globe."""
    return small_globe()


def tiny_network() -> world_network.MapNetwork:
    torch.manual_seed(5)
    return world_network.build_map_network(widths=(16, 32))


def subject_of(globe: world_globe.World) -> world.MapSubject:
    judged = world_evaluation.judged_views(globe, 4, 16)
    return world.MapSubject(world_globe.GlobeSource(globe), judged, EARTH, PACE.steps, PHASES, tiny_network)


def fresh_state() -> checkpoints.TrainingState:
    network = tiny_network()
    return checkpoints.start(network, loop.build_optimiser([network], PACE))


# --- the globe ----------------------------------------------------------------------------------------------


def test_a_world_of_the_wrong_shape_is_refused() -> None:
    flags = np.zeros((4, 6), dtype=np.bool_)
    with pytest.raises(ValueError, match="twice as wide as high"):
        world_globe.World(flags.astype(np.uint8), flags)


@pytest.mark.parametrize("bearing", [0.0, 1.0, 4.0])
def test_views_keep_areas_and_centres(bearing: float) -> None:
    view = world_globe.GlobeView(0.7, -2.0, bearing, False, 2.0)
    side, steps = 0.5, world_globe.centred(201, 0.5)
    latitude, longitude = world_globe.places(view, steps)
    assert latitude[100, 100] == pytest.approx(0.7)
    assert longitude[100, 100] == pytest.approx(-2.0)
    points = np.stack(
        [np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude), np.sin(latitude)],
        axis=-1,
    )
    down, right = points[1:, :-1] - points[:-1, :-1], points[:-1, 1:] - points[:-1, :-1]
    areas = np.linalg.norm(np.cross(down, right), axis=-1)
    assert areas.std() / areas.mean() < 0.005
    assert areas.sum() == pytest.approx((side * 200 / 201) ** 2, rel=0.005)


def test_a_view_due_north_shows_the_map_as_it_lies() -> None:
    ids = np.arange(ROWS, dtype=np.uint8)[:, None].repeat(2 * ROWS, axis=1)
    globe = world_globe.World(ids % 12, np.zeros(ids.shape, dtype=np.bool_))
    step = globe.step
    view = world_globe.GlobeView(0.0, 0.0, 0.0, False, 1.0)
    seen = world_globe.looked_up(globe, view, world_globe.centred(10, 10 * step))
    np.testing.assert_array_equal(seen, globe.classes[85:95, 175:185])
    turned = world_globe.looked_up(
        globe, replace(view, bearing=np.pi / 2), world_globe.centred(10, 10 * step)
    )
    assert len(np.unique(seen[0])) == 1 and len(np.unique(turned[:, 0])) == 1
    mirrored = world_globe.looked_up(
        globe, replace(view, bearing=0.3, mirrored=True), world_globe.centred(10, 10 * step)
    )
    plain = world_globe.looked_up(globe, replace(view, bearing=0.3), world_globe.centred(10, 10 * step))
    np.testing.assert_array_equal(mirrored, plain[:, ::-1])


def test_training_never_depends_on_what_is_held_out(globe: world_globe.World) -> None:
    poisoned = world_globe.World(
        np.where(globe.held_out, (globe.classes + 5) % 12, globe.classes).astype(np.uint8), globe.held_out
    )
    for seed in range(40):
        one, other = (
            world_globe.GlobeSource(each).draw(np.random.default_rng(seed), 16) for each in (globe, poisoned)
        )
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.wish, other.wish)
    assert (one.ids != world_network.UNKNOWN).any()


def test_cells_are_known_on_one_side_only(globe: world_globe.World) -> None:
    view = world_globe.GlobeView(0.2, 0.3, 0.5, True, 3.0)
    inside = world_globe.cells_of(globe, view, 24, held_out=True) != world_network.UNKNOWN
    outside = world_globe.cells_of(globe, view, 24) != world_network.UNKNOWN
    assert inside.any() and outside.any()
    assert not (inside & outside).any()


def test_a_wish_is_the_mix_around_the_view() -> None:
    ids = np.full((ROWS, 2 * ROWS), CLASS_ID["desert"], dtype=np.uint8)
    ids[:, ROWS:] = CLASS_ID["forest"]
    globe = world_globe.World(ids, np.zeros(ids.shape, dtype=np.bool_))
    view = world_globe.GlobeView(0.0, 0.0, 0.0, False, 1.0)
    corners = world_globe.surroundings(globe, view, 16, 1.0)
    assert corners.shape == (2, 2, 12)
    np.testing.assert_allclose(corners.sum(axis=-1), 1.0)
    assert corners[0, 0, CLASS_ID["desert"]] == pytest.approx(1.0)
    assert corners[0, 1, CLASS_ID["forest"]] == pytest.approx(1.0)
    wish = world_globe.exact_wish(globe, view, 16)
    assert wish.shape == (13, 16, 16)
    np.testing.assert_allclose(wish[CLASS_ID["desert"]], 0.5)
    np.testing.assert_allclose(wish[-1], scale_feature(1.0))


def test_vague_mixes_are_mixes(globe: world_globe.World) -> None:
    random = np.random.default_rng(0)
    corners = world_globe.surroundings(globe, world_globe.GlobeView(0.3, 1.0, 0.2, False, 4.0), 16, 1.5)
    for _ in range(50):
        vague = world_globe.made_vague(corners, random)
        np.testing.assert_allclose(vague.sum(axis=-1), 1.0)
        assert not vague[corners == 0.0].any() or (vague == vague[0, 0]).all()


def test_a_wish_is_bilinear_between_the_corners() -> None:
    corners = np.zeros((2, 2, 12))
    corners[0, 0, 3] = corners[0, 1, 4] = corners[1, 0, 5] = corners[1, 1, 6] = 1.0
    planes = world_globe.spread(corners, 8)
    np.testing.assert_allclose(planes.sum(axis=0), 1.0, rtol=1e-6)
    assert planes[3, 0, 0] == pytest.approx((15 / 16) ** 2)
    assert planes[5, 7, 1] == pytest.approx(15 / 16 * 13 / 16)


# --- the network and its training -----------------------------------------------------------------------------


def test_planes_invert_and_hidden_cells_are_zero() -> None:
    ids = torch.tensor([[[3, 255], [11, 0]]], dtype=torch.uint8)
    planes = world_network.centred_planes(ids)
    assert planes.argmax(dim=1)[0].tolist()[1] == [11, 0]
    assert not planes[0, :, 0, 1].any()
    torch.testing.assert_close(planes.sum(dim=1), torch.zeros(1, 2, 2), atol=1e-6, rtol=0)


def test_a_fresh_network_knows_each_cells_own_evidence() -> None:
    """Its probabilities are those of Bayes' rule for Gaussian noise and equally likely classes."""
    schedule = networks.build_noise_schedule()
    planes = world_network.centred_planes(torch.randint(12, (1, 8, 8)))
    for step in (100, 700, 999):
        at = torch.tensor([step])
        noisy = schedule.add_noise(planes, torch.randn(planes.shape), at)
        kept = float(schedule.alphas_cumprod[step])
        candidates = kept**0.5 * (torch.eye(12) - 1 / 12)
        distance = (noisy[:, None] - candidates[None, :, :, None, None]).square().sum(dim=2)
        expected = torch.softmax(-distance / (2 * (1 - kept)), dim=1)
        with torch.no_grad():
            logits = tiny_network()(noisy, torch.zeros(1, 1, 8, 8), torch.rand(1, 13, 8, 8), at)
        torch.testing.assert_close(torch.softmax(logits, dim=1), expected, atol=1e-4, rtol=1e-3)


def test_a_fresh_network_passes_every_level_on() -> None:
    """With the output opened, silencing the deepest up block changes the result a lot."""
    network = tiny_network()
    torch.manual_seed(0)
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    inputs = (torch.randn(2, 26, 16, 16), torch.tensor([900, 100]))
    with torch.no_grad():
        whole = network.unet(*inputs).sample
        handle = network.unet.up_blocks[0].register_forward_hook(lambda *parts: torch.zeros_like(parts[2]))
        silenced = network.unet(*inputs).sample
        handle.remove()
    assert float((whole - silenced).std() / whole.std()) > 0.2


def test_hidden_cells_cost_nothing(globe: world_globe.World) -> None:
    subject = subject_of(globe)
    batch = subject.draw(0, np.random.default_rng(0), torch.Generator().manual_seed(0))
    hidden = batch.ids == world_network.UNKNOWN
    assert hidden.any() and not hidden.all()
    losses = world.class_losses(tiny_network(), batch, subject.schedule)
    assert not losses[hidden].any()
    assert (losses[~hidden] > 0).float().mean() > 0.5


def test_a_resumed_run_equals_one_that_never_stopped(globe: world_globe.World, tmp_path: Path) -> None:
    subject = subject_of(globe)

    def go(state: checkpoints.TrainingState, steps: int) -> list[float]:
        run = loop.TrainingRun(out=tmp_path)
        drawn = zip(range(steps), loop.batches(subject, state.step, PACE, run), strict=False)
        return [loop.take_step(state, subject, batch, PACE, run) for _, batch in drawn]

    whole, stopped = fresh_state(), fresh_state()
    losses = go(whole, 6)
    first = go(stopped, 2)
    checkpoints.save(stopped, tmp_path / "map.pt")
    resumed = checkpoints.restore(fresh_state(), tmp_path / "map.pt")
    assert first + go(resumed, 4) == losses
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, resumed.model.state_dict()[name]), name
        assert torch.equal(whole.average[name], resumed.average[name]), name


def test_a_little_training_lowers_the_held_out_loss(globe: world_globe.World, tmp_path: Path) -> None:
    pace = replace(PACE, steps=40)
    judged, drawn = (world_evaluation.judged_views(globe, number, 16) for number in (4, 1))
    phases = (world.MapPhase(1.0, 4, 16),)
    subject = replace(subject_of(globe), judged=drawn, steps=40, phases=phases)
    before = world_evaluation.held_out_losses(tiny_network(), judged)
    state = loop.train("map", fresh_state(), subject, pace, loop.TrainingRun(out=tmp_path))
    after = world_evaluation.held_out_losses(state.model, judged)
    assert after["held_out_nats"] < 0.8 * before["held_out_nats"]
    assert after["held_out_v_loss"] < before["held_out_v_loss"]
    assert (tmp_path / "maps-000040.png").exists()


# --- maps on a canvas -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["hann", "shifted"])
def test_maps_are_the_same_however_the_canvas_is_cut(method: str) -> None:
    network = tiny_network()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.5)
    canvas = Canvas(24, 40)
    settings = MapSampling(patch=16, steps=3, method=method, seed=4, batch_size=2)
    conditioner = WishConditioner(UniformWish({"forest": 1.0}), 2.0, torch.device("cpu"))
    sampler = map_sampler(network, conditioner, canvas, settings)
    start = sampler.start(canvas.box)
    whole = sampler.evaluate(0, canvas.box, canvas.box, start).sums
    halves = (Box(0, 24, 0, 32), Box(0, 24, 32, 40))
    assert np.array_equal(whole, sum(sampler.evaluate(0, half, canvas.box, start).sums for half in halves))
    made = invent(network, conditioner, canvas, settings)
    assert made.shape == (24, 40) and made.max() < 12
    assert len(np.unique(made)) > 1


def test_the_engine_hears_what_the_network_learned_to_say() -> None:
    """Calm apart, the denoiser of sampling is the softmax of the logits of training."""
    network = tiny_network()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    noisy, wishes, step = torch.randn(2, 12, 16, 16), torch.rand(2, 13, 16, 16), torch.tensor(950)
    with torch.no_grad():
        said = map_denoiser(network, CALM).predict(noisy, step, {"wish": wishes})
        logits = network(noisy, torch.zeros(2, 1, 16, 16), wishes, step.expand(2))
    torch.testing.assert_close(said, torch.softmax(logits, dim=1) - 1 / 12)


def test_a_wish_keeps_its_scale() -> None:
    planes = world_network.wish_planes(np.zeros((12, 2, 2), np.float32), 3.0)
    assert world_network.scale_of(planes) == pytest.approx(3.0)


def test_uniform_wishes_normalise_and_may_be_absent() -> None:
    planes = UniformWish({"ice": 3.0, "tundra": 1.0}).read(Box(2, 4, 5, 8))
    assert planes.shape == (12, 2, 3)
    assert planes[CLASS_ID["ice"], 0, 0] == 0.75 and planes[CLASS_ID["tundra"], 1, 2] == 0.25
    assert not UniformWish({}).read(Box(0, 1, 0, 1)).any()


def test_the_filter_removes_single_cells_and_keeps_lines() -> None:
    ids = np.zeros((5, 5), dtype=np.uint8)
    ids[2, 2] = 7
    assert not smoothed(ids, votes=2).any()
    ids[2, :] = 7
    np.testing.assert_array_equal(smoothed(ids, votes=2), ids)


def test_neighbours_count_each_pair_once_and_skip_the_unknown() -> None:
    maps = np.array([[[1, 1], [2, 255]]], dtype=np.uint8)
    table = world_evaluation.neighbours(maps)
    assert table[1, 1] == 0.5 and table[1, 2] == table[2, 1] == 0.25
    assert world_evaluation.borders(table)[1, 2] == 0.5


def test_a_copy_of_the_training_cells_is_found(globe: world_globe.World) -> None:
    bank = world_evaluation.build_bank(globe, scale=1.0, window=10, points=5, spacing=8, bearings=2)
    assert (bank.ids == world_network.UNKNOWN).mean(axis=1).max() <= 0.1
    full = int(np.flatnonzero((bank.ids != world_network.UNKNOWN).all(axis=1))[0])
    found = world_evaluation.nearest_agreement(bank, bank.ids[full][None], [None], 0.0)
    assert found.tolist() == [1.0]
    elsewhere = world_evaluation.nearest_agreement(bank, bank.ids[full][None], [bank.centres[full]], np.pi)
    assert elsewhere.tolist() == [0.0]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_an_exported_model_says_how_to_sample_it(tmp_path: Path) -> None:
    network = world_network.build_map_network()
    torch.nn.init.normal_(network.unet.conv_out.weight, std=0.1)
    state = checkpoints.start(network, loop.build_optimiser([network], PACE))
    checkpoints.save(state, tmp_path / "map.pt")
    size = world.export_world(tmp_path / "map.pt", tmp_path / "out" / "map", MapSampling(patch=64))
    assert size < 3_000_000
    table = json.loads((tmp_path / "out" / "map" / "map.json").read_text(encoding="utf-8"))
    assert table["format_version"] == 1 and [row["name"] for row in table["classes"]] == list(CLASS_NAMES)
    assert table["temperature"] == {"value": 0.65, "until": 400.0, "one_from": 900.0}
    loaded = world.load_exported(tmp_path / "out" / "map")
    inputs = (torch.randn(1, 12, 16, 16), torch.zeros(1, 1, 16, 16), torch.rand(1, 13, 16, 16))
    with torch.no_grad():
        made, expected = loaded(*inputs, torch.tensor([500])), network(*inputs, torch.tensor([500]))
    torch.testing.assert_close(made, expected, atol=0.02, rtol=0.02)
