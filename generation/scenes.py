"""Fractal scenes: a class for every place, from a name and a seed, with no map in memory. Knows no model, no prompt's words
beyond its table.

A scene has two fields of fractal value noise over the canvas, elevation and moisture, and a temperature that falls
with height. A place's class is looked up in them the way biomes are in physical geography (after Whittaker 1975).
Noise is addressed by coordinate (value noise on integer lattices, summed over octaves), so the map of a box is the
crop of the map of the canvas. On wrapping axes the lattices have a whole number of cells round the canvas.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from storage.geometry import Box, Canvas

Field = NDArray[np.floating[Any]]

OCTAVES = 6
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Scene:
    """What kind of world: all lengths in latents, the rest in standard deviations of the noise.

    size: of continents. sea: how much lies under water. dry, cold: shift of the climate. relief: share of mountains.
    """

    size: float
    sea: float
    dry: float = 0.0
    cold: float = 0.0
    relief: float = 0.0


SCENES = {
    "archipelago": Scene(size=110, sea=0.62, dry=-0.3, relief=0.1),
    "continent": Scene(size=420, sea=-0.1),
    "rainforest coast": Scene(size=260, sea=0.15, dry=-1.6, cold=-1.0, relief=-0.1),
    "desert mountains": Scene(size=300, sea=-1.5, dry=1.3, cold=-0.5, relief=0.5),
    "northern lakes": Scene(size=90, sea=-0.35, dry=-0.5, cold=1.6),
    "savanna": Scene(size=360, sea=-0.9, dry=0.55, cold=-1.1, relief=-0.2),
}
CLASSES = (
    "deep ocean",
    "shallow sea",
    "ice",
    "tundra",
    "forest",
    "rainforest",
    "grassland",
    "savanna",
    "shrubland",
    "farmland",
    "desert",
    "mountains",
)


def known_words() -> list[str]:
    """Everything that a prompt of a class-map model may be."""
    return [*SCENES, *CLASSES]


def parse(prompt: str) -> Scene | str:
    """A scene, or the name of a single class. Raises ValueError with the known words and the nearest for others."""
    words = re.sub(r"\s+", " ", prompt.strip().lower())
    if words in SCENES:
        return SCENES[words]
    if words in CLASSES:
        return words
    near = difflib.get_close_matches(words, known_words(), n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"the embedded model does not know {prompt!r}{hint} It knows: {', '.join(known_words())}")


@dataclass(frozen=True)
class SceneMap:
    """The class map of a scene on a canvas, in cells of `cell` x `cell` latents. Satisfies ClassMap."""

    scene: Scene
    seed: int
    canvas: Canvas
    cell: int
    names: Sequence[str]

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64 class ids."""
        y = _cell_centres(box.y0, box.y1, self.cell, self.canvas.height, self.canvas.topology.wraps_y)
        x = _cell_centres(box.x0, box.x1, self.cell, self.canvas.width, self.canvas.topology.wraps_x)
        return torch.from_numpy(self._ids(y, x))

    def _ids(self, y: Field, x: Field) -> NDArray[np.int64]:
        """Biome of each place; later lines win."""
        scene = self.scene
        height = self._fractal(y, x, 1, scene.size) - scene.sea
        wet = self._fractal(y, x, 2, scene.size * 1.3) - scene.dry
        warm = self._fractal(y, x, 3, scene.size * 2) * 0.7 - scene.cold - np.clip(height, 0, None) * 0.35
        rough = self._fractal(y, x, 4, scene.size * 0.5) + scene.relief + height * 0.35
        ids = self._filled("grassland", height)
        rules = (
            ("farmland", (wet > 0.15) & (rough < -0.3)),
            ("shrubland", wet < -0.35),
            ("savanna", (warm > 0.35) & (wet < 0.1)),
            ("forest", wet > 0.35),
            ("rainforest", (warm > 0.5) & (wet > 0.45)),
            ("desert", (wet < -0.8) & (warm > -0.7)),
            ("mountains", rough > 1.25),
            ("tundra", warm < -1.25),
            ("ice", warm < -2.0),
            ("shallow sea", height < 0),
            ("deep ocean", height < -0.45),
        )
        for name, where in rules:
            ids[where] = self.names.index(name)
        return ids

    def _filled(self, name: str, like: Field) -> NDArray[np.int64]:
        return np.full(like.shape, self.names.index(name), np.int64)

    def _fractal(self, y: Field, x: Field, layer: int, size: float) -> Field:
        """Sum of octaves of value noise, amplitude halving with each; about zero mean and unit variance."""
        total = np.zeros((len(y), len(x)))
        power = 0.0
        for octave in range(OCTAVES):
            period_y = _lattice(size / 2**octave, self.canvas.height, self.canvas.topology.wraps_y)
            period_x = _lattice(size / 2**octave, self.canvas.width, self.canvas.topology.wraps_x)
            amplitude = 0.5**octave
            total += amplitude * _value_noise(y / period_y[0], x / period_x[0], period_y[1], period_x[1],
                                              self.seed, layer * OCTAVES + octave)  # fmt: skip
            power += amplitude**2
        return np.asarray(total / np.sqrt(power) * 2.2)


