"""Pixels and light: sRGB bytes, linear light, and means of two by two in linear light. Knows no levels and no files.

Everything goes by lookups of 16 bits at most, strip by strip, so that what is worked on stays in a core's cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels8 = NDArray[np.uint8]
Linear = NDArray[np.float32]
Pixels = NDArray[np.uint8 | np.floating[Any]]

STRIP_ROWS = 64


def to_u8(pixels: Pixels) -> Pixels8:
    """sRGB pixels as they are stored: floating point in [0, 1] is clipped and rounded."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    stored = np.empty(pixels.shape, np.uint8)
    for rows in strips(len(pixels)):
        stored[rows] = _grid(pixels[rows], 255).astype(np.uint8)
    return stored


def reduce_half(linear: Linear) -> Linear:
    """2 x 2 box mean of (height, width, 3) in linear light, ceil halves.

    An odd border is replicated, so that its last pixel is the mean of what exists there:

        a b | c        (a + b + d + e) / 4    (c + f) / 2
        d e | f   ->
        ----+--        (g + h) / 2             i
        g h | i
    """
    height = len(linear)
    rows = linear[0 : height - 1 : 2] + linear[1::2]
    if height % 2:
        rows = np.concatenate([rows, 2 * linear[-1:]])
    return _half_of_row_sums(rows)


def _half_of_row_sums(rows: Linear) -> Linear:
    """Quarters of the sums of two columns each, where a row already is the sum of two."""
    height, width, _ = rows.shape
    half = np.empty((height, -(-width // 2), 3), np.float32)
    whole_columns = width // 2
    for channel in range(3):  # long strided loops: several times faster than one over (..., 2, 3)
        left, right = rows[:, 0 : width - 1 : 2, channel], rows[:, 1::2, channel]
        np.add(left, right, out=half[:, :whole_columns, channel])
    if width % 2:
        half[:, -1] = 2 * rows[:, -1]
    half *= np.float32(0.25)
    return half


def reduce_half_srgb(pixels: Pixels) -> Linear:
    """`reduce_half(srgb_to_linear(pixels))`, strip by strip: the same bytes, without the full-size linear copy."""
    height, width, _ = pixels.shape
    half = np.empty((-(-height // 2), -(-width // 2), 3), np.float32)
    for rows in strips(height):
        strip = pixels[rows]
        reduced = half[rows.start // 2 : -(-rows.stop // 2)]
        if strip.dtype == np.uint8:
            reduced[:] = _half_of_row_sums(_row_sums_of_u8(strip.astype(np.uint8, copy=False)))
        else:
            reduced[:] = reduce_half(srgb_to_linear(strip))
    return half


def _row_sums_of_u8(pixels: Pixels8) -> Linear:
    """Two rows each in linear light, added by looking up the pair of bytes; a last odd row is added to itself."""
    upper, lower = pixels[0::2], pixels[1::2]
    if len(lower) < len(upper):
        lower = np.concatenate([lower, pixels[-1:]])
    return np.take(_sums_of_u8_pairs(), (upper.astype(np.uint16) << 8) | lower)


def srgb_to_linear(pixels: Pixels) -> Linear:
    """Linear light in [0, 1] of sRGB pixels: uint8, or floating point in [0, 1]."""
    if pixels.dtype == np.uint8:
        return np.take(_linear_of_u8(), pixels.astype(np.uint8, copy=False))  # half the time of indexing
    return np.take(_linear_of_u16(), _grid(pixels, 65535).astype(np.uint16))


def linear_to_srgb_u8(linear: Linear) -> Pixels8:
    """The sRGB bytes of linear light, clipped to [0, 1] and rounded; the inverse of `srgb_to_linear` on every byte."""
    stored = np.empty(linear.shape, np.uint8)
    lookup = _u8_of_linear()
    for rows in strips(len(linear)):
        stored[rows] = np.take(lookup, _grid(linear[rows], 65535).astype(np.uint16))
    return stored


def _grid(values: Pixels, steps: int) -> Linear:
    """Values in [0, 1] on a scale of 0 to `steps`, moved up by half a step so that cutting the fraction rounds."""
    scaled = np.clip(values, 0, 1).astype(np.float32, copy=False)
    return scaled * np.float32(steps) + np.float32(0.5)


def strips(height: int) -> Iterator[slice]:
    return (slice(top, min(top + STRIP_ROWS, height)) for top in range(0, height, STRIP_ROWS))


@cache
def _linear_of_u16() -> Linear:
    """IEC 61966-2-1: V <= 0.04045: V / 12.92, else ((V + 0.055) / 1.055) ** 2.4."""
    encoded = np.arange(65536) / 65535
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.float32)


@cache
def _linear_of_u8() -> Linear:
    return np.ascontiguousarray(_linear_of_u16()[::257])  # 65535 = 257 * 255


@cache
def _sums_of_u8_pairs() -> Linear:
    """At 256 a + b: the linear light of byte a and of byte b, added."""
    linear = _linear_of_u8()
    return np.ascontiguousarray(linear[:, None] + linear[None, :]).ravel()


@cache
def _u8_of_linear() -> Pixels8:
    """One step of linear light is at most 0.05 of a byte, even where the curve is steepest."""
    linear = np.arange(65536) / 65535
    encoded = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    stored: Pixels8 = np.rint(encoded * 255).astype(np.uint8)
    return stored
