"""Covers whose patches have weights of their own, brought from outside: a checkerboard, and factors of a chain."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import ConvolutionalDenoiser, IdentityDenoiser, latents_of, run_here, tiny_job, tiny_worker

from cluster.jobs.job import Job
from generation.sampling.batching import batching
from generation.sampling.covers import Interval, Intervals, Patch, Product
from generation.sampling.fusion import Signed
from storage.geometry import PLANE, Box, Canvas, Grid

SIDE, PATCH = 96, 16


@dataclass(frozen=True)
class Checkerboard:
    """Tiles side by side, each evaluated twice: white ones as 3 - 2, black ones as -1 + 2, by two nodes."""

    canvas: Canvas
    reach: int = PATCH // 2

    def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
        tiles = Grid(self.canvas, PATCH)
        for tile, node in product(tiles.overlapping(self.canvas.clip(box)), (0, 1)):
            row, column = divmod(tile, tiles.columns)
            weight = ((3.0, -2.0), (-1.0, 2.0))[(row + column) % 2][node]
            yield Patch(tiles.box(tile), tiles.box(tile), rank=node, weight=weight, node=node)

    def count(self, step: int) -> int:
        return 2 * len(Grid(self.canvas, PATCH))

    def typical_count(self, step: int, block: Box) -> int:
        return 2 * block.area // PATCH**2


@dataclass(frozen=True)
class Chain:
    """Factors every half patch, and what two neighbours share taken off again."""

    length: int
    patch: int = PATCH

    def intervals(self, step: int) -> Intervals:
        half = self.patch // 2

        def at(index: int) -> Interval:
            start, shared = (index + 1) // 2 * half, index % 2 == 1
            end = start + (half if shared else self.patch)
            return Interval(start, end, start, end, weight=-1.0 if shared else 1.0)

        return Intervals(2 * (self.length // half - 1) - 1, at)


def job_with(job: Job, cover: Signed, size: int) -> Job:
    batches = batching(job.plan.canvas, PATCH, PATCH, size)
    return replace(job, plan=replace(job.plan, cover=cover, batching=batches))


def job_of(
    folder: Path, monkeypatch: pytest.MonkeyPatch, cover: Signed, size: int = 4, **fields: object
) -> Job:
    job = tiny_job(
        folder, monkeypatch, width=2 * SIDE, height=2 * SIDE, method="shifted", **{"block": 32, **fields}
    )
    return job_with(job, cover, size)


CANVAS = Canvas(SIDE, SIDE, PLANE)
COVERS = {
    "checkerboard": Signed(Checkerboard(CANVAS)),
    "grid of factors": Signed(Product(CANVAS, Chain(SIDE), Chain(SIDE))),
}


@pytest.mark.parametrize("name", COVERS)
def test_an_identity_network_returns_its_input_through_signed_sums(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path, monkeypatch, COVERS[name])
    sampler, box = tiny_worker(job, IdentityDenoiser()).sampler, job.plan.canvas.box
    x = sampler.start(box)
    shown = sampler.schedule.model_input(1, torch.from_numpy(x)).numpy()
    assert abs(sampler.evaluate(1, box, box, x).sums / 2**22 - shown).max() < 2e-6


@pytest.mark.parametrize("name", COVERS)
def test_blocks_of_signed_covers_do_not_show(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for block in (32, 64, 96):
        job = job_of(tmp_path / str(block), monkeypatch, COVERS[name], block=block, scheduler="euler_a")
        denoiser = ConvolutionalDenoiser()
        run_here(job, denoiser)
        assert denoiser.evaluated == job.plan.patches == job.plan.spent.seats
        made.append(latents_of(job))
    assert np.array_equal(made[0], made[1]) and np.array_equal(made[0], made[2])


def test_a_grid_of_factors_is_the_bethe_sum_of_a_plain_loop() -> None:
    """+1 for factors, -1 for what two share, +1 again for what four share (DiffCollage, equation 5, in two axes)."""
    expected = np.zeros((SIDE, SIDE))
    cover, values = COVERS["grid of factors"], np.random.default_rng(0)
    said = {patch.box: values.normal() for patch in cover.overlapping(0, CANVAS.box)}
    half, last = PATCH // 2, SIDE - PATCH
    for y, x in product(range(0, last + 1, half), repeat=2):
        expected[y : y + PATCH, x : x + PATCH] += said[Box(y, y + PATCH, x, x + PATCH)]
    for y, x in product(range(0, last + 1, half), range(half, last + 1, half)):
        expected[y : y + PATCH, x : x + half] -= said[Box(y, y + PATCH, x, x + half)]
        expected[x : x + half, y : y + PATCH] -= said[Box(x, x + half, y, y + PATCH)]
    for y, x in product(range(half, last + 1, half), repeat=2):
        expected[y : y + half, x : x + half] += said[Box(y, y + half, x, x + half)]
    total, weights = np.zeros((SIDE, SIDE)), cover.weights(0, CANVAS.box)
    for patch in cover.overlapping(0, CANVAS.box):
        total[patch.box.slices_in(CANVAS.box)] += weights.of(patch) * said[patch.box]
    assert np.allclose(total, expected, atol=1e-5)


def test_weights_that_do_not_sum_to_one_are_refused_where_they_are_made() -> None:
    class Lopsided(Checkerboard):
        def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
            for patch in super().overlapping(step, box):
                yield replace(patch, weight=1.0) if step == 2 and patch.box.y0 == 32 else patch

    @dataclass(frozen=True)
    class Doubled(Checkerboard):
        def overlapping(self, step: int, box: Box) -> Iterator[Patch]:
            return (replace(patch, weight=1.0) for patch in super().overlapping(step, box))

    with pytest.raises(ValueError, match=r"latent \(y 0, x 0\), step 0, sum to 2; they must sum to 1"):
        Signed(Doubled(CANVAS))
    with pytest.raises(ValueError, match=r"latent \(y 32, x 0\), step 2, sum to 2"):
        Signed(Lopsided(CANVAS)).weights(2, Box(16, 64, 0, 96))


def test_a_network_that_knows_its_node_is_told_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Patches of one box, told differently: 3 a - 2 b, and -a + 2 b."""
    from generation.sampling.parts import Part

    class Number:
        def __init__(self, value: float) -> None:
            self.value = value

        def conditional(self, boxes: list[Box]) -> dict[str, torch.Tensor]:
            return {"told": torch.full((len(boxes),), self.value)}

        unconditional = conditional

    class ByNode:
        def parts(self, step: int, patch: Patch) -> tuple[Part, ...]:
            return (Part(Number(float(10 * step + patch.node))),)

        def count(self, step: int, patch: Patch) -> tuple[int, int]:
            return 1, 1

    class SaysItsNumber:
        def predict(self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: dict) -> torch.Tensor:
            return torch.ones_like(latents) * conditioning["told"][:, None, None, None]

    job = job_of(tmp_path, monkeypatch, COVERS["checkerboard"])
    sampler = replace(tiny_worker(job, SaysItsNumber()).sampler, mixture=ByNode())
    box = job.plan.canvas.box
    fused = sampler.evaluate(2, box, box, sampler.start(box)).sums / 2**22
    tiles = np.indices((6, 6)).sum(0).repeat(16, 0).repeat(16, 1) % 2
    assert np.allclose(fused, np.where(tiles == 0, 3 * 20 - 2 * 21, -20 + 2 * 21))
