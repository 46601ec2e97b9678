"""A job's folder that grows as a running job's does, step by step, without one. Not a test itself."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cluster.following.events import Event, JobFinished, JobStarted, StageTotal, TaskDone
from cluster.following.preview import PreviewWriter
from cluster.following.progress import EVENTS, JsonLines
from cluster.following.status import LEDGER
from cluster.spec import job_file
from cluster.spec.fields import JobSpec
from storage.arrays import ArraySpec, ArrayStore
from storage.formats.contract import PyramidFormat
from storage.formats.deep_zoom import DeepZoom
from storage.formats.ome_zarr import OmeZarr
from storage.ledger import Ledger, Written
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.page import Page, write_page

WIDTH, HEIGHT, TILE, SUPERBLOCK = 512, 256, 64, 256
LATENTS, BLOCK = (32, 64), 16
BLOCKS, STEPS = 8, 3
COARSE, FINE = (176, 40, 160), (48, 176, 72)
"""Colours of the preview and of the finished tiles."""


class GrowingJob:
    """Begun on construction: 2 x 4 blocks, three denoising stages, two superblocks, one reduction."""

    def __init__(self, folder: Path, prompt: str = "islands", *, deep_zoom: bool = True) -> None:
        self.folder = folder
        self.layout = PyramidLayout(WIDTH, HEIGHT, TILE, SUPERBLOCK)
        self.formats: list[PyramidFormat] = [OmeZarr(folder, self.layout)]
        if deep_zoom:
            self.formats.append(DeepZoom(folder, self.layout))
        job_file.save(JobSpec(prompt=prompt, width=WIDTH, height=HEIGHT, seed=7, out=folder), "f00d")
        for output in self.formats:
            output.create()
        write_page(folder, Page(prompt, self.layout, deep_zoom=deep_zoom))
        chunk = (3, BLOCK, BLOCK)
        state = ArraySpec("work/state-0000.zarr", (3, *LATENTS), chunk, "float32", ("c", "y", "x"))
        ArrayStore(folder).create(state)
        totals = [StageTotal(f"denoise {k}", BLOCKS, 0) for k in range(STEPS)]
        groups = [self.layout.task_count(group) for group in range(self.layout.groups)]
        totals += [StageTotal("decode", groups[0], 0)]
        totals += [StageTotal(f"pyramid {group}", count, 0) for group, count in enumerate(groups[1:], 1)]
        self.stages = tuple(totals)
        self.tell(JobStarted(self.stages, workers=2))

    def tell(self, *events: Event) -> None:
        """Write events, and the tasks among them into the ledger."""
        with (
            Ledger(self.folder / LEDGER, "f00d", [stage.total for stage in self.stages]) as ledger,
            JsonLines(self.folder / EVENTS) as log,
        ):
            for event in events:
                log(event)
                if isinstance(event, TaskDone):
                    ledger.record(event.stage, event.block, Written(64))

    def done(self, stage: int, *blocks: int) -> None:
        name = self.stages[stage].name
        patches = 5 if name.startswith("denoise") else 0
        self.tell(*(TaskDone(stage, name, block, 0.5, patches, "host:1") for block in blocks))

    def preview(self, block: int, step: int) -> None:
        """What a block shows after a step: a plain colour."""
        side = 64
        corner = (block // 4 * side, block % 4 * side)
        pixels = np.full((side, side, 3), COARSE, np.uint8)
        PreviewWriter(self.folder, (2 * side, 4 * side)).write(corner, step, pixels)

    def paint(self, group: int, index: int) -> None:
        """Write the tiles of one task of the pyramid and say that it is done."""
        task = self.layout.task(group, index)
        pixels = np.full((*self.layout.reads(task).box.shape, 3), FINE, np.uint8)
        write_superblock(self.formats, self.layout, task, pixels)
        self.done(STEPS + group, index)

    def finish(self) -> None:
        for output in self.formats:
            output.finish()
        self.tell(JobFinished(12.0))


def damaged(folder: Path) -> Path:
    """A folder whose job.yaml cannot be read."""
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text(json.dumps({"format_version": 99}))
    return folder
