"""What a batch takes on disk, before it is drawn. Knows pixels and free bytes; draws nothing.

A guess, but for its lower end: pictures that compress better than LEAST are next to uniform.
"""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from cluster.datasets.extras import Extras
from cluster.datasets.names import DATA, PARTS, WORK
from cluster.datasets.plan import ROW_BYTES, Batch
from cluster.machine import nearest_existing
from cluster.spec.fields import SpecError
from cluster.wording import gigabytes

LOG = logging.getLogger(__name__)
CLASS_MAP_MODEL, OTHER_MODELS = 1.2, 2.0
"""Bytes of PNG for a pixel, masks included. The embedded model's pictures take 0.8 (deep ocean) to 1.9 (mountains),
1.13 in the mean of 71 pictures of five scenes; photographs, which other models are trained on, take about 2."""
LEAST = 0.05
GIANT_WORK = 12.0
"""Bytes for a pixel of a large picture under way: its latents, twice, and its master."""


@dataclass(frozen=True)
class DiskNeed:
    """What is still to be written: `expected` bytes, by all odds; `least`, for certain; `free`, where it goes."""

    pictures: int
    pixels: int
    expected: int
    least: int
    free: int
    folder: Path

    @property
    def is_tight(self) -> bool:
        return self.expected > self.free

    @property
    def megapixels(self) -> str:
        return f"{self.pixels / 1e6:,.{0 if self.pixels >= 10**8 else 1}f}"

    def line(self) -> str:
        """ "disk: about 1.3 GB for 1,000 pictures (66 megapixels), 44 GB free at /data"."""
        many = f"{self.pictures:,} picture{'s' * (self.pictures != 1)} ({self.megapixels} megapixels)"
        line = (
            f"disk: about {gigabytes(self.expected)} for {many}, {gigabytes(self.free)} free at {self.folder}"
        )
        return f"{line}; it may not fit: choose another --out, or fewer pictures" if self.is_tight else line

    def check(self) -> None:
        """Raises SpecError where it cannot fit."""
        if self.least > self.free:
            raise SpecError(
                f"{self.pictures:,} pictures of {self.megapixels} megapixels need at least "
                f"{gigabytes(self.least)} of disk, {gigabytes(self.free)} are free at {self.folder}; "
                "choose another --out, or fewer pictures"
            )


def disk_need(batch: Batch, extras: Extras, free: int | None = None) -> DiskNeed:
    """Bytes that a planned batch needs: for its shards, the parts of the largest beside them, a large picture at
    work, the extras.
    """
    extent = batch.extent
    typical = CLASS_MAP_MODEL if batch.info.class_names else OTHER_MODELS
    copies = 1 + extras.webdataset + extras.folders
    folder = nearest_existing(batch.out)
    present = sum(_bytes_in(batch.out / name) for name in (DATA, f"{WORK}/{PARTS}"))
    kept = extent.pixels * typical + batch.requests * ROW_BYTES / 8
    beside = extent.largest_shard * typical + extent.largest_giant * GIANT_WORK
    return DiskNeed(
        pictures=batch.requests,
        pixels=extent.pixels,
        expected=max(0, int(copies * kept + beside - present)),
        least=max(0, int(copies * extent.pixels * LEAST - present)),
        free=shutil.disk_usage(folder).free if free is None else free,
        folder=folder,
    )


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.parquet")) if folder.is_dir() else 0


def warn_if_tight(need: DiskNeed) -> None:
    """For those who call from Python."""
    if need.is_tight:
        LOG.warning("%s", need.line())
