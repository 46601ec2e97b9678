"""Fractal scenes: addressed by coordinate, periodic where the canvas wraps, and every scene shows what it says."""

import numpy as np
import pytest

from generation.places.scenes import CLASSES, SCENES, Scene, SceneMap, parse
from storage.geometry import PLANE, RING, TORUS, Box, Canvas


def scene_map(name: str, canvas: Canvas, seed: int = 0) -> SceneMap:
    return SceneMap(SCENES[name], seed, canvas, 4, CLASSES)


def test_the_map_of_a_box_is_the_crop_of_the_canvas() -> None:
    canvas = Canvas(200, 240, PLANE)
    world = scene_map("continent", canvas)
    whole = world.read(canvas.box).numpy()
    assert np.array_equal(world.read(Box(31, 77, 50, 191)).numpy(), whole[31:77, 50:191])


@pytest.mark.parametrize("topology", [RING, TORUS], ids=str)
def test_maps_repeat_round_the_canvas_without_a_seam(topology) -> None:
    canvas = Canvas(200, 240, topology)
    world = scene_map("archipelago", canvas)
    whole = world.read(canvas.box).numpy()
    assert np.array_equal(world.read(Box(0, 200, 200, 280)).numpy(), np.roll(whole, -200, 1)[:, :80])
    changes = (whole != np.roll(whole, 1, axis=1)).mean(0)[::4]  # classes change between cells only
    assert changes[0] < 3 * changes[1:].mean() + 0.05


def test_cells_are_aligned_to_the_canvas() -> None:
    ids = scene_map("archipelago", Canvas(64, 64)).read(Box(0, 64, 0, 64)).numpy()
    assert np.array_equal(ids, ids[::4, ::4].repeat(4, 0).repeat(4, 1))


@pytest.mark.parametrize(
    ("name", "shown", "share"),
    [
        ("archipelago", {"deep ocean", "shallow sea"}, (0.4, 0.9)),
        ("rainforest coast", {"rainforest", "forest"}, (0.2, 0.8)),
        ("desert mountains", {"desert", "mountains"}, (0.3, 0.9)),
        ("northern lakes", {"ice", "tundra"}, (0.2, 0.8)),
        ("savanna plains", {"savanna", "grassland", "desert"}, (0.4, 0.95)),
    ],
)
def test_scenes_show_what_they_are_called(name: str, shown: set[str], share: tuple[float, float]) -> None:
    canvas = Canvas(512, 512)
    ids = [scene_map(name, canvas, seed).read(canvas.box).numpy() for seed in range(4)]
    found = np.mean([np.isin(i, [CLASSES.index(word) for word in shown]).mean() for i in ids])
    assert share[0] < found < share[1]


def test_seeds_give_other_worlds() -> None:
    canvas = Canvas(128, 128)
    first, second = (scene_map("continent", canvas, seed).read(canvas.box) for seed in (1, 2))
    assert float((first != second).double().mean()) > 0.3


def test_prompts() -> None:
    assert isinstance(parse("  Rainforest  COAST "), Scene)
    assert parse("desert") == "desert"
    with pytest.raises(ValueError, match="does not know 'archipelgo' .did you mean 'archipelago'"):
        parse("archipelgo")
