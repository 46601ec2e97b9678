"""Folders of finished jobs, made of known pixels: what the tests of exports start from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from opened_formats import open_formats

from cluster.following.events import JobFinished, JobInterrupted, JobStarted, StageTotal
from cluster.following.progress import EVENTS, JsonLines
from cluster.spec import job_file
from cluster.spec.fields import JobSpec
from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock

LAYOUT = PyramidLayout(width=150, height=83, tile=16, superblock=64)
PROMPT = "Zürich 山, at dawn"


def colours(width: int, height: int) -> NDArray[np.uint8]:
    """Smooth, so that JPEG is close to them; no two rows or columns are the same."""
    y, x = np.mgrid[0:height, 0:width]
    red, green, blue = 30 + 200 * y / height, 30 + 200 * x / width, 120 + 90 * np.sin((x + 2 * y) / 40)
    return np.stack([red, green, blue], axis=2).astype(np.uint8)


def write_picture(folder: Path, layout: PyramidLayout = LAYOUT, *outputs: str) -> NDArray[np.uint8]:
    """Every level of `colours`, in the formats named; returns level 0."""
    pixels = colours(layout.width, layout.height)
    master = OmeZarr(folder, layout)
    others = open_formats([name for name in outputs if name != "ome-zarr"], folder, layout)
    for output in (master, *others):
        output.create()
    for group in range(layout.groups):
        for task in layout.tasks(group):
            start = layout.reads(task)
            read = (
                master.read_level(start.level, start.box)
                if group
                else pixels[start.box.slices_in(layout.whole(0).box)]
            )
            write_superblock([master, *others], layout, task, read)
    for output in (master, *others):
        output.finish()
    return pixels


def finished_job(folder: Path, layout: PyramidLayout = LAYOUT, *, ended: bool = True) -> NDArray[np.uint8]:
    """A job's folder with OME-Zarr and Deep Zoom; returns the picture. One that has not ended was interrupted."""
    pixels = write_picture(folder, layout, "ome-zarr", "deep-zoom")
    spec = JobSpec(
        prompt=PROMPT, negative_prompt="fog, rain", width=layout.width, height=layout.height, out=folder,
        scheduler="UniPCMultistepScheduler", num_inference_steps=12, guidance_scale=1.5, seed=7,
    )  # fmt: skip
    job_file.save(spec, "f" * 64)
    with JsonLines(folder / EVENTS) as log:
        log(JobStarted((StageTotal("denoise 0", 4, 0),), 1))
        log(JobFinished(1.0) if ended else JobInterrupted())
    return pixels
