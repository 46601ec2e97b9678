"""Draws the preview of a job's blocks while they are denoised; a worker has one. Composes latents, colours, files."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from cluster.following.preview import PreviewWriter
from cluster.jobs.job import Job
from generation.decoding.preview import Colours, Raster, fit_colours
from generation.models.contracts import Codec
from generation.sampling.schedules.contract import Schedule


def no_sketch() -> None:
    """Draws nothing."""


class PreviewPainter:
    """Shows blocks after the first step, every `preview_every` steps from there, and after the last; or never."""

    def __init__(self, job: Job, schedule: Schedule, codec: Codec) -> None:
        self._plan = job.plan
        self._every = job.spec.preview_every or 0
        self._schedule = schedule
        self._codec = codec
        height, width = (-(-side // job.info.scale) for side in (job.spec.height, job.spec.width))
        self._scale = job.info.scale
        self._raster = Raster.of(height, width, job.plan.halo)
        self._files = PreviewWriter(job.spec.out, self._raster.shape)

    def sketch(
        self, k: int, block: int, x: NDArray[np.float32], prediction: NDArray[np.float32]
    ) -> Callable[[], None]:
        """Look at a block's x[k] and the fused prediction there, both (C, h, w) on the block's frame.

        Calling what comes back draws it; little is held until then.
        """
        pixels = self._raster.pixels_of(self._plan.grid.box(block))
        if not self._is_due(k) or pixels.area == 0:
            return no_sketch
        frame = self._plan.frame(block)
        fields = [torch.from_numpy(self._raster.averages(field, frame, pixels)) for field in (x, prediction)]

        def draw() -> None:
            clean = self._schedule.clean(k, *fields)
            self._files.write((pixels.y0, pixels.x0), k + 1, self._colours.paint(clean.numpy()))

        return draw

    def _is_due(self, k: int) -> bool:
        return self._every > 0 and (k % self._every == 0 or k == self._plan.steps - 1)

    @cached_property
    def _colours(self) -> Colours:
        return fit_colours(self._codec, self._scale)
