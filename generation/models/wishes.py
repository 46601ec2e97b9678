"""What a map model is asked for, place by place: shares of classes that drift over the canvas. Knows no network.

A mix of several classes, asked for everywhere alike, gives a patchwork. So each class of the mix has regions in which
it is asked for more than elsewhere, about SIZE cells wide:

    wish(y, x) = sum_i w_i(y, x) (mix + e_i) / 2,    w_i ~ mix_i exp(a F_i(y, x))

F_i are sums of waves, with whole numbers of waves round the canvas, so that wishes wrap where it does. "world" is made
of climates instead, which follow each other with the warmth of a place (a field F too), and of oceans:

    w_climate ~ land exp(-b (F_warmth - warmth_climate)^2),    w_ocean ~ ocean exp(a F_ocean)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box

SIZE = 45
WAVES = 6
STRENGTH, NARROWNESS = 2.0, 3.0
_KEY = 0x3D1F7
Fields = NDArray[np.float64]
Mix = Mapping[str, float]

OCEAN: Mix = {"deep ocean": 0.85, "shallow sea": 0.15}
LAND_SHARE = 0.6
CLIMATES: Sequence[tuple[float, Mix]] = (
    (-1.7, {"ice": 0.5, "tundra": 0.35, "shallow sea": 0.15}),
    (-0.9, {"forest": 0.5, "tundra": 0.2, "mountains": 0.2, "shallow sea": 0.1}),
    (-0.2, {"grassland": 0.3, "farmland": 0.35, "forest": 0.2, "mountains": 0.15}),
    (0.5, {"desert": 0.55, "shrubland": 0.25, "mountains": 0.2}),
    (1.4, {"rainforest": 0.5, "savanna": 0.3, "mountains": 0.1, "shallow sea": 0.1}),
)
"""(warmth, in deviations of its field; mix) of each climate, the coldest first."""


@dataclass(frozen=True)
class Wish:
    """A wish on a canvas of height x width cells; no shares are the world, or nothing where its classes are unknown."""

    shares: Mix
    names: tuple[str, ...]
    height: int
    width: int
    seed: int

    def read(self, box: Box) -> NDArray[np.float32]:
        """(K, h, w) shares of the classes."""
        if self.shares:
            weights, mixes = self._of_mix(box)
        elif all(set(mix) <= set(self.names) for mix in (OCEAN, *(mix for _, mix in CLIMATES))):
            weights, mixes = self._of_world(box)
        else:
            return np.zeros((len(self.names), *box.shape), np.float32)
        table = np.array([[mix.get(name, 0.0) for name in self.names] for mix in mixes])
        blend = np.einsum("ihw,ic->chw", weights / weights.sum(axis=0), table)
        return np.asarray(blend, np.float32)

    def _of_mix(self, box: Box) -> tuple[Fields, list[Mix]]:
        fields = self._fields(box, len(self.shares))
        shares = np.array(list(self.shares.values()))[:, None, None]
        stressed = [
            {name: (share + (name == chosen)) / 2 for name, share in self.shares.items()}
            for chosen in self.shares
        ]
        return shares * np.exp(STRENGTH * fields), list(stressed)

    def _of_world(self, box: Box) -> tuple[Fields, list[Mix]]:
        warmth, ocean = self._fields(box, 2)
        near = np.stack([np.exp(-NARROWNESS * (warmth - centre) ** 2) for centre, _ in CLIMATES])
        land = LAND_SHARE * near / near.sum(axis=0)
        sea = (1 - LAND_SHARE) * np.exp(STRENGTH * ocean)
        return np.concatenate([land, sea[None]]), [*(mix for _, mix in CLIMATES), OCEAN]

    def _fields(self, box: Box, number: int) -> Fields:
        """(number, h, w) sums of waves of unit deviation."""
        random = np.random.Generator(np.random.Philox(key=np.array([self.seed % (1 << 64), _KEY], np.uint64)))
        angles = random.uniform(0, 2 * np.pi, (number, WAVES))
        sizes = SIZE * random.uniform(0.6, 1.6, (number, WAVES))
        phases = random.uniform(0, 2 * np.pi, (number, WAVES))
        rounds_y = np.rint(np.sin(angles) * self.height / (2 * sizes))
        rounds_x = np.rint(np.cos(angles) * self.width / (2 * sizes))
        y = np.arange(box.y0, box.y1)[:, None] / self.height
        x = np.arange(box.x0, box.x1)[None] / self.width
        turns = 2 * np.pi * (rounds_y[..., None, None] * y + rounds_x[..., None, None] * x)
        return np.asarray(np.cos(turns + phases[..., None, None]).sum(axis=1) / np.sqrt(WAVES / 2))
