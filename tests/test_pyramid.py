"""The pyramid against the slow obvious one: the same picture, whatever its size and the order of its tasks.

The slow version reduces the whole picture at once. Rounding to 8 bits happens where tasks of one group hand over
to the next, so the slow version rounds at the same levels and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from storage.geometry import Box
from storage.light import linear_to_srgb_u8, reduce_half, reduce_half_srgb, srgb_to_linear, to_u8
from storage.pyramid import PyramidLayout, PyramidTask
from storage.pyramid_writing import cut, write_bands, write_superblock

Pixels8 = NDArray[np.uint8]


@dataclass
class InMemory:
    """A pyramid format that keeps arrays, and counts how often each pixel was written."""

    layout: PyramidLayout
    levels: list[Pixels8] = field(default_factory=list)
    writes: list[NDArray[np.int64]] = field(default_factory=list)

    def create(self) -> None:
        sizes = [self.layout.size(level) for level in range(self.layout.deep_levels)]
        self.levels = [np.zeros((*size, 3), np.uint8) for size in sizes]
        self.writes = [np.zeros(size, np.int64) for size in sizes]

    def write_level(self, level: int, box: Box, pixels: Pixels8) -> None:
        place = box.slices_in(self.layout.whole(level).box)
        self.levels[level][place] = pixels
        self.writes[level][place] += 1

    def finish(self) -> None:
        assert all((count == 1).all() for count in self.writes)


def slow_pyramid(picture: Pixels8, layout: PyramidLayout) -> list[Pixels8]:
    levels, linear = [picture], slow_linear(picture)
    for level in range(1, layout.deep_levels):
        linear = slow_half(linear)
        levels.append(linear_to_srgb_u8(linear))
        if layout.group_of(level) < layout.groups - 1 and level % layout.levels_per_group == 0:
            linear = slow_linear(levels[-1])
    return levels


def slow_linear(picture: Pixels8) -> NDArray[np.float32]:
    encoded = picture / 255
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4).astype(
        np.float32
    )


def slow_half(linear: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width, _ = linear.shape
    even = np.pad(linear, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    upper, lower = even[0::2], even[1::2]
    rows = upper + lower
    return (rows[:, 0::2] + rows[:, 1::2]) * np.float32(0.25)


def run_all(layout: PyramidLayout, picture: Pixels8, shuffle: np.random.Generator) -> InMemory:
    """Every task, in any order that its dependencies allow, asserting that they are what it reads."""
    memory = InMemory(layout)
    memory.create()
    waiting = [task for group in range(layout.groups) for task in layout.tasks(group)]
    done: set[PyramidTask] = set()
    while waiting:
        ready = [task for task in waiting if done.issuperset(layout.dependencies(task))]
        task = ready[shuffle.integers(len(ready))]
        start = layout.reads(task)
        place = start.box.slices_in(layout.whole(start.level).box)
        if task.group:
            assert (memory.writes[start.level][place] == 1).all()
        write_superblock(
            [memory], layout, task, memory.levels[start.level][place] if task.group else picture[place]
        )
        waiting.remove(task)
        done.add(task)
    return memory


layouts = st.builds(
    lambda width, height, tile, halvings: PyramidLayout(width, height, tile, tile << halvings),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([3, 4, 8]),
    st.integers(1, 3),
)


@given(layouts, st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_task_by_task_in_any_order_is_the_slow_pyramid(layout: PyramidLayout, seed: int) -> None:
    random = np.random.default_rng(seed)
    picture = random.integers(0, 256, (layout.height, layout.width, 3), np.uint8)
    memory = run_all(layout, picture, random)
    memory.finish()
    for fast, slow in zip(memory.levels, slow_pyramid(picture, layout), strict=True):
        np.testing.assert_array_equal(fast, slow)


@given(layouts)
@settings(max_examples=100, deadline=None)
def test_the_layout_tiles_every_level(layout: PyramidLayout) -> None:
    assert layout.size(0) == (layout.height, layout.width)
    assert layout.size(layout.deep_levels - 1) == (1, 1)
    assert max(layout.size(layout.levels - 1)) <= layout.tile
    assert layout.levels == 1 or max(layout.size(layout.levels - 2)) > layout.tile
    assert layout.task_count(layout.groups - 1) == 1
    written = [level for group in range(layout.groups) for level in layout.written_levels(group)]
    assert written == list(range(layout.deep_levels))
    for group in range(layout.groups):
        for task in layout.tasks(group):
            assert max(layout.reads(task).box.shape) <= layout.superblock
            for place in layout.writes(task):
                assert layout.group_of(place.level) == group
                assert place.box.y0 % layout.write_edge(place.level) == 0
                assert max(place.box.shape) <= layout.write_edge(place.level)


def test_the_default_layout() -> None:
    layout = PyramidLayout(width=40_000, height=10_001)
    assert [list(layout.written_levels(group)) for group in range(layout.groups)] == [
        [0, 1, 2],
        [3, 4],
        [5, 6],
        [7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    ]
    assert layout.levels == 8
    assert [layout.cells(group) for group in range(layout.groups)] == [(5, 20), (2, 5), (1, 2), (1, 1)]
    assert layout.size(3) == (1251, 5000)
    assert layout.reads(layout.task(1, 9)).box == Box(2048, 2501, 8192, 10_000)
    assert layout.dependencies(layout.task(1, 9)) == [PyramidTask(0, 4, column) for column in range(16, 20)]


def test_a_trillion_pixels_cost_nothing_to_lay_out() -> None:
    layout = PyramidLayout(2**21, 2**20)
    assert layout.task_count(0) == 512 * 1024
    assert layout.task(0, 512 * 1024 - 1) == PyramidTask(0, 511, 1023)
    assert len(layout.dependencies(layout.task(1, 3))) == 16


def test_every_byte_survives_linear_light_and_back() -> None:
    every = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    np.testing.assert_array_equal(linear_to_srgb_u8(srgb_to_linear(every)), every)
    np.testing.assert_array_equal(srgb_to_linear(every / 255), srgb_to_linear(every))
    np.testing.assert_array_equal(to_u8((every / 255).astype(np.float32)), every)


def test_linear_light_is_that_of_the_standard() -> None:
    values = np.linspace(0, 1, 1009).reshape(1, -1, 1).repeat(3, axis=2)
    exact = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    np.testing.assert_allclose(srgb_to_linear(values), exact, atol=2e-5)
    stored = linear_to_srgb_u8(exact.astype(np.float32))
    assert np.abs(stored - 255 * values).max() < 0.53


def test_black_and_white_average_in_linear_light() -> None:
    checks = np.indices((2, 2)).sum(axis=0) % 2 * np.uint8(255)
    half = linear_to_srgb_u8(reduce_half_srgb(checks.astype(np.uint8)[..., None].repeat(3, axis=2)))
    assert half.ravel().tolist() == [188, 188, 188]  # not 128


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (129, 131), (64, 128)])
def test_white_stays_white_and_strips_change_nothing(size: tuple[int, int]) -> None:
    white = np.full((*size, 3), 255, np.uint8)
    assert (linear_to_srgb_u8(reduce_half_srgb(white)) == 255).all()
    noise = np.random.default_rng(5).random((*size, 3), dtype=np.float32)
    np.testing.assert_array_equal(reduce_half_srgb(noise), reduce_half(srgb_to_linear(noise)))


def test_the_last_pixel_is_the_mean_of_what_exists() -> None:
    primes = np.array([[2, 3, 5], [7, 11, 13], [17, 19, 23]], np.float32)[..., None].repeat(3, axis=2)
    assert reduce_half(primes)[..., 0].tolist() == [[23 / 4, 18 / 2], [36 / 2, 23]]


def test_floats_are_clipped_and_lower_levels_come_from_unrounded_pixels() -> None:
    layout = PyramidLayout(2, 1, tile=4, superblock=8)
    memory = InMemory(layout)
    memory.create()
    write_superblock([memory], layout, layout.task(0, 0), np.array([[[1.5] * 3, [-0.5] * 3]], np.float32))
    assert memory.levels[0][0, :, 0].tolist() == [255, 0]
    assert memory.levels[1][0, 0, 0] == 188


def test_errors_name_the_value_and_the_limit() -> None:
    layout = PyramidLayout(100, 50)
    with pytest.raises(ValueError, match="0 x 5 pixels is empty"):
        PyramidLayout(0, 5)
    with pytest.raises(ValueError, match="superblock 1536 must be 2, 4, 8"):
        PyramidLayout(5, 5, superblock=1536)
    with pytest.raises(IndexError, match="task 1 of the 1 of group 0"):
        layout.task(0, 1)
    with pytest.raises(IndexError, match="lies outside"):
        layout.writes(PyramidTask(0, 0, 1))
    for pixels, told in (
        (np.zeros((4, 4, 3), np.uint8), r"shape \(50, 100, 3\); rows 0 on are \(4, 4, 3\)"),
        (np.zeros((49, 100, 3), np.uint8), r"shape \(50, 100, 3\); there are 49 rows"),
        (np.zeros((51, 100, 3), np.uint8), r"shape \(50, 100, 3\); rows 0 on are \(51, 100, 3\)"),
    ):
        with pytest.raises(ValueError, match=told):
            write_superblock([], layout, layout.task(0, 0), pixels)


@given(layouts, st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None)
def test_bands_of_any_heights_are_the_whole(layout: PyramidLayout, seed: int, rounded: bool) -> None:
    """Odd ones, too, where a row waits for the next band; cut out of something larger."""
    random = np.random.default_rng(seed)
    margin = random.integers(0, 9, 4)
    box = layout.reads(layout.task(0, 0)).box
    rows, columns = slice(margin[0], margin[0] + box.height), slice(margin[1], margin[1] + box.width)
    shape = (rows.stop + margin[2], columns.stop + margin[3], 3)
    larger = random.integers(0, 256, shape, np.uint8) if rounded else random.random(shape, np.float32)
    cuts = sorted(random.integers(0, len(larger) + 1, random.integers(0, 9)))
    bands = [larger[a:b] for a, b in pairwise([0, *cuts, len(larger)])]
    whole, parts = InMemory(layout), InMemory(layout)
    whole.create()
    parts.create()
    write_superblock([whole], layout, layout.task(0, 0), larger[rows, columns])
    write_bands([parts], layout, layout.task(0, 0), cut(bands, rows, columns))
    for one, other in zip(whole.levels, parts.levels, strict=True):
        np.testing.assert_array_equal(one, other)
