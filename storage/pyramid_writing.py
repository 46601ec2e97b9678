"""Writes the levels of a picture: the boxes of one task, into every output, in one pass. Knows no file format."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from storage.formats.contract import PyramidFormat
from storage.light import Pixels, Pixels8, linear_to_srgb_u8, reduce_half, reduce_half_srgb, strips, to_u8
from storage.pyramid import PyramidLayout, PyramidTask

S = TypeVar("S", bound=np.generic)


def write_superblock(
    outputs: Sequence[PyramidFormat], layout: PyramidLayout, task: PyramidTask, pixels: Pixels
) -> None:
    """Write every box of a task, from the pixels of `layout.reads(task)`, into every output, in one pass.

    Pixels are (height, width, 3) sRGB: uint8, or floating point in [0, 1]. A task that is run again writes the same
    bytes again.
    """
    write_bands(outputs, layout, task, [pixels])


def write_bands(
    outputs: Sequence[PyramidFormat], layout: PyramidLayout, task: PyramidTask, bands: Iterable[Pixels]
) -> None:
    """Write every box of a task into every output, from bands of rows, from the top: of any heights, and none is
    needed once the next is asked for.
    """
    places = layout.writes(task)
    stored = [np.empty((*place.box.shape, 3), np.uint8) for place in places]
    rows, levels = _even(_strips_of(layout, task, bands)), iter(stored)
    if task.group == 0:
        rows = _storing(rows, next(levels), to_u8)
    linear = map(reduce_half_srgb, rows)
    for level in levels:
        linear = map(reduce_half, _even(_storing(linear, level, linear_to_srgb_u8)))
    deque(linear, maxlen=0)
    for place, pixels in zip(places, stored, strict=True):
        for output in outputs:
            output.write_level(place.level, place.box, pixels)


def _strips_of(layout: PyramidLayout, task: PyramidTask, bands: Iterable[Pixels]) -> Iterator[Pixels]:
    """Few rows at a time, so that in linear light there never are many. Raises ValueError unless they are a task's."""
    height, width = layout.reads(task).box.shape
    top = 0
    for band in bands:
        if band.shape[1:] != (width, 3) or top + len(band) > height:
            raise ValueError(
                f"{task} writes from pixels of shape {(height, width, 3)}; rows {top} on are {band.shape}"
            )
        top += len(band)
        yield from (band[rows] for rows in strips(len(band)))
    if top < height:
        raise ValueError(f"{task} writes from pixels of shape {(height, width, 3)}; there are {top} rows")


def _storing(
    bands: Iterable[NDArray[S]], level: Pixels8, encode: Callable[[NDArray[S]], Pixels8]
) -> Iterator[NDArray[S]]:
    """Passes bands on, each written into its rows of a level as it passes."""
    top = 0
    for band in bands:
        level[top : top + len(band)] = encode(band)
        top += len(band)
        yield band


def _even(bands: Iterable[NDArray[S]]) -> Iterator[NDArray[S]]:
    """Rows in bands of even heights, for two make one of the next level; but for the last."""
    over: NDArray[S] | None = None
    for fresh in bands:
        band = fresh if over is None else np.concatenate([over, fresh])
        even = len(band) - len(band) % 2
        if even:
            yield band[:even]
        over = band[even:] if even < len(band) else None
    if over is not None:
        yield over


def cut(bands: Iterable[Pixels], rows: slice, columns: slice) -> Iterator[Pixels]:
    """The part of bands of rows that lies in a rectangle of the whole."""
    top = 0
    for band in bands:
        part = band[max(0, rows.start - top) : max(0, rows.stop - top), columns]
        top += len(band)
        if len(part):
            yield part