@dataclass(frozen=True)
class UniformMap:
    """One class everywhere. Satisfies ClassMap."""

    class_id: int

    def read(self, box: Box) -> torch.Tensor:
        return torch.full(box.shape, self.class_id, dtype=torch.int64)


def _cell_centres(low: int, high: int, cell: int, length: int, wraps: bool) -> Field:
    places = np.arange(low, high)
    if wraps:
        places = places % length
    return (places // cell + 0.5) * cell


def _lattice(size: float, length: int, wraps: bool) -> tuple[float, int]:
    """(cell size, cells round the canvas or 0): adjusted to a whole number of cells where the axis wraps."""
    if not wraps:
        return max(size, 1.0), 0
    cells = max(1, round(length / max(size, 1.0)))
    return length / cells, cells


def _value_noise(y: Field, x: Field, wrap_y: int, wrap_x: int, seed: int, layer: int) -> Field:
    """(len(y), len(x)) smooth noise in about [-1, 1]: lattice values, blended by the quintic 6t^5 - 15t^4 + 10t^3."""
    iy, ix = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    ty, tx = _quintic(y - iy)[:, None], _quintic(x - ix)[None, :]
    corners = [
        [_hashed(_wrapped(iy + dy, wrap_y)[:, None], _wrapped(ix + dx, wrap_x)[None, :], seed, layer) for dx in (0, 1)]
        for dy in (0, 1)
    ]
    upper = corners[0][0] * (1 - tx) + corners[0][1] * tx
    lower = corners[1][0] * (1 - tx) + corners[1][1] * tx
    return np.asarray(upper * (1 - ty) + lower * ty)


def _quintic(t: Field) -> Field:
    return np.asarray(t**3 * (t * (6 * t - 15) + 10))


def _wrapped(index: NDArray[np.int64], cells: int) -> NDArray[np.int64]:
    return index % cells if cells else index


def _hashed(y: NDArray[np.int64], x: NDArray[np.int64], seed: int, layer: int) -> Field:
    """Uniform in [-1, 1) by SplitMix64 (Steele et al. 2014) of the address."""
    with np.errstate(over="ignore"):
        state = np.full((), seed % (1 << 64), np.uint64) * _MIX[0] + np.uint64(layer)
        for part in (y.astype(np.uint64), x.astype(np.uint64)):
            state = (state ^ part) * _MIX[0] + _MIX[0]
            state = (state ^ (state >> np.uint64(30))) * _MIX[1]
            state = (state ^ (state >> np.uint64(27))) * _MIX[2]
            state = state ^ (state >> np.uint64(31))
    return np.asarray((state >> np.uint64(11)).astype(np.float64) / 2**52 - 1.0)
