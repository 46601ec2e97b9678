"""Noise addressed by coordinate: the noise of a box is the crop of the noise of the canvas."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from generation.sampling.noise import Purpose, noise
from storage.geometry import PLANE, RING, TORUS, Box, Canvas


def field(
    box: Box, canvas: Canvas, seed: int = 11, purpose: Purpose = Purpose.START, step: int = 0, draw: int = 0
):
    return noise(seed, purpose, step, 3, box, canvas, draw)


@given(st.integers(0, 60), st.integers(0, 70), st.integers(1, 40), st.integers(1, 40))
def test_a_box_is_the_crop_of_the_canvas(y: int, x: int, height: int, width: int) -> None:
    canvas = Canvas(101, 113, PLANE)
    box = Box(y, y + height, x, x + width)
    whole = field(canvas.box, canvas)
    assert np.array_equal(field(box, canvas), whole[:, y : y + height, x : x + width])


def test_a_larger_canvas_has_the_same_noise() -> None:
    assert np.array_equal(
        field(Box(0, 40, 0, 50), Canvas(40, 50)), field(Box(0, 40, 0, 50), Canvas(900, 700))
    )


def test_wrapping_axes_repeat() -> None:
    canvas = Canvas(37, 41, TORUS)
    whole = field(canvas.box, canvas)
    rolled = field(Box(-5, 32, 38, 79), canvas)
    assert np.array_equal(rolled, np.roll(whole, (5, -38), axis=(1, 2)))


def test_a_plane_has_nothing_beyond_its_border() -> None:
    with pytest.raises(ValueError, match="leaves a ring"):
        field(Box(-1, 3, 0, 4), Canvas(8, 8, RING))


def test_every_part_of_the_address_counts() -> None:
    canvas, box = Canvas(64, 64), Box(0, 64, 0, 64)
    fields = [
        field(box, canvas),
        field(box, canvas, seed=12),
        field(box, canvas, purpose=Purpose.STEP),
        field(box, canvas, step=1),
        field(box, canvas, draw=1),
        field(Box(32, 96, 0, 64), Canvas(96, 64)),
    ]
    for i, a in enumerate(fields):
        for b in fields[:i]:
            assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.05


def test_it_is_standard_normal() -> None:
    values = field(Box(0, 256, 0, 256), Canvas(256, 256))
    assert abs(values.mean()) < 0.01 and abs(values.std() - 1) < 0.01
    assert abs((values**3).mean()) < 0.03 and abs((values**4).mean() - 3) < 0.06


def test_the_numbers_do_not_change_with_numpy() -> None:
    values = field(Box(3, 70, 5, 90), Canvas(100, 100), seed=2**63 + 1)
    assert hashlib.sha256(values.tobytes()).hexdigest()[:16] == "7682e64ef843ad28"
