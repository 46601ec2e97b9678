"""Cleaning of class maps: specks go, borders calm down. Knows ids and boxes; knows no model and no file.

    Voted       a cell whose class too few of its 3 x 3 neighbourhood share takes the commonest class there
    Cleaned     a component (cells of one class, joined by their sides) of fewer than `least` cells takes the class with
                which it shares the longest border, among the components round it that are larger (ties: the lowest id)

A component that only small ones surround waits for the second round. A speck and all that decides about it lie within
2 * least cells, so a cell is cleaned the same in whatever box it is read:

    +-----------------------+
    |  reach                |    reach = ROUNDS * 2 * least + 1
    |    +-------------+    |
    |    |  what is    |    |    A component that leaves the window is either large, or too far off to matter.
    |    |  asked for  |    |
    |    +-------------+    |
    +-----------------------+
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from generation.models.maps import smoothed
from generation.places.squares import Ids, ReadsIds
from storage.geometry import Box, Canvas

ROUNDS = 2


@dataclass(frozen=True)
class Voted:
    """A map whose cells keep a class that `votes` of the 3 x 3 cells round them share. Satisfies ReadsIds."""

    source: ReadsIds
    canvas: Canvas
    votes: int

    def ids(self, box: Box) -> Ids:
        """(h, w) ids of a box, which may wrap."""
        seen = self.canvas.clip(box.expanded(1))
        shifted = (self.source.ids(seen) + 1).astype(np.uint8)
        return smoothed(shifted, self.votes)[box.slices_in(seen)].astype(np.int16) - 1


@dataclass(frozen=True)
class Cleaned:
    """A map without specks of fewer than `least` cells, for boxes that do not leave the canvas."""

    source: ReadsIds
    canvas: Canvas
    least: int

    def ids(self, box: Box) -> Ids:
        """(h, w) ids of a box on the canvas, by a window round it.

        An axis that wraps and is no longer than the window is seen whole, and closed.
        """
        window = self.canvas.clip(box.expanded(reach(self.least)))
        topology = self.canvas.topology
        closed_y = topology.wraps_y and window.height >= self.canvas.height
        closed_x = topology.wraps_x and window.width >= self.canvas.width
        y = (0, self.canvas.height) if closed_y else (window.y0, window.y1)
        x = (0, self.canvas.width) if closed_x else (window.x0, window.x1)
        seen = Box(*y, *x)
        return cleaned(self.source.ids(seen), self.least, closed_y, closed_x)[box.slices_in(seen)]


def reach(least: int) -> int:
    """How far from a cell the cells lie that decide what it becomes."""
    return ROUNDS * 2 * least + 1


def cleaned(ids: Ids, least: int, wraps_y: bool = False, wraps_x: bool = False) -> Ids:
    """The (h, w) ids without specks of fewer than `least` cells; joined on the sides that wrap."""
    for _ in range(ROUNDS if least > 1 else 0):
        ids = _round(ids, least, wraps_y, wraps_x)
    return ids


def _round(ids: Ids, least: int, wraps_y: bool, wraps_x: bool) -> Ids:
    flat = ids.ravel().astype(np.int64)
    first, second = _pairs(ids.shape, wraps_y, wraps_x)
    alike = flat[first] == flat[second]
    roots = _roots(flat.size, first[alike], second[alike])
    small = np.bincount(roots, minlength=flat.size)[roots] < least
    if not small.any():
        return ids
    inner, outer = np.concatenate([first, second]), np.concatenate([second, first])
    border = small[inner] & ~small[outer]
    return _voted(flat, roots, inner[border], outer[border]).astype(ids.dtype).reshape(ids.shape)


def _voted(
    flat: NDArray[np.int64], roots: NDArray[np.int64], inner: NDArray[np.int64], outer: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Each pair is a vote of `outer`'s class for the component of `inner`."""
    classes, named = np.unique(flat, return_inverse=True)
    members, voters = np.unique(roots[inner], return_inverse=True)
    votes = np.zeros((len(members), len(classes)), np.int64)
    np.add.at(votes, (voters, named[outer]), 1)
    becomes = np.arange(flat.size)
    winners = np.full(flat.size, -1)
    winners[members] = votes.argmax(axis=1)  # the lowest of the equal
    chosen = winners[roots[becomes]]
    return np.where(chosen >= 0, classes[chosen], flat)


def _pairs(
    shape: tuple[int, ...], wraps_y: bool, wraps_x: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Flat places of all pairs of cells that share a side."""
    places = np.arange(shape[0] * shape[1]).reshape(shape)
    pairs = [(places[:, :-1], places[:, 1:]), (places[:-1], places[1:])]
    if wraps_x and shape[1] > 2:
        pairs.append((places[:, -1], places[:, 0]))
    if wraps_y and shape[0] > 2:
        pairs.append((places[-1], places[0]))
    return np.concatenate([a.ravel() for a, _ in pairs]), np.concatenate([b.ravel() for _, b in pairs])


def _roots(size: int, first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    """The lowest place of each cell's component: trees hooked onto lower ones, then flattened, until none differ."""
    parent = np.arange(size)
    while len(first):
        low, high = np.minimum(parent[first], parent[second]), np.maximum(parent[first], parent[second])
        apart = low != high
        first, second = first[apart], second[apart]
        np.minimum.at(parent, high[apart], low[apart])
        while not np.array_equal(above := parent[parent], parent):
            parent = above
    return parent
