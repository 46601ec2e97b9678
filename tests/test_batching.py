"""Batches: whole ones, filled by cells of the canvas; every place of large canvases is an evaluation."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import CHANNELS, ConvolutionalDenoiser, latents_of, run_here, tiny_job

from cluster.following.events import TaskDone
from generation.models.contracts import Conditioning
from generation.sampling.batching import batching
from generation.sampling.covers import Patch, owned_patches
from generation.sampling.methods import Method, Name, blended
from generation.sampling.parts import Cell, Evaluations, Network, Part, PatchQuery
from storage.geometry import TOPOLOGIES, Box, Canvas

METHODS: list[Name] = ["hann", "shifted", "random-patch", "random-grid"]


class Counting(ConvolutionalDenoiser):
    """Remembers the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        self.sizes.append(len(latents))
        return super().predict(latents, timestep, conditioning)


def test_whole_batches_come_first_and_the_last_holds_what_is_left() -> None:
    large = batching(Canvas(512, 512), patch=64, stride=64, size=4)
    assert (large.cell, large.padded) == (128, False)
    assert [list(large.sizes(count)) for count in (0, 1, 4, 6)] == [[], [1], [4] * 4, [4] * 4 + [2] * 2]
    assert [large.seats(count) for count in (0, 1, 4, 6)] == [0, 1, 4, 6]


def test_batches_of_small_canvases_are_padded() -> None:
    small = batching(Canvas(128, 100), patch=64, stride=64, size=4)
    assert small.padded and list(small.sizes(6)) == [4] * 6
    assert [small.seats(count) for count in (0, 1, 4, 6)] == [0, 4, 4, 8]


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("size", [1, 4, 6, 16])
def test_cells_part_the_patches_of_a_canvas(name: Name, size: int, topology) -> None:
    """Each patch is in one cell, so in one batch."""
    canvas, method = Canvas(8 * 16, 9 * 16 + 5, topology), Method(name, 3, 4, 0.5, blended(name, 4))
    cover, batches = method.cover(canvas, 16, 4), batching(canvas, 16, method.stride(16), size)
    for step in (0, 3):
        cells = batches.cells_in(canvas.box)
        found = [patch for cell in cells for patch in owned_patches(cover, step, cell)]
        assert sorted(found) == sorted(owned_patches(cover, step, canvas.box)) and len(found) == len(
            set(found)
        )


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(("size", "guidance"), [(4, 1.0), (4, 3.0), (16, 3.0)])
def test_every_place_of_a_large_canvas_is_an_evaluation(
    name: Name, size: int, guidance: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 8 x 8 patches; plan and events count what the network sees."""
    fields = {"width": 2 * 128, "height": 2 * 128, "num_inference_steps": 2, "outputs": ("ome-zarr",)}
    job = tiny_job(tmp_path, monkeypatch, **fields, method=name, batch_size=size, guidance_scale=guidance)
    denoiser = Counting()
    events = [event for event in run_here(job, denoiser) if isinstance(event, TaskDone)]
    ends = 2 if guidance > 1 else 1
    assert sum(denoiser.sizes) == job.plan.spent.seats == job.plan.spent.total == ends * job.plan.patches
    assert sum(event.seats for event in events) == sum(denoiser.sizes)
    assert sum(event.evaluations for event in events) == job.plan.spent.conditional == job.plan.patches
    assert max(denoiser.sizes) == size


def test_small_canvases_pad_and_the_plan_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = tiny_job(tmp_path, monkeypatch, width=64, height=48, method="shifted", batch_size=4)
    denoiser = Counting()
    events = run_here(job, denoiser)
    assert set(denoiser.sizes) == {4}
    seats = sum(event.seats for event in events if isinstance(event, TaskDone))
    assert job.plan.patches < sum(denoiser.sizes) == job.plan.spent.seats == seats


@pytest.mark.parametrize("size", [2, 5])
def test_no_block_shows(size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of more than one, of which a network's bits depend."""
    pictures = []
    for block in (32, 64, 128):
        job = tiny_job(
            tmp_path / str(block), monkeypatch, width=2 * 128, height=2 * 96, method="shifted", block=block,
            batch_size=size, scheduler="euler_a", guidance_scale=2.0, topology="ring",
        )  # fmt: skip
        run_here(job)
        pictures.append(latents_of(job))
    assert np.array_equal(pictures[0], pictures[1]) and np.array_equal(pictures[0], pictures[2])


class Saying:
    """A conditioner of a number, whichever patch asks."""

    def __init__(self, value: float) -> None:
        self.value = value

    def conditional(self, boxes: list[Box]) -> Conditioning:
        return {"told": torch.full((len(boxes),), self.value)}

    unconditional = conditional


def test_patches_of_several_shapes_have_batches_of_their_own() -> None:
    canvas = Canvas(64, 96)
    boxes = [Box(0, 16, 0, 16), Box(0, 16, 8, 40), Box(16, 32, 0, 16), Box(20, 52, 0, 16), Box(0, 16, 30, 62)]
    parts = (Part(Saying(0.5)),)
    queries = [
        PatchQuery(Patch(box, box), box, torch.full((CHANNELS, *box.shape), float(place)), parts, 1.0)
        for place, box in enumerate(boxes)
    ]
    denoiser = Counting()
    network = Network(denoiser, torch.tensor(3), False, torch.device("cpu"), torch.float32)
    evaluations = Evaluations[Patch](network)
    found = list(evaluations.of([Cell(queries, batching(canvas, 16, 16, 4))]))
    assert [query.box for query, _ in found] == boxes
    assert all(prediction.shape == (CHANNELS, *query.box.shape) for query, prediction in found)
    assert Counter(denoiser.sizes) == Counter([2, 2, 1])
    alone = ConvolutionalDenoiser().predict(
        queries[3].latents[None], torch.tensor(3), {"told": torch.tensor([0.5])}
    )
    assert np.allclose(found[3][1], alone[0], atol=1e-6)
