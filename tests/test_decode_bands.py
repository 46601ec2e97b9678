"""Decoding in bands: the same pixels as at once, row of tiles by row of tiles, and never more of them than that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_four_shift import CPU, Normalising, decoded, field

from generation.decoding.decode import Blend, Tiling, decode_bands
from generation.decoding.four_shift import FourShift
from storage.geometry import TOPOLOGIES, Box, Canvas

SCALE = 2
BLENDS = {
    "local": lambda canvas: Tiling(canvas, SCALE, 12, 2, local=True),
    "hann": lambda canvas: Tiling(canvas, SCALE, 12, 2, local=False),
    "four-shift": lambda canvas: FourShift(canvas, SCALE, 8),
}


def at_once(codec: Normalising, blend: Blend, latents: np.ndarray, box: Box) -> np.ndarray:
    """Every tile into one array of the whole box, as the formulas of the blends say."""
    pixels = np.zeros((box.height * SCALE, box.width * SCALE, 3), np.float32)
    for tile in blend.tiles_over(box):
        part = box.intersection(tile.source)
        if part is None:
            continue
        rows = [y % blend.canvas.height for y in range(tile.source.y0, tile.source.y1)]
        columns = [x % blend.canvas.width for x in range(tile.source.x0, tile.source.x1)]
        seen = torch.from_numpy(np.ascontiguousarray(latents[:, rows][:, :, columns]))[None]
        drawn = (codec.decode(seen)[0] * 0.5 + 0.5).permute(1, 2, 0).numpy()
        inside = drawn[part.scaled(SCALE).slices_in(tile.source.scaled(SCALE))].copy()
        blend.lay(pixels[part.scaled(SCALE).slices_in(box.scaled(SCALE))], inside, tile, part)
    return pixels.clip(0, 1)


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("kind", BLENDS)
def test_bands_are_the_whole(kind: str, topology: str) -> None:
    canvas = Canvas(43, 30, TOPOLOGIES[topology])
    blend, latents, codec = BLENDS[kind](canvas), field(canvas), Normalising(SCALE)
    boxes = [canvas.box, Box(5, 38, 3, 29), Box(17, 18, 0, 1)]
    if canvas.topology.wraps_y:
        boxes.append(Box(-7, 20, -4, 22))
    for box in boxes:
        np.testing.assert_array_equal(
            decoded(codec, blend, latents, box), at_once(codec, blend, latents, box)
        )


@pytest.mark.parametrize("kind", ["local", "hann"])
def test_a_band_is_a_row_of_tiles(kind: str) -> None:
    """A core of 8 latents, and it comes before the next row is decoded; the last has what is left."""
    canvas, asked = Canvas(43, 30), []

    def read(box: Box) -> np.ndarray:
        asked.append(box.y0)
        return np.zeros((3, *box.shape), np.float32)

    heights = []
    for band in decode_bands(Normalising(SCALE), BLENDS[kind](canvas), canvas.box, read, CPU):
        assert band.base is None  # nothing larger is kept for its sake
        heights.append(len(band) // SCALE)
        assert len(set(asked)) == len(heights)
    assert sum(heights) == canvas.height
    assert set(heights[1:-1]) == {8}
    assert heights[-1] <= 8 + 4 + 2
