"""begin(stage, block): the one function that every executor runs. Reads boxes, computes, writes one box that no other
task writes. Holds the model and handles of arrays, nothing else; running a task twice writes the same bytes twice.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster.engine.outcomes import Outcome, StartedTask
from cluster.engine.outputs import Outputs
from cluster.engine.preview_painter import PreviewPainter, no_sketch
from cluster.engine.recovery import damaged_inputs
from cluster.engine.written import TaskOutputs
from cluster.jobs.job import Job
from cluster.jobs.plan import DECODE, DENOISE, PASS, REDUCE
from cluster.jobs.stages import Task
from cluster.machine import give_back_memory
from cluster.spec.job_file import LATENTS
from generation.decoding.decode import decode_bands
from generation.models.contracts import ClassMap, Codec
from generation.models.errors import NumericalError
from generation.sampling.denoise import Evaluated, Fields, Sampler
from generation.sampling.fusion import from_fixed
from storage.arrays import ArrayStore, box_index
from storage.damage import is_damage
from storage.formats.labels import enlarged, label_values
from storage.geometry import Box
from storage.light import Pixels8
from storage.pyramid import PyramidTask
from storage.pyramid_writing import cut, write_bands, write_superblock

T = TypeVar("T")

Before: TypeAlias = tuple[Fields, NDArray[np.float32]]
"""Of the step before: its fields, and the fused prediction at x, all on a block's frame."""
OverLatents: TypeAlias = Callable[[NDArray[np.float32], Box, Box], NDArray[np.float32]]
"""(C, h, w) latents of a box, the box, the block in it -> (C, h, w) of the block: what a pass does."""
NO_PASSES: Mapping[str, OverLatents] = MappingProxyType({})
TASKS_BETWEEN_RETURNS_OF_MEMORY = 4
"""Denoising tasks after which freed memory is given back, as it is before each tile is decoded: each scatters some."""


