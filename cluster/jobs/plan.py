"""The stages of a job and what they cost, computed from its geometry alone, lazily, before anything runs.

denoise 0 .. S   stage k makes x[k] and, before the last, evaluates the network on it
decode           one task a superblock of pixels, which also writes the finest levels of the pyramid
pyramid 1 ..     reductions, until one task holds the whole picture
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from itertools import product
from random import Random
from typing import Protocol

from cluster.jobs.stages import Grown, Listed, Margin, Read, Stage, StageGraph, Task
from cluster.spec.job_file import LATENTS
from generation.decoding.decode import Blend
from generation.sampling.batching import Batching
from generation.sampling.covers import Cover, Patch, owned_patches
from storage.arrays import ArraySpec
from storage.geometry import Box, Canvas, Grid
from storage.pyramid import PyramidLayout

WORK = "work"
"""Folder of the arrays that go when the job is done."""
LEVELS = "levels of group {}"
"""What a stage of the pyramid writes, in every output."""
_FLOAT, _SUM = 4, 8
COUNTED_PATCHES = 4096
"""Patches whose regions are counted; of more, a sample of so many is."""
SQUARE = 4
"""Side, in patches, of the squares of that sample."""


DENOISE, PASS, DECODE, REDUCE = "denoise", "pass", "decode", "reduce"
"""Kinds of stages."""


class CountsParts(Protocol):
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
class LatentPass:
    """A stage of its own over denoised latents, before they are decoded. margin: what a block reads around itself."""

    name: str
    margin: Margin


@dataclass(frozen=True)
class Plan:
    """The tasks of one job: what they read and write, what they wait for, and what they cost.

    fields: channels groups of the state after k steps (x and its history), for k = 0 .. S. Lengths in latents.
    regions: what patches take more than one evaluation for; None where all are told the same. observed: side of the
    squares of latents on which an observation corrects predictions. passes: over the latents that denoising leaves.
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
    regions: CountsParts | None = None
    observed: int = 1
    passes: tuple[LatentPass, ...] = ()

    def __post_init__(self) -> None:
        wrapping = (
            self.canvas.height * self.canvas.topology.wraps_y,
            self.canvas.width * self.canvas.topology.wraps_x,
        )
        if any(side % self.observed for side in (self.grid.block * (len(self.grid) > 1), *wrapping)):
            raise ValueError(
                f"blocks of {self.grid.block} latents, or sides that wrap of a canvas of {self.canvas.box.shape}, cut "
                f"squares of {self.observed} latents that are observed together"
            )
        if len(self.grid) > 1 and self.grid.block % self.batching.cell:
            raise ValueError(
                f"blocks of {self.grid.block} latents cut cells of {self.batching.cell}, whose patches fill batches"
            )

    @property
    def steps(self) -> int:
        """S, the evaluations of the network for each latent."""
        return len(self.fields) - 1

    # --- stages

    @cached_property
    def graph(self) -> StageGraph:
        """What the stages read and write."""
        denoise = [self._denoise(k) for k in range(self.steps + 1)]
        passes = [self._pass(number) for number in range(len(self.passes))]
        pyramid = [self._pyramid(group) for group in range(self.layout.groups)]
        return StageGraph((*denoise, *passes, *pyramid))

    @property
    def stages(self) -> tuple[Stage, ...]:
        return self.graph.stages

    def stages_of(self, kind: str) -> list[int]:
        """The stages of a kind, by their places in the order."""
        return [index for index, stage in enumerate(self.stages) if stage.kind == kind]

    @property
    def kept_stages(self) -> list[int]:
        """The stages of whose output a finished job keeps something."""
        return [index for index, stage in enumerate(self.stages) if not all(map(is_work, stage.writes))]

    def _denoise(self, k: int) -> Stage:
        """x[k] is read as far as a patch reaches, and sums as far as a patch and its block's frame do."""
        near, far = (Grown(self.grid, Margin.around(times * self.halo)) for times in (1, 2))
        reads = (
            (Read(self.state_array(k - 1).name, near), Read(self.sums_array(k - 1).name, far)) if k else ()
        )
        writes = (self.state_array(k).name, *([self.sums_array(k).name] if k < self.steps else []))
        return Stage(f"denoise {k}", DENOISE, k, self.grid, reads, writes, self.denoise_bytes)

    def _pass(self, number: int) -> Stage:
        one = self.passes[number]
        read = Read(self.latents_array(number).name, Grown(self.grid, one.margin))
        writes = (self.latents_array(number + 1).name,)
        return Stage(one.name, PASS, number, self.grid, (read,), writes, self.denoise_bytes)

    def _pyramid(self, group: int) -> Stage:
        """Decoding reads the latents under a superblock's tiles, reductions read cells of the group before."""
        cells = Grid(Canvas(*self.layout.cells(group)), 1)
        read = Read(LEVELS.format(group - 1), Listed(partial(self._cells_under, group)))
        if group == 0:
            read = Read(LATENTS, Listed(self._sources))
        name, kind = (f"pyramid {group}", REDUCE) if group else ("decode", DECODE)
        return Stage(name, kind, group, cells, (read,), (LEVELS.format(group),), self.decode_bytes)

    def _sources(self, superblock: int) -> list[Box]:
        """The latents of the tiles that a superblock of pixels is decoded from."""
        return [tile.source for tile in self.tiling.tiles_over(self.decode_box(superblock))]

    def _cells_under(self, group: int, block: int) -> list[Box]:
        """The tasks of the group before that a reduction reads, as a box of them."""
        return [self.layout.reads(self.layout.task(group, block)).box.covering(self.layout.tile)]

    def dependencies(self, task: Task) -> list[Task]:
        """Tasks that must be done before this one."""
        return self.graph.dependencies(task)

    def dependents(self, task: Task) -> list[Task]:
        """Tasks that wait for this one."""
        return self.graph.dependents(task)

    def batches(self, task: Task) -> int:
        """Batches of patches that a task evaluates: what makes a denoising task long or short."""
        index, block = task
        stage = self.stages[index]
        if stage.kind != DENOISE or stage.number == self.steps:
            return 0
        return -(-self.cover.typical_count(stage.number, self.grid.box(block)) // self.batching.size)

    # --- geometry of the tasks

    @property
    def halo(self) -> int:
        """How far a patch whose centre lies in a block reaches out of it; in whole squares of what is observed."""
        return -(-self.cover.reach // self.observed) * self.observed

    def frame(self, block: int) -> Box:
        """A block and its halo: what a denoising task computes x on."""
        return self.canvas.clip(self.grid.box(block).expanded(self.halo))

    def neighbours(self, block: int) -> list[int]:
        """Blocks whose own patches may reach into this block's frame; itself included. The relation is symmetric."""
        return self.grid.overlapping(self.grid.box(block).expanded(2 * self.halo))

    def decode_box(self, superblock: int) -> Box:
        """The latents under a superblock of pixels."""
        return self.layout.reads(self.layout.task(0, superblock)).box.covering(self.tiling.scale)

    # --- arrays

    def state_array(self, k: int) -> ArraySpec:
        """x[k] and its history, stacked over channels; after the last step, the latents."""
        if k == self.steps:
            return self.latents_array(0)
        return self._grid_array(f"{WORK}/state-{k:04d}.zarr", self.channels * self.fields[k])

    def latents_array(self, passed: int) -> ArraySpec:
        """The latents after so many passes; those after all of them are kept."""
        name = LATENTS if passed == len(self.passes) else f"{WORK}/passed-{passed:04d}.zarr"
        return self._grid_array(name, self.channels)

    def sums_array(self, k: int) -> ArraySpec:
        """Each block's fixed-point weighted sum of its own predictions at x[k], over its frame."""
        side = self.grid.block + 2 * self.halo
        chunk = (1, self.channels, side, side)
        step = self._part(side)
        part = (1, self.channels, step, step)
        names = ("block", "c", "y", "x")
        name = f"{WORK}/sums-{k:04d}.zarr"
        return ArraySpec(name, (len(self.grid), *chunk[1:]), chunk, "int32", names, part)

    def arrays_of(self, index: int) -> list[ArraySpec]:
        """Arrays that a stage writes."""
        stage = self.stages[index]
        if stage.kind == PASS:
            return [self.latents_array(stage.number + 1)]
        if stage.kind != DENOISE:
            return []
        sums = [self.sums_array(stage.number)] if stage.number < self.steps else []
        return [self.state_array(stage.number), *sums]

    def chunk_of(self, array: ArraySpec, block: int) -> tuple[int, ...]:
        """The chunk of an array that a block's task writes."""
        by_block = array.dimension_names[0] == "block"
        return (block, 0, 0, 0) if by_block else (0, *divmod(block, self.grid.columns))

    def arrays_freed_by(self, stage: int) -> list[str]:
        """Intermediate arrays that no task reads once all tasks of this stage are done."""
        return list(filter(is_work, self.graph.freed_by(stage)))

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
        """Evaluations of all steps.

        Patches with regions are looked at one by one, of large jobs a sample of COUNTED_PATCHES.
        """
        if self.regions is None and not self.batching.padded:
            return self._spent(self.patches, self.patches)
        if self.patches <= COUNTED_PATCHES or self.regions is None:
            tasks = product(range(self.steps), range(self.blocks))
            return sum((self.spent_on(k, self.grid.box(block)) for k, block in tasks), NOTHING)
        return self._sampled()

    def spent_on(self, k: int, box: Box) -> EvaluationCount:
        """Evaluations of the patches that a box of latents owns at step k."""
        patches = owned_patches(self.cover, k, box)
        if self.regions is None:
            return self._spent(len(patches), len(patches))
        counts = [self.regions.count(k, patch) for patch in patches]
        return self._spent(sum(words for words, _ in counts), sum(nulls for _, nulls in counts))

    def _spent(self, words: int, nulls: int) -> EvaluationCount:
        """The count of one block's evaluations, or of many blocks' where batches are not padded."""
        nulls = nulls if self.guided else 0
        return EvaluationCount(words, nulls, self.batching.seats(words) + self.batching.seats(nulls))

    def _sampled(self) -> EvaluationCount:
        """From squares of a few patches, at random places and steps."""
        squares, random = Grid(self.canvas, SQUARE * 2 * self.cover.reach), Random(0)
        seen, spent = 0, NOTHING
        while seen < COUNTED_PATCHES:
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
        """The most that intermediate arrays take on disk while a stage runs, uncompressed."""
        sizes = {array.name: array.nbytes for k in range(len(self.stages)) for array in self.arrays_of(k)}
        work = {name: size for name, size in sizes.items() if is_work(name)}
        alive = (self.graph.alive_during(index) for index in range(len(self.stages)))
        return max(sum(work.get(name, 0) for name in names) for names in alive)

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
        return max(stage.memory for stage in self.stages) + self.parameters_bytes


def is_work(name: str) -> bool:
    """Whether an array goes when the job is done."""
    return name.startswith(f"{WORK}/")
