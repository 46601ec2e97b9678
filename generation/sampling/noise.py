"""Gaussian noise addressed by place. Knows seeds, purposes, steps and coordinates; knows no canvas size, no block.

One infinite field of standard normals for every (seed, purpose, step, draw). It is laid out in tiles of
32 x 32 latents; a tile's values come from a Philox counter-based generator (Salmon et al. 2011, "Parallel random
numbers: as easy as 1, 2, 3") whose key and counter are the address:

    key     = (seed, purpose << 32 | draw)
    counter = (position in the tile's stream, tile x, tile y, step)

so the noise of a box is the crop of the noise of any larger box, wherever and whenever it is computed.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from storage.geometry import Box, Canvas

TILE = 32
_WORD = 1 << 64


class Purpose(IntEnum):
    """What a draw is for; different purposes never share numbers."""

    START = 0
    STEP = 1
    PATCHES = 2


def noise(
    seed: int, purpose: Purpose, step: int, channels: int, box: Box, canvas: Canvas, draw: int = 0
) -> NDArray[np.float32]:
    """(channels, h, w) standard normals of a latent box; on wrapping axes, coordinates are taken modulo the canvas."""
    out = np.empty((channels, *box.shape), np.float32)
    filled = 0
    for piece, home in canvas.split_at_edges(box):
        rows, columns = piece.slices_in(box)
        out[:, rows, columns] = _plane_noise(seed, purpose, step, draw, channels, home)
        filled += piece.area
    if filled != box.area:
        raise ValueError(f"{box} leaves a {canvas.topology.name} of {canvas.height} x {canvas.width} latents")
    return out


def _plane_noise(
    seed: int, purpose: Purpose, step: int, draw: int, channels: int, box: Box
) -> NDArray[np.float32]:
    out = np.empty((channels, *box.shape), np.float32)
    tiles = box.covering(TILE)
    for ty in range(tiles.y0, tiles.y1):
        for tx in range(tiles.x0, tiles.x1):
            frame = Box(ty, ty + 1, tx, tx + 1).scaled(TILE)
            part = frame.intersection(box)
            assert part is not None
            tile = _tile_noise(seed, purpose, step, draw, channels, ty, tx)
            out[(slice(None), *part.slices_in(box))] = tile[(slice(None), *part.slices_in(frame))]
    return out


def _tile_noise(
    seed: int, purpose: Purpose, step: int, draw: int, channels: int, ty: int, tx: int
) -> NDArray[np.float32]:
    """(channels, TILE, TILE); channel c's numbers do not depend on how many channels follow it."""
    key = np.array([seed % _WORD, (int(purpose) << 32) | draw], np.uint64)
    counter = np.array([0, tx % _WORD, ty % _WORD, step], np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key, counter=counter))
    return generator.standard_normal((channels, TILE, TILE), dtype=np.float32)
