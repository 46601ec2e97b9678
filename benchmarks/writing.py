"""How fast pictures are written: our Deep Zoom tiles beside libvips' on the same pixels, on one core, in one run.

    python benchmarks/writing.py                      # pixels of noise at several scales
    python benchmarks/writing.py out/islands          # those of a finished job; needs the extra `export`

Megapixels of level 0 a second of processor time, which a busy machine disturbs less than time on the wall; rounds
alternate and the best of each is kept. Both write JPEG tiles of 512 pixels, quality 90, 4:4:4, to memory where /dev/shm
is there: once level 0 alone, once every level down to 1 x 1 (ours are means in linear light, libvips' of sRGB values).
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["VIPS_CONCURRENCY"] = "1"  # read when libvips is loaded

import numpy as np
import pyvips
from numpy.typing import NDArray

from storage.exports.picture import Picture
from storage.formats.deep_zoom import DeepZoom, encode
from storage.formats.ome_zarr import OmeZarr
from storage.geometry import Box
from storage.light import linear_to_srgb_u8, reduce_half, reduce_half_srgb
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock

SIDE, ROUNDS = 4096, 5
TILES = ".jpg[Q=90,subsample_mode=off]"


def some_pixels() -> NDArray[np.uint8]:
    """Structure at several scales, about as hard for JPEG as a landscape."""
    random = np.random.default_rng(0)
    total = np.zeros((SIDE, SIDE, 3), np.float32)
    for cell in (2, 8, 32, 128, 512):
        coarse = random.standard_normal((SIDE // cell, SIDE // cell, 3), np.float32)
        total += coarse.repeat(cell, axis=0).repeat(cell, axis=1) * cell**0.4
    return np.clip(128 + 4 * total, 0, 255).astype(np.uint8)


def pixels_of(folder: Path) -> NDArray[np.uint8]:
    picture = Picture.open(folder)
    box = Box(0, min(SIDE, picture.height), 0, min(SIDE, picture.width))
    return picture.read(0, box)


def ours(pixels: NDArray[np.uint8], folder: Path) -> None:
    """As a job writes: superblocks with the levels below them, then the reductions, which read the one before."""
    layout = PyramidLayout(pixels.shape[1], pixels.shape[0])
    read_again = [layout.read_level(group) for group in range(1, layout.groups)]
    levels = {level: np.empty((*layout.size(level), 3), np.uint8) for level in read_again}

    class Kept(DeepZoom):
        def write_level(self, level: int, box: Box, stored: NDArray[np.uint8]) -> None:
            if level in levels:
                levels[level][box.y0 : box.y1, box.x0 : box.x1] = stored
            super().write_level(level, box, stored)

    tiles = Kept(folder, layout)
    tiles.create()
    for group in range(layout.groups):
        for task in layout.tasks(group):
            start = layout.reads(task)
            source = levels[start.level] if group else pixels
            write_superblock(
                [tiles], layout, task, source[start.box.slices_in(layout.whole(start.level).box)]
            )
    tiles.finish()


def ours_level_0(pixels: NDArray[np.uint8], folder: Path) -> None:
    layout = PyramidLayout(pixels.shape[1], pixels.shape[0])
    tiles = DeepZoom(folder, layout)
    tiles.create()
    for task in layout.tasks(0):
        box = layout.reads(task).box
        tiles.write_level(0, box, pixels[box.slices_in(layout.whole(0).box)])


def libvips(depth: str) -> Callable[[NDArray[np.uint8], Path], None]:
    def write(pixels: NDArray[np.uint8], folder: Path) -> None:
        folder.mkdir()
        image = pyvips.Image.new_from_array(pixels).copy(interpretation="srgb")
        image.dzsave(str(folder / "image"), tile_size=512, overlap=0, depth=depth, suffix=TILES)

    return write


def master(pixels: NDArray[np.uint8], folder: Path) -> None:
    """Level 0 of the OME-Zarr image, for comparison."""
    layout = PyramidLayout(pixels.shape[1], pixels.shape[0])
    image = OmeZarr(folder, layout)
    image.create()
    for task in layout.tasks(0):
        box = layout.reads(task).box
        image.write_level(0, box, pixels[box.slices_in(layout.whole(0).box)])


def encoding_alone(pixels: NDArray[np.uint8], folder: Path) -> None:
    """The tiles of level 0, written nowhere."""
    for y in range(0, pixels.shape[0], 512):
        for x in range(0, pixels.shape[1], 512):
            encode(pixels[y : y + 512, x : x + 512], "jpg")


def halving_alone(pixels: NDArray[np.uint8], folder: Path) -> None:
    """Levels 1 to 3, superblock by superblock, stored nowhere."""
    for y in range(0, pixels.shape[0], 2048):
        for x in range(0, pixels.shape[1], 2048):
            linear = reduce_half_srgb(pixels[y : y + 2048, x : x + 2048])
            linear_to_srgb_u8(linear)
            for _ in range(2):
                linear = reduce_half(linear)
                linear_to_srgb_u8(linear)


WRITERS: dict[str, Callable[[NDArray[np.uint8], Path], None]] = {
    "level 0, ours": ours_level_0,
    "level 0, libvips": libvips("one"),
    "pyramid, ours": ours,
    "pyramid, libvips": libvips("onepixel"),
    "of ours: encoding level 0": encoding_alone,
    "of ours: halving": halving_alone,
    "OME-Zarr level 0": master,
}


def processor_seconds(write: Callable[[NDArray[np.uint8], Path], None], pixels: NDArray[np.uint8]) -> float:
    scratch = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        started = time.process_time()
        write(pixels, Path(folder) / "written")
        return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("job", nargs="?", type=Path)
    chosen = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    pixels = some_pixels() if chosen.job is None else pixels_of(chosen.job)
    megapixels = pixels.shape[0] * pixels.shape[1] / 1e6
    best = dict.fromkeys(WRITERS, float("inf"))
    for _ in range(ROUNDS):
        for name, write in WRITERS.items():
            best[name] = min(best[name], processor_seconds(write, pixels))
    print(f"{pixels.shape[1]} x {pixels.shape[0]} pixels, one core, best of {ROUNDS} rounds")
    for name, seconds in best.items():
        print(f"{name:<26} {megapixels / seconds:7.1f} Mpx/s")


if __name__ == "__main__":
    main()
