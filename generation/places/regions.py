"""Regions of a canvas that are told different words: which lie in a patch, and their weights. Knows no prompt, no file.

    b_r = (K_r * 1[map = r]) / sum_q (K_q * 1[map = q])     how much of a latent is region r's
    w_r = a_r b_r,  w_0 = b_0 + sum_r (1 - a_r) b_r         a_r: its strength; what it leaves is the picture's, r = 0

(Bar-Tal et al. 2023, "MultiDiffusion", and Jimenez 2023, "Mixture of Diffusers", combine regions' predictions by such
weights.) K_r is a tent, the square of a box n latents wide, along both axes: a straight border becomes a curve without
a kink over 2 (n - 1) latents, and n = 1 leaves it hard. Sums over boxes of zeros and ones are whole numbers, so a
latent's weights are the same bits whichever patch asks for them.

    map      0 0 0 0 3 3 3 3        n = 3
    9 b_3    0 0 1 3 6 8 9 9
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from generation.models.contracts import Conditioner
from generation.sampling.covers import Patch
from storage.geometry import Box, Canvas

if TYPE_CHECKING:
    from generation.sampling.parts import Part

Ids = NDArray[np.uint8]
MOST_REGIONS = 253
"""Beside region 0: what a byte tells apart, as labels of a picture do."""


class Layer(Protocol):
    """Something that puts regions on a map."""

    def paint(self, ids: Ids, box: Box) -> None:
        """Write region numbers over those of a latent box, where the layer has any. The box may wrap or hang over."""


@dataclass(frozen=True)
class RegionMap:
    """Which region each latent is in: 0, then what each layer puts over those before it.

    height, width: latents of the picture, of which the canvas may hold a surplus.
    """

    canvas: Canvas
    height: int
    width: int
    layers: tuple[Layer, ...]

    def read(self, box: Box) -> Ids:
        """(h, w) of a latent box. Beyond an edge of the picture that does not wrap lies what lies at the edge."""
        wraps = self.canvas.topology
        rows, columns = np.arange(box.y0, box.y1), np.arange(box.x0, box.x1)
        rows = rows if wraps.wraps_y else rows.clip(0, self.height - 1)
        columns = columns if wraps.wraps_x else columns.clip(0, self.width - 1)
        seen = Box(int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1)
        ids = np.zeros(seen.shape, np.uint8)
        for layer in self.layers:
            layer.paint(ids, seen)
        return ids if seen == box else ids[np.ix_(rows - seen.y0, columns - seen.x0)]


@dataclass(frozen=True)
class Region:
    """strength: share of the region's own words, in (0, 1]. blend: side n of the boxes of its tent, in latents.

    words: number of what it is told; regions may share it. null: of its unconditional end.
    """

    words: int
    null: int = 0
    strength: float = 1.0
    blend: int = 1


@dataclass(frozen=True)
class Regions:
    """The regions of a canvas, by number; region 0 is the picture itself. Knows what is told where, not in which words.

    A patch has no part for words that count nowhere in what it owns.
    """

    map: RegionMap
    regions: tuple[Region, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.regions) <= MOST_REGIONS + 1:
            raise ValueError(f"{len(self.regions) - 1} regions; there may be up to {MOST_REGIONS}")

    def words(self, patch: Patch) -> tuple[int, ...]:
        """What a patch is told, ascending; found without computing weights."""
        return tuple(sorted({self.regions[region].words for region in self._present(patch.owns)}))

    def count(self, patch: Patch) -> tuple[int, int]:
        """Different words in a patch, and different nulls."""
        present = self._present(patch.owns)
        nulls = {self.regions[region].null for region in present}
        return len({self.regions[region].words for region in present}), len(nulls)

    def weights(self, box: Box) -> Mapping[int, NDArray[np.float32]]:
        """(h, w) weights of all words that count somewhere in a latent box, by their numbers; they sum to one."""
        shares = self._shares(box)
        total = np.sum(list(shares.values()), axis=0)
        found: dict[int, NDArray[np.float64]] = {}
        for number, share in shares.items():
            region = self.regions[number]
            _add(found, region.words, region.strength * (share / total))
            if region.strength < 1:
                _add(found, self.regions[0].words, (1 - region.strength) * (share / total))
        return {words: found[words].astype(np.float32) for words in sorted(found)}

    def _shares(self, box: Box) -> dict[int, NDArray[np.float64]]:
        """K_r * 1[map = r] of the regions that reach into a box, ascending."""
        reach = max(region.blend for region in self.regions) - 1
        ids = self.map.read(box.expanded(reach))
        shares: dict[int, NDArray[np.float64]] = {}
        for number in np.unique(ids).tolist():
            blend = self.regions[number].blend
            margin = reach - (blend - 1)
            near = ids[margin : ids.shape[0] - margin, margin : ids.shape[1] - margin]
            share = tent(near == number, blend)
            if share.any():
                shares[number] = share
        return shares

    def _present(self, box: Box) -> set[int]:
        """Regions with a weight above zero somewhere in a box."""
        reaches = sorted({region.blend - 1 for region in self.regions})
        ids = self.map.read(box.expanded(reaches[-1]))
        found: set[int] = set()
        for reach in reaches:
            margin = reaches[-1] - reach
            near = np.unique(ids[margin : ids.shape[0] - margin, margin : ids.shape[1] - margin]).tolist()
            found.update(number for number in near if self.regions[number].blend - 1 == reach)
        if any(self.regions[number].strength < 1 for number in found):
            found.add(0)
        return found


def tent(inside: NDArray[np.bool_], blend: int) -> NDArray[np.float64]:
    """(h + 2 (n - 1), w + 2 (n - 1)) zeros and ones -> (h, w) in [0, 1]: their mean under the tent of n = `blend`."""
    if blend == 1:
        return inside.astype(np.float64)
    sums = inside.astype(np.int64)
    for _ in range(2):
        sums = _box_sums(_box_sums(sums, blend).T, blend).T
    return np.asarray(sums / float(blend) ** 4)


def _box_sums(values: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """(h, w) -> (h - width + 1, w): sums of `width` neighbours along the first axis."""
    running = np.concatenate([np.zeros((1, values.shape[1]), np.int64), values.cumsum(axis=0)])
    return np.asarray(running[width:] - running[:-width])


def _add(sums: dict[int, NDArray[np.float64]], key: int, term: NDArray[np.float64]) -> None:
    sums[key] = sums[key] + term if key in sums else term


@dataclass(frozen=True)
class RegionalWords:
    """Regions with conditioners for what they are told, by number. Satisfies Mixture."""

    regions: Regions
    conditioners: Mapping[int, Conditioner]

    def parts(self, step: int, patch: Patch) -> Sequence[Part]:
        """One for each of the patch's words, ascending; alone, it counts everywhere."""
        del step
        present = self.regions.words(patch)
        if len(present) == 1:
            return (self._part(present[0], None),)
        weights = self.regions.weights(patch.box)
        return tuple(self._part(words, weights[words]) for words in present)

    def _part(self, words: int, weights: NDArray[np.float32] | None) -> Part:
        from generation.sampling.parts import Part  # which imports PyTorch; plans only count

        null = next(region.null for region in self.regions.regions if region.words == words)
        return Part(self.conditioners[words], weights, null)

    def count(self, step: int, patch: Patch) -> tuple[int, int]:
        del step
        return self.regions.count(patch)