class Worker:
    """A loaded job: begin() its tasks in any order. Satisfies TaskRunner.

    Threads may begin several: one computes, others read or wait for the disk.
    """

    def __init__(
        self,
        job: Job,
        sampler: Sampler,
        codec: Codec,
        outputs: Outputs,
        classes: ClassMap | None = None,
        passes: Mapping[str, OverLatents] = NO_PASSES,
    ) -> None:
        self.plan = job.plan
        self.sampler = sampler
        self.codec = codec
        self.painter = PreviewPainter(job, sampler.schedule, codec)
        self.outputs = outputs.formats
        self.master = outputs.master
        self.labels = outputs.labels
        self.classes = classes
        self.passes = passes
        self.store = ArrayStore(job.spec.out)
        self.written = TaskOutputs(job.plan, self.store, outputs)
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._computing = threading.Lock()
        self._tasks = 0
        self._kinds: Mapping[str, Callable[[Task], StartedTask]] = {
            DENOISE: self._begin_denoising,
            PASS: self._begin_pass,
            DECODE: partial(self._begin_pixels, self._decode),
            REDUCE: partial(self._begin_pixels, self._reduce),
        }

    def begin(self, task: Task) -> StartedTask:
        """Compute a denoising task and leave its way to the disk; leave all of a task of pixels.

        Raises what the task raises, as does what comes back: DamagedInputs where it cannot read what others wrote.
        """
        return self._kinds[self.plan.stages[task[0]].kind](task)

    def _naming_damage(self, task: Task, act: Callable[[], T]) -> T:
        """Do it; where it finds damage, say which tasks wrote what is damaged."""
        try:
            return act()
        except OSError as error:
            if not is_damage(error):
                raise
            named = damaged_inputs(self.plan, task, error, self.written.check)
            if named is error:
                raise
            raise named from error

    # --- denoise

    def _begin_denoising(self, task: Task) -> StartedTask:
        """Compute at once; what comes back writes."""
        k, block = self.plan.stages[task[0]].number, task[1]
        rest = self._naming_damage(task, partial(self._denoise, task, k, block))
        return partial(self._naming_damage, task, rest)

    def _denoise(self, task: Task, k: int, block: int) -> Callable[[], Outcome]:
        frame, own = self.plan.frame(block), self.plan.grid.box(block)
        before, draw = self._before(k, block, frame)
        name = self.plan.state_array(k).name
        with self._computing:
            began = time.perf_counter()
            fields = self.sampler.advance(k - 1, frame, *before) if before else [self.sampler.start(frame)]
            inside = np.concatenate([field[(slice(None), *own.slices_in(frame))] for field in fields])
            until_written = [self.store.begin_write(name, box_index(slice(0, len(inside)), own), inside)]
            spent = Outcome(task, worker=self.name)
            if k < self.plan.steps:
                found = self._evaluate(k, own, frame, fields[0])
                until_written.append(self._begin_write_sums(k, block, found.sums))
                spent = replace(spent, evaluations=found.conditional, seats=found.seats)
            self._tasks += 1
            if self._tasks % TASKS_BETWEEN_RETURNS_OF_MEMORY == 0:
                give_back_memory()
            seconds = time.perf_counter() - began

        def finish() -> Outcome:
            for wait in until_written:
                wait()
            return replace(spent, seconds=seconds, written=self.written.written(task))

        draw()
        return finish

    def _before(self, k: int, block: int, frame: Box) -> tuple[Before | None, Callable[[], None]]:
        """x[k - 1] with its history and the fused prediction there, on the frame; what draws them."""
        if k == 0:
            return None, no_sketch
        array = self.plan.state_array(k - 1)
        reading = self.store.begin_read_box(array.name, slice(0, array.shape[0]), frame, self.plan.canvas)
        prediction = from_fixed(self._fused(k - 1, block, frame))
        fields = list(reading().reshape(-1, *prediction.shape))
        return (fields, prediction), self.painter.sketch(k - 1, block, fields[0], prediction)

    def _fused(self, k: int, block: int, frame: Box) -> NDArray[np.int64]:
        """The neighbours' sums of step k over the frame; integers, so their order does not matter."""
        name, parts = self.plan.sums_array(k).name, []
        for neighbour in self.plan.neighbours(block):
            theirs = self.plan.frame(neighbour)
            for dy, dx in self.plan.canvas.wrapped_shifts(theirs, frame):
                common = theirs.shifted(dy, dx).intersection(frame)
                assert common is not None
                rows, columns = common.slices_in(theirs.shifted(dy, dx))
                index = (neighbour, slice(0, self.plan.channels), rows, columns)
                parts.append((common, self.store.begin_read(name, index)))
        total = np.zeros((self.plan.channels, *frame.shape), np.int64)
        for common, read in parts:
            total[(slice(None), *common.slices_in(frame))] += read()
        return total

    def _evaluate(self, k: int, own: Box, frame: Box, x: NDArray[np.float32]) -> Evaluated:
        try:
            return self.sampler.evaluate(k, own, frame, x)
        except (OverflowError, NumericalError) as error:
            place = f"in block at latent (y {own.y0}, x {own.x0})"
            if isinstance(error, NumericalError):  # it names the step and says what to try
                raise NumericalError(f"{error}; {place}") from error
            raise NumericalError(
                f"{error} (step {k}, {place}); try --dtype float32 or a lower --guidance-scale"
            ) from error

    def _begin_write_sums(self, k: int, block: int, sums: NDArray[np.int32]) -> Callable[[], None]:
        array = self.plan.sums_array(k)
        entry = np.zeros(array.chunk[1:], np.int32)
        entry[:, : sums.shape[1], : sums.shape[2]] = sums
        return self.store.begin_write(array.name, (block, slice(None), slice(None), slice(None)), entry)

    # --- latents

    def _begin_pass(self, task: Task) -> StartedTask:
        """Nothing yet: what comes back does it all."""
        return partial(self._naming_damage, task, partial(self._pass, task))

    def _pass(self, task: Task) -> Outcome:
        plan, (index, block) = self.plan, task
        one, number, own = (
            plan.passes[plan.stages[index].number],
            plan.stages[index].number,
            plan.grid.box(block),
        )
        frame, channels = plan.canvas.clip(one.margin.of(own)), slice(0, plan.channels)
        latents = self.store.read_box(plan.latents_array(number).name, channels, frame, plan.canvas)
        with self._computing:
            began = time.perf_counter()
            passed = self.passes[one.name](latents, frame, own)
            seconds = time.perf_counter() - began
        self.store.begin_write(plan.latents_array(number + 1).name, box_index(channels, own), passed)()
        return Outcome(task, seconds, worker=self.name, written=self.written.written(task))

    # --- pixels

    def _begin_pixels(self, act: Callable[[PyramidTask], None], task: Task) -> StartedTask:
        """Nothing yet: what comes back does it all."""
        return partial(self._naming_damage, task, partial(self._pixels, act, task))

    def _pixels(self, act: Callable[[PyramidTask], None], task: Task) -> Outcome:
        """Decode a superblock, or reduce one of a level above; alone, as this holds much memory."""
        with self._computing:
            began = time.perf_counter()
            act(self.plan.layout.task(self.plan.stages[task[0]].number, task[1]))
            seconds = time.perf_counter() - began
        return Outcome(task, seconds, worker=self.name, written=self.written.written(task))

    def _decode(self, task: PyramidTask) -> None:
        wanted = self.plan.layout.reads(task).box
        latents = wanted.covering(self.plan.tiling.scale)
        inside = wanted.slices_in(latents.scaled(self.plan.tiling.scale))
        bands = decode_bands(self.codec, self.plan.tiling, latents, self._latents, self.sampler.device)
        write_bands(self.outputs, self.plan.layout, task, cut(bands, *inside))
        if self.labels is not None:
            self.labels.write_superblock(task, self._classes(latents)[inside])

    def _latents(self, box: Box) -> NDArray[np.float32]:
        """The latents of a tile, which is decoded next."""
        give_back_memory()
        return self.store.read_box(LATENTS, slice(0, self.plan.channels), box, self.plan.canvas)

    def _classes(self, box: Box) -> NDArray[np.uint8]:
        """The label of every pixel of a latent box."""
        assert self.classes is not None  # a job that has labels has a class map
        return enlarged(label_values(self.classes.read(box).numpy()), self.plan.tiling.scale)

    def _reduce(self, task: PyramidTask) -> None:
        write_superblock(self.outputs, self.plan.layout, task, self._level(task))
        if self.labels is not None:
            place = self.plan.layout.reads(task)
            self.labels.write_superblock(task, self.labels.read_level(place.level, place.box))

    def _level(self, task: PyramidTask) -> Pixels8:
        place = self.plan.layout.reads(task)
        return self.master.read_level(place.level, place.box)
