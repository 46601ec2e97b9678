"""Which step each latent of a job has reached, and a picture of it. Knows the plan and the ledger; reads no latents.

A latent has reached step k when all patches that count on it at the steps before k have been evaluated. Blocks of a
job are within a stage of their neighbours, so two or three steps meet in one picture, with the patches' outlines.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cluster.following.history import DoneTasks
from cluster.following.status import LEDGER
from cluster.spec import job_file
from storage.files import replace_file

if TYPE_CHECKING:
    from cluster.jobs.plan import Plan

Times = NDArray[np.int32]
"""(rows, columns) of squares of latents; the last ones may reach beyond the canvas."""

AHEAD = 3
"""Steps from its first undone one on that a block may still hold up some latent."""
EXACT_AREA = 2048 * 2048
"""Latents; the times of larger canvases are those of whole blocks, a number each."""
SIDE = 1024
"""Pixels of the picture's longer side, about; larger canvases are sampled, smaller ones enlarged."""
ANCHORS = np.array([(23, 20, 52), (52, 78, 138), (38, 145, 140), (122, 200, 96), (250, 231, 90)], np.float64)
PAPER, INK = (255, 255, 255), (34, 34, 34)
ROW, MARGIN = 26, 12


@dataclass(frozen=True)
class Reached:
    """times: of every square. steps: what they end at. shape: of the canvas, in latents; side: of a square."""

    times: Times
    steps: int
    shape: tuple[int, int]
    side: int = 1

    def shares(self) -> dict[int, float]:
        """Step -> share of the latents that have reached it and no later one; ascending."""
        areas = np.multiply.outer(*(self._inside(axis) for axis in (0, 1)))
        return {
            int(step): int(areas[self.times == step].sum()) / (self.shape[0] * self.shape[1])
            for step in np.unique(self.times)
        }

    def every(self, latents: int) -> Times:
        """The times of every so manyth latent, along both axes."""
        rows, columns = (np.arange(0, length, latents) // self.side for length in self.shape)
        return self.times[rows[:, None], columns]

    def _inside(self, axis: int) -> NDArray[np.int64]:
        """How many latents of each row, or column, of squares lie on the canvas."""
        ends = np.minimum(np.arange(self.times.shape[axis] + 1) * self.side, self.shape[axis])
        lengths: NDArray[np.int64] = np.diff(ends)
        return lengths


def write_times(folder: Path, path: Path) -> Reached:
    """Write a PNG of a job's times. Raises what read_times raises, and OSError."""
    reached = read_times(folder)
    encoded = io.BytesIO()
    picture_of(reached).save(encoded, "PNG")
    replace_file(path, encoded.getvalue())
    return reached


def read_times(folder: Path) -> Reached:
    """The times of a job's latents. Raises SpecError where there is no job, FormatError where it cannot be read."""
    from cluster.jobs.plan import DENOISE
    from cluster.results.seams import plan_again

    plan = plan_again(job_file.load(folder))
    done = DoneTasks(folder / LEDGER)
    done.look()
    stages = np.zeros(plan.blocks, np.int64)
    for stage in plan.stages_of(DENOISE):
        stages[done.tasks.blocks(stage)] += 1
    return reached_by(plan, stages)


def reached_by(plan: Plan, stages: NDArray[np.int64]) -> Reached:
    """stages: how many denoising stages each block has done."""
    shape = plan.canvas.box.shape
    if plan.canvas.box.area > EXACT_AREA:
        blocks = np.minimum(stages, plan.steps).astype(np.int32).reshape(plan.grid.rows, plan.grid.columns)
        return Reached(blocks, plan.steps, shape, plan.grid.block)
    times = np.full(shape, plan.steps, np.int32)
    for block, first in enumerate(stages.tolist()):
        for step in range(first, min(first + AHEAD, plan.steps)):
            _hold_up(times, plan, block, step)
    return Reached(times, plan.steps, shape)


def _hold_up(times: Times, plan: Plan, block: int, step: int) -> None:
    """The latents that count on a block's patches of a step have not got beyond it while it is not done."""
    from generation.sampling.covers import owned_patches

    whole = plan.canvas.box
    weights = plan.cover.weights(step, plan.frame(block))
    for patch in owned_patches(plan.cover, step, plan.grid.box(block)):
        counts = weights.of(patch) != 0
        for piece, home in plan.canvas.split_at_edges(patch.box):
            at, here = times[home.slices_in(whole)], counts[piece.slices_in(patch.box)]
            at[here] = np.minimum(at[here], step)


# --- the picture -----------------------------------------------------------------------------------------------------


def picture_of(reached: Reached) -> Image.Image:
    """The times as colours, dark for early, and under them what the colours mean."""
    shares = reached.shares()
    low, high = min(shares), max(max(shares), min(shares) + 1)
    colours = {step: _colour((step - low) / (high - low)) for step in shares}
    table = np.array([colours.get(step, PAPER) for step in range(low, max(shares) + 1)], np.uint8)
    longest = max(reached.shape)
    every, larger = max(1, longest // SIDE), max(1, SIDE // longest)
    pixels = table[reached.every(every) - low].repeat(larger, 0).repeat(larger, 1)
    height = len(pixels)
    width = max(pixels.shape[1] + 2 * MARGIN, 280)
    picture = Image.new("RGB", (width, height + 2 * MARGIN + ROW * len(shares) + MARGIN), PAPER)
    picture.paste(Image.fromarray(pixels), (MARGIN, MARGIN))
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(16)
    for row, (step, share) in enumerate(shares.items()):
        top = height + 2 * MARGIN + ROW * row
        draw.rectangle((MARGIN, top, MARGIN + 28, top + ROW - 8), fill=colours[step])
        label = f"step {step} of {reached.steps}: {100 * share:.1f} %"
        draw.text((MARGIN + 38, top - 2), label, fill=INK, font=font)
    return picture


def _colour(position: float) -> tuple[int, int, int]:
    """The colour of a position in [0, 1], between the anchors."""
    places = np.linspace(0, 1, len(ANCHORS))
    red, green, blue = (round(float(np.interp(position, places, channel))) for channel in ANCHORS.T)
    return red, green, blue
