"""Fractal scenes: a class for every place, from a name and a seed, with no map in memory. Knows no model.

A scene has fields of fractal gradient noise over the canvas: elevation, moisture, ridges, and a temperature that
falls with height. A place's class is looked up in them the way biomes are in physical geography (after Whittaker 1975).
Noise is addressed by coordinate (hashed gradients on integer lattices, summed over octaves), so the map of a box is the
crop of the map of the canvas. On wrapping axes the lattices have a whole number of cells round the canvas.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from generation.models.mixes import WORLD, parse_mix
from storage.geometry import Box, Canvas

if TYPE_CHECKING:  # whoever only asks which words there are does not wait for it
    import torch

Field = NDArray[np.floating[Any]]

OCTAVES = 6
TILE = 32
"""Cells along the side of the squares that are computed at once and remembered."""
_GRADIENT_DEVIATION = 0.25
"""Standard deviation of one octave of two-dimensional gradient noise, measured."""
_SHIFT = (0.7549, 0.5698)
"""Lattices of different octaves are moved apart, or all would be zero on the same lines (the R2 sequence's steps)."""
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
    "archipelago": Scene(size=120, sea=0.45, dry=-0.3, cold=-0.2),
    "continent": Scene(size=380, sea=-0.25),
    "rainforest coast": Scene(size=300, sea=0.0, dry=-1.5, cold=-1.0, relief=-0.2),
    "desert mountains": Scene(size=240, sea=-2.2, dry=1.1, cold=-0.3, relief=0.1),
    "northern lakes": Scene(size=110, sea=-0.4, dry=-0.5, cold=1.1),
    "savanna plains": Scene(size=300, sea=-1.2, dry=0.3, cold=-1.3, relief=-0.3),
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


@dataclass(frozen=True)
class Mix:
    """Shares of classes, none for no wish; a map model arranges them. words: the prompt that asked for it."""

    words: str
    shares: Mapping[str, float]


def known_words(names: Sequence[str]) -> list[str]:
    """Everything that a prompt of a model of these classes may be, or be mixed from."""
    scenes = SCENES if set(CLASSES) <= set(names) else ()
    return [*scenes, *names, WORLD]


def parse(prompt: str, names: Sequence[str] = CLASSES) -> Scene | str | Mix:
    """A scene, the name of a single class, or a mix of classes, of a model of these classes.

    Raises ValueError with the known words and the nearest for others.
    """
    words, known = re.sub(r"\s+", " ", prompt.strip().lower()), known_words(names)
    if words in SCENES and words in known:
        return SCENES[words]
    if words in names:
        return words
    try:
        return Mix(words, parse_mix(words, names))
    except KeyError as unknown:
        near = difflib.get_close_matches(unknown.args[0], known, n=1, cutoff=0.4)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(
        f"the model does not know {prompt!r}{hint}; it knows {', '.join(known)},"
        f" and mixes such as '60% {names[0]}, {names[-1]}'"
    )


@dataclass(frozen=True)
class SceneMap:
    """The class map of a scene on a canvas, in cells of `cell` x `cell` latents. Satisfies ClassMap."""

    scene: Scene
    seed: int
    canvas: Canvas
    cell: int
    names: tuple[str, ...]

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64 class ids."""
        import torch

        rows = _cells(box.y0, box.y1, self.cell, self.canvas.height, self.canvas.topology.wraps_y)
        columns = _cells(box.x0, box.x1, self.cell, self.canvas.width, self.canvas.topology.wraps_x)
        ids = np.empty(box.shape, np.int64)
        for y in _runs(rows // TILE):
            for x in _runs(columns // TILE):
                tile = _tile(self, int(rows[y.start]) // TILE, int(columns[x.start]) // TILE)
                ids[y, x] = tile[(rows[y] % TILE)[:, None], columns[x] % TILE]
        return torch.from_numpy(ids)

    def tile(self, ty: int, tx: int) -> NDArray[np.uint8]:
        """(TILE, TILE) class ids of a square of cells."""
        steps = (np.arange(TILE) + 0.5) * self.cell
        origin_y, origin_x = ty * TILE * self.cell, tx * TILE * self.cell
        return self._ids(*np.meshgrid(origin_y + steps, origin_x + steps, indexing="ij")).astype(np.uint8)

    def _ids(self, y: Field, x: Field) -> NDArray[np.int64]:
        """Biome of each place; later lines win. Coordinates are warped first, so that coasts meander."""
        scene = self.scene
        reach = scene.size * 0.06
        y = y + reach * self._fractal(y, x, 8, scene.size * 0.5, octaves=3)
        x = x + reach * self._fractal(y, x, 9, scene.size * 0.5, octaves=3)
        height = self._fractal(y, x, 1, scene.size) - scene.sea
        wet = self._fractal(y, x, 2, scene.size * 0.8) - scene.dry
        warm = self._fractal(y, x, 3, scene.size * 1.6) * 0.6 - scene.cold - np.clip(height, 0, None) * 0.3
        ridges = 1.2 - 2.4 * np.abs(self._fractal(y, x, 4, scene.size * 0.8, octaves=4))
        rough = (
            ridges
            + scene.relief
            + np.clip(height, -1, 1) * 0.5
            + self._fractal(y, x, 5, scene.size * 1.5) * 0.6
        )
        ids = np.full(height.shape, self.names.index("grassland"), np.int64)
        rules = (
            ("farmland", (wet > 0.15) & (rough < 0.0)),
            ("shrubland", wet < -0.45),
            ("savanna", (warm > 0.3) & (wet < 0.1)),
            ("forest", wet > 0.4),
            ("rainforest", (warm > 0.5) & (wet > 0.5)),
            ("desert", (wet < -0.9) & (warm > -0.7)),
            ("tundra", warm < -1.25),
            ("mountains", rough > 1.3),
            ("ice", (warm < -1.9) | ((rough > 1.9) & (warm < -0.6))),
            ("shallow sea", height < 0),
            ("deep ocean", height < -0.3),
        )
        for name, where in rules:
            ids[where] = self.names.index(name)
        return ids

    def _fractal(self, y: Field, x: Field, layer: int, size: float, octaves: int = OCTAVES) -> Field:
        """Sum of octaves of gradient noise, amplitude halving with each; about zero mean and unit variance."""
        total, power = np.zeros(y.shape), 0.0
        for octave in range(octaves):
            cell_y, round_y = _lattice(size / 2**octave, self.canvas.height, self.canvas.topology.wraps_y)
            cell_x, round_x = _lattice(size / 2**octave, self.canvas.width, self.canvas.topology.wraps_x)
            number = layer * 16 + octave
            turned_y, turned_x = y / cell_y + number * _SHIFT[0], x / cell_x + number * _SHIFT[1]
            field = _gradient_noise(turned_y, turned_x, (round_y, round_x), (self.seed, number))
            total += 0.5**octave * field
            power += 0.25**octave
        return np.asarray(total / (_GRADIENT_DEVIATION * np.sqrt(power)))


@dataclass(frozen=True)
class UniformMap:
    """One class everywhere. Satisfies ClassMap."""

    class_id: int

    def read(self, box: Box) -> torch.Tensor:
        import torch

        return torch.full(box.shape, self.class_id, dtype=torch.int64)


@lru_cache(maxsize=256)
def _tile(scene_map: SceneMap, ty: int, tx: int) -> NDArray[np.uint8]:
    """Neighbouring patches, and the steps of a block, ask for the same places."""
    return scene_map.tile(ty, tx)


def _cells(low: int, high: int, cell: int, length: int, wraps: bool) -> NDArray[np.int64]:
    """The cell of each latent of [low, high)."""
    places = np.arange(low, high)
    return np.asarray((places % length if wraps else places) // cell)


def _runs(values: NDArray[np.int64]) -> list[slice]:
    """Where equal values stand beside each other."""
    edges = [0, *(np.flatnonzero(np.diff(values)) + 1).tolist(), len(values)]
    return [slice(low, high) for low, high in pairwise(edges)]


def _lattice(size: float, length: int, wraps: bool) -> tuple[float, int]:
    """(cell size, cells round the canvas or 0): adjusted to a whole number of cells where the axis wraps."""
    if not wraps:
        return max(size, 1.0), 0
    cells = max(1, round(length / max(size, 1.0)))
    return length / cells, cells


def _gradient_noise(y: Field, x: Field, rounds: tuple[int, int], address: tuple[int, int]) -> Field:
    """Perlin's gradient noise (Perlin 1985, with the quintic fade of 2002): zero on the lattice, continuous slopes."""
    iy, ix = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    ty, tx = y - iy, x - ix
    fade_y, fade_x = _quintic(ty), _quintic(tx)
    total = np.zeros(y.shape)
    for dy in (0, 1):
        for dx in (0, 1):
            angle = np.pi * _hashed(_wrapped(iy + dy, rounds[0]), _wrapped(ix + dx, rounds[1]), *address)
            slope = np.sin(angle) * (ty - dy) + np.cos(angle) * (tx - dx)
            total += slope * (fade_y if dy else 1 - fade_y) * (fade_x if dx else 1 - fade_x)
    return total


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
