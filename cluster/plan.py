"""Every stage and block of a job, computed from its geometry alone, lazily, before anything runs.

Stages are numbered in the order in which a block passes through them:

    0 .. S       denoise: stage k makes x[k] and, before the last, evaluates the network on it
    S + 1        decode: one task a superblock of pixels, which also writes the finest levels of the pyramid
    S + 2 ..     pyramid: reductions, until one task holds the whole picture

A task is (stage, block). It depends on tasks of the stage before it only.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Protocol

from cluster.job_file import LATENTS
from generation.batching import Batching
from generation.covers import Cover, Patch, owned_patches
from generation.decode import Blend
from storage.arrays import ArraySpec
from storage.geometry import Box, Canvas, Grid
from storage.pyramid import PyramidLayout

Task = tuple[int, int]
"""(stage, block)."""

WORK = "work"
"""Folder of the arrays that go when the job is done."""
_FLOAT, _SUM = 4, 8
COUNTED = 4096
"""Patches whose regions are counted; of more, a sample of so many is."""
SQUARE = 4
"""Side, in patches, of the squares of that sample."""


@dataclass(frozen=True)
class Stage:
    """A name shown to people, and how many tasks there are."""

    name: str
    tasks: int


class Counts(Protocol):
    """Regions, as far as a plan wants to know."""

    def count(self, step: int, patch: Patch) -> tuple[int, int]:
        """Evaluations that a patch takes: of words, and of nulls."""


@dataclass(frozen=True)
class EvaluationCount:
    """Evaluations of the network, and places in batches that they take, those that padding fills included.

    exact: False where they were estimated from a sample of patches.
    """

    conditional: int
    unconditional: int
    seats: int
    exact: bool = True

    @property
    def total(self) -> int:
        return self.conditional + self.unconditional

    def __add__(self, other: EvaluationCount) -> EvaluationCount:
        return EvaluationCount(
            self.conditional + other.conditional,
            self.unconditional + other.unconditional,
            self.seats + other.seats,
            self.exact and other.exact,
        )


NOTHING = EvaluationCount(0, 0, 0)


@dataclass(frozen=True)
class Plan:
    """The tasks of one job: what they read and write, what they wait for, and what they cost.

    fields: channels groups of the state after k steps (x and its history), for k = 0 .. S. Lengths in latents.
    regions: what patches take more than one evaluation for; None where all are told the same.
    """

    canvas: Canvas
    grid: Grid
    cover: Cover
    tiling: Blend
    layout: PyramidLayout
    channels: int
    fields: tuple[int, ...]
    parameters_bytes: int
    batching: Batching
    guided: bool
    regions: Counts | None = None

    def __post_init__(self) -> None:
        if len(self.grid) > 1 and self.grid.block % self.batching.cell:
            raise ValueError(
                f"blocks of {self.grid.block} latents cut cells of {self.batching.cell}, whose patches fill batches"
            )

    @property
    def steps(self) -> int:
        """S, the evaluations of the network for each latent."""
        return len(self.fields) - 1

    @property
    def decode_stage(self) -> int:
        return self.steps + 1

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        denoise = [Stage(f"denoise {k}", len(self.grid)) for k in range(self.steps + 1)]
        decode = [Stage("decode", self.layout.task_count(0))]
        reduce = [Stage(f"pyramid {g}", self.layout.task_count(g)) for g in range(1, self.layout.groups)]
        return (*denoise, *decode, *reduce)

    # --- geometry of the tasks

    @property
    def halo(self) -> int:
        """How far a patch whose centre lies in a block reaches out of it."""
        return self.cover.reach

    def frame(self, block: int) -> Box:
        """A block and its halo: what a denoising task computes x on."""
        return self.canvas.clip(self.grid.box(block).expanded(self.halo))

    def neighbours(self, block: int) -> list[int]:
        """Blocks whose own patches may reach into this block's frame; itself included. The relation is symmetric."""
        return self.grid.meeting(self.grid.box(block).expanded(2 * self.halo))

    def decode_box(self, superblock: int) -> Box:
        """The latents under a superblock of pixels."""
        return self.layout.reads(self.layout.task(0, superblock)).box.covering(self.tiling.scale)

    # --- dependencies

    def dependencies(self, task: Task) -> list[Task]:
        """Tasks that must be done before this one."""
        stage, block = task
        if stage == 0:
            return []
        if stage <= self.steps:
            return [(stage - 1, neighbour) for neighbour in self.neighbours(block)]
        if stage == self.decode_stage:
            tiles = self.tiling.tiles_over(self.decode_box(block))
            blocks = {block for tile in tiles for block in self.grid.meeting(tile.source)}
            return [(self.steps, block) for block in sorted(blocks)]
        group = stage - self.decode_stage
        columns = self.layout.cells(group - 1)[1]
        before = self.layout.dependencies(self.layout.task(group, block))
        return [(stage - 1, task.row * columns + task.column) for task in before]

    def dependents(self, task: Task) -> list[Task]:
        """Tasks that wait for this one."""
        stage, block = task
        if stage < self.steps:
            return [(stage + 1, neighbour) for neighbour in self.neighbours(block)]
        if stage + 1 == len(self.stages):
            return []
        return [(stage + 1, waiting) for waiting in self._waiting(stage + 1)[block]]

    def _waiting(self, stage: int) -> dict[int, list[int]]:
        """Blocks of the stage before -> tasks of this one that read them."""
        if stage not in self._waiting_by_stage:
            table: dict[int, list[int]] = defaultdict(list)
            for block in range(self.stages[stage].tasks):
                for _, read in self.dependencies((stage, block)):
                    table[read].append(block)
            self._waiting_by_stage[stage] = table
        return self._waiting_by_stage[stage]

    @cached_property
    def _waiting_by_stage(self) -> dict[int, dict[int, list[int]]]:
        return {}

    def batches(self, task: Task) -> int:
        """Batches of patches that a task evaluates: what makes a denoising task long or short."""
        stage, block = task
        if stage >= self.steps:
            return 0
        return -(-self.cover.typical_count(stage, self.grid.box(block)) // self.batching.size)

    # --- arrays

    def state_array(self, k: int) -> ArraySpec:
        """x[k] and its history, stacked over channels; after the last step, the final latents."""
        if k == self.steps:
            return self._grid_array(LATENTS, self.channels)
        return self._grid_array(f"{WORK}/state-{k:04d}.zarr", self.channels * self.fields[k])

    def sums_array(self, k: int) -> ArraySpec:
        """Each block's fixed-point weighted sum of its own predictions at x[k], over its frame."""
        side = self.grid.block + 2 * self.halo
        chunk = (1, self.channels, side, side)
        step = self._part(side)
        part = (1, self.channels, step, step)
        names = ("block", "c", "y", "x")
        name = f"{WORK}/sums-{k:04d}.zarr"
        return ArraySpec(name, (len(self.grid), *chunk[1:]), chunk, "int32", names, part)

    def arrays_of(self, stage: int) -> list[ArraySpec]:
        """Arrays that a denoising stage writes."""
        if stage > self.steps:
            return []
        sums = [self.sums_array(stage)] if stage < self.steps else []
        return [self.state_array(stage), *sums]

    def arrays_freed_by(self, stage: int) -> list[str]:
        """Arrays that no task reads once the whole stage is done."""
        before = stage - 1
        return [array.name for array in self.arrays_of(before)] if 0 <= before < self.steps else []

    def _grid_array(self, name: str, channels: int) -> ArraySpec:
        shape = (channels, self.canvas.height, self.canvas.width)
        chunk = (channels, min(self.grid.block, shape[1]), min(self.grid.block, shape[2]))
        part = (channels, self._part(chunk[1]), self._part(chunk[2]))
        return ArraySpec(name, shape, chunk, "float32", ("c", "y", "x"), part)

    def _part(self, side: int) -> int:
        """What neighbours read of a side: what they share, two halos, or somewhat less, so that it divides the side."""
        shared = 2 * self.halo
        return next((part for part in range(min(shared, side), shared // 2, -1) if side % part == 0), side)

    # --- costs

    @cached_property
    def patches(self) -> int:
        """Patch positions over all steps."""
        return sum(self.cover.count(k) for k in range(self.steps))

    @property
    def evaluations(self) -> int:
        """Network evaluations of one patch: twice the patches under classifier-free guidance, more with regions."""
        return self.spent.total

    @cached_property
    def spent(self) -> EvaluationCount:
        """Of all steps. Patches with regions are looked at one by one, of large jobs a sample of COUNTED."""
        if self.regions is None and not self.batching.padded:
            return self._spent(self.patches, self.patches)
        if self.patches <= COUNTED or self.regions is None:
            tasks = product(range(self.steps), range(self.blocks))
            return sum((self.spent_on(k, self.grid.box(block)) for k, block in tasks), NOTHING)
        return self._sampled()

    def spent_on(self, k: int, box: Box) -> EvaluationCount:
        """Of the patches that a box of latents owns at step k."""
        patches = owned_patches(self.cover, k, box)
        if self.regions is None:
            return self._spent(len(patches), len(patches))
        counts = [self.regions.count(k, patch) for patch in patches]
        return self._spent(sum(words for words, _ in counts), sum(nulls for _, nulls in counts))

    def _spent(self, words: int, nulls: int) -> EvaluationCount:
        """Of one block's evaluations, or of many blocks' where batches are not padded."""
        nulls = nulls if self.guided else 0
        return EvaluationCount(words, nulls, self.batching.seats(words) + self.batching.seats(nulls))

    def _sampled(self) -> EvaluationCount:
        """From squares of a few patches, at random places and steps."""
        squares, random = Grid(self.canvas, SQUARE * 2 * self.cover.reach), Random(0)
        seen, spent = 0, NOTHING
        while seen < COUNTED:
            k, square = random.randrange(self.steps), squares.box(random.randrange(len(squares)))
            spent += self.spent_on(k, square)
            seen += len(owned_patches(self.cover, k, square))
        share = self.patches / seen
        words, nulls = round(spent.conditional * share), round(spent.unconditional * share)
        return EvaluationCount(words, nulls, words + nulls, exact=False)

    @property
    def blocks(self) -> int:
        return len(self.grid)

    @property
    def latents_bytes(self) -> int:
        return self.channels * self.canvas.box.area * _FLOAT

    @property
    def work_bytes(self) -> int:
        """The most that intermediate arrays take on disk: two steps live at once, and a third being written."""
        side = self.grid.block + 2 * self.halo
        state = max(self.fields) * self.latents_bytes
        return 3 * (state + len(self.grid) * self.channels * side * side * _FLOAT)

    @property
    def denoise_bytes(self) -> int:
        """Arrays of a denoising task at its fullest: state before and after, sums, and a batch of patches."""
        side = self.grid.block + 2 * self.halo
        frame = self.channels * min(side, self.canvas.height) * min(side, self.canvas.width)
        return frame * ((2 * max(self.fields) + 4) * _FLOAT + 2 * _SUM)

    @property
    def decode_bytes(self) -> int:
        """Arrays of a decode task: a row of tiles, one tile's pixels while it is laid, and the levels as stored."""
        side = self.tiling.tile * self.tiling.scale
        rows = side if self.tiling.passes == 1 else self.layout.superblock
        band = 3 * min(rows, self.layout.height) * min(self.layout.superblock, self.layout.width)
        return (band + 3 * 3 * side**2) * _FLOAT + self.layout.peak_bytes()

    @property
    def task_peak_bytes(self) -> int:
        """Arrays and weights of the largest task; the network's activations come on top."""
        return max(self.denoise_bytes, self.decode_bytes) + self.parameters_bytes
