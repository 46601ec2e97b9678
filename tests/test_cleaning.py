"""Cleaning of class maps: the quick way against a slow one that sees the whole map, in whatever boxes it is read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from generation.places.cleaning import ROUNDS, Cleaned, Voted, cleaned, reach
from generation.places.squares import Remembered
from storage.geometry import PLANE, RING, TORUS, Box, Canvas, Topology

Ids = NDArray[np.int16]


def patchy(height: int, width: int, classes: int = 4, seed: int = 0, grain: int = 3) -> Ids:
    """Blobs with specks of all sizes on them; -1 is no class."""
    random = np.random.default_rng(seed)
    coarse = random.integers(-1, classes, (height // grain + 2, width // grain + 2))
    ids = coarse.repeat(grain, 0).repeat(grain, 1)[:height, :width]
    return np.where(
        random.random((height, width)) < 0.25, random.integers(-1, classes, (height, width)), ids
    ).astype(np.int16)


def neighbours(y: int, x: int, shape: tuple[int, int], topology: Topology) -> Iterator[tuple[int, int]]:
    for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
        v, u = y + dy, x + dx
        if topology.wraps_y:
            v %= shape[0]
        if topology.wraps_x:
            u %= shape[1]
        if 0 <= v < shape[0] and 0 <= u < shape[1]:
            yield v, u


def components(ids: Ids, topology: Topology) -> list[list[tuple[int, int]]]:
    """By flooding, cell after cell."""
    seen, found = set(), []
    for start in np.ndindex(ids.shape):
        if start in seen:
            continue
        seen.add(start)
        part, waiting = [], [start]
        while waiting:
            cell = waiting.pop()
            part.append(cell)
            for other in neighbours(*cell, ids.shape, topology):
                if other not in seen and ids[other] == ids[cell]:
                    seen.add(other)
                    waiting.append(other)
        found.append(part)
    return found


def slowly_cleaned(ids: Ids, least: int, topology: Topology = PLANE) -> Ids:
    """The rule as it is written, on the whole map."""
    for _ in range(ROUNDS):
        parts = components(ids, topology)
        large = {cell for part in parts if len(part) >= least for cell in part}
        after = ids.copy()
        for part in parts:
            if len(part) >= least:
                continue
            around = (cell for own in part for cell in neighbours(*own, ids.shape, topology))
            votes = Counter(int(ids[cell]) for cell in around if cell in large)
            if votes:
                most = max(votes.values())
                winner = min(name for name, count in votes.items() if count == most)
                for cell in part:
                    after[cell] = winner
        ids = after
    return ids


@dataclass(frozen=True)
class Held:
    """A map in memory that wraps as its canvas does, and remembers what it was asked. Satisfies ReadsIds."""

    whole: Ids
    canvas: Canvas
    asked: list[Box]

    def ids(self, box: Box) -> Ids:
        assert self.canvas.clip(box) == box
        self.asked.append(box)
        rows, columns = np.arange(box.y0, box.y1), np.arange(box.x0, box.x1)
        return self.whole[np.ix_(rows % self.canvas.height, columns % self.canvas.width)]


def cleaned_map(whole: Ids, least: int, topology: Topology, side: int = 64) -> tuple[Remembered, list[Box]]:
    canvas, asked = Canvas(*whole.shape, topology), []
    return Remembered(Cleaned(Held(whole, canvas, asked), canvas, least), canvas, side), asked


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("least", [2, 3, 5, 8])
def test_it_is_the_rule(least: int, seed: int) -> None:
    ids = patchy(37, 41, seed=seed)
    found = cleaned(ids, least)
    np.testing.assert_array_equal(found, slowly_cleaned(ids, least))
    assert (found != ids).any()


@pytest.mark.parametrize(("wraps_y", "wraps_x", "topology"), [(False, True, RING), (True, True, TORUS)])
@pytest.mark.parametrize("shape", [(23, 31), (9, 5), (3, 3)])
def test_it_joins_sides_that_wrap(
    wraps_y: bool, wraps_x: bool, topology: Topology, shape: tuple[int, int]
) -> None:
    for seed in range(4):
        ids = patchy(*shape, seed=seed)
        np.testing.assert_array_equal(cleaned(ids, 5, wraps_y, wraps_x), slowly_cleaned(ids, 5, topology))


def test_a_speck_across_the_seam_of_a_ring_is_one() -> None:
    ids = np.zeros((8, 200), np.int16)
    ids[4, :3] = ids[4, -2:] = 1
    for least, stays in ((5, True), (6, False)):
        there, _ = cleaned_map(ids, least, RING)
        assert there.ids(Box(0, 8, 0, 200)).any() == stays
        over = there.ids(Box(0, 8, 190, 210))
        np.testing.assert_array_equal(over, np.roll(there.ids(Box(0, 8, 0, 200)), 10, axis=1)[:, :20])
    assert not cleaned_map(ids, 5, PLANE)[0].ids(Box(0, 8, 0, 200)).any()


@pytest.mark.parametrize("topology", [PLANE, RING, TORUS])
@pytest.mark.parametrize("shape", [(150, 210), (70, 20), (33, 130)])
def test_it_depends_on_no_box(topology: Topology, shape: tuple[int, int]) -> None:
    """Squares of 64 with windows smaller and larger than the canvas, against the whole map at once."""
    whole = patchy(*shape, seed=3)
    for least in (3, 8):
        wanted = slowly_cleaned(whole, least, topology)
        canvas = Canvas(*shape, topology)
        random = np.random.default_rng(1)
        there, asked = cleaned_map(whole, least, topology)
        np.testing.assert_array_equal(there.ids(canvas.box), wanted)
        for _ in range(30):
            y, x = random.integers(-40, shape[0]), random.integers(-40, shape[1])
            height, width = random.integers(1, 60, 2)
            box = canvas.clip(Box(int(y), int(y + height), int(x), int(x + width)) if y + height > 0 and x + width > 0
                              else Box(0, 1, 0, 1))  # fmt: skip
            fresh, _ = cleaned_map(whole, least, topology)
            rows, columns = np.arange(box.y0, box.y1) % shape[0], np.arange(box.x0, box.x1) % shape[1]
            np.testing.assert_array_equal(fresh.ids(box), wanted[np.ix_(rows, columns)])
        assert max(max(box.shape) for box in asked) <= 64 + 2 * reach(least)


def test_what_it_looks_at_is_bounded_and_remembered() -> None:
    there, asked = cleaned_map(patchy(2000, 2000), 4, PLANE)
    for x in range(0, 60, 7):
        there.ids(Box(900, 930, 1100 + x, 1110 + x))
    assert len(asked) == 2
    assert all(box.shape == (64 + 2 * reach(4), 64 + 2 * reach(4)) for box in asked)


def test_what_it_leaves_it_leaves_again_and_no_large_part_is_lost() -> None:
    """Cleaned again, only specks change that no large part touched before: where specks fill the map."""
    for seed in range(8):
        ids = patchy(60, 60, seed=seed, grain=6)
        once = cleaned(ids, 6)
        for part in components(ids, PLANE):
            if len(part) >= 6:
                assert all(once[cell] == ids[cell] for cell in part)
        left = {cell for part in components(once, PLANE) if len(part) < 6 for cell in part}
        twice = cleaned(once, 6)
        assert all(tuple(cell) in left for cell in np.argwhere(twice != once))
        if not left:
            np.testing.assert_array_equal(twice, once)
    checks = (np.indices((12, 12)).sum(axis=0) % 2).astype(np.int16)
    np.testing.assert_array_equal(cleaned(checks, 4), checks)


def test_ties_go_to_the_lowest_id_and_the_longest_border_wins() -> None:
    tie = np.array([[2, 2, 5, 1, 1], [2, 2, 5, 1, 1]], np.int16)
    assert cleaned(tie, 4)[:, 2].tolist() == [1, 1]
    longest = np.array([[0, 0, 0, 0], [0, 3, 7, 7], [0, 0, 7, 7]], np.int16)
    assert cleaned(longest, 3)[1, 1] == 0
    none = np.array([[-1, -1, -1], [-1, 4, -1], [-1, -1, -1]], np.int16)
    assert (cleaned(none, 2) == -1).all()


@pytest.mark.parametrize("least", [0, 1])
def test_nothing_is_asked_for(least: int) -> None:
    ids = patchy(20, 20)
    np.testing.assert_array_equal(cleaned(ids, least), ids)


@pytest.mark.parametrize("topology", [PLANE, RING, TORUS])
def test_votes_are_the_same_in_every_box(topology: Topology) -> None:
    whole = patchy(40, 50, seed=9)
    canvas = Canvas(40, 50, topology)
    there = Voted(Held(whole, canvas, []), canvas, 3)
    wanted = there.ids(canvas.box)
    assert (wanted != whole).any() and wanted.min() == -1
    for box in (Box(0, 7, 0, 9), Box(13, 14, 20, 21), Box(20, 40, 31, 50)):
        np.testing.assert_array_equal(there.ids(box), wanted[box.y0 : box.y1, box.x0 : box.x1])


def test_a_line_one_cell_wide_survives_the_votes() -> None:
    whole = np.zeros((9, 30), np.int16)
    whole[4] = 1
    canvas = Canvas(9, 30)
    np.testing.assert_array_equal(Voted(Held(whole, canvas, []), canvas, 3).ids(canvas.box), whole)


def test_it_sees_as_far_as_it_must() -> None:
    """Snakes of about the least size, cleaned in tiny squares: most of what decides lies beyond the borders."""
    for seed in range(3):
        whole = np.random.default_rng(seed).integers(0, 3, (44, 44)).astype(np.int16)
        for least in (4, 8):
            there, _ = cleaned_map(whole, least, PLANE, side=3)
            np.testing.assert_array_equal(there.ids(Box(0, 44, 0, 44)), slowly_cleaned(whole, least))
