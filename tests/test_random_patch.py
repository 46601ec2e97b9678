"""Random patches: the serial rule, literally and slowly, against plans by place; owners, counts, guidance, times."""

import math
import random
from collections import defaultdict
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import ConvolutionalDenoiser, latents_of, run_here, tiny_job, tiny_worker
from PIL import Image
from typer.testing import CliRunner, Result

from cluster.commands.app import app
from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.history import DoneTasks
from cluster.following.status import LEDGER
from cluster.jobs.job import Job
from cluster.results.times import Reached, picture_of, reached_by, read_times
from cluster.spec import job_file
from cluster.spec.fields import SpecError
from generation.sampling import random_covers
from generation.sampling.covers import Patch, Placement, owned_patches
from generation.sampling.denoise import Sampler
from generation.sampling.fusion import Normaliser, from_fixed, to_fixed, uniform
from generation.sampling.random_covers import RandomCover, RandomGrid, lots
from storage.geometry import PLANE, RING, TOPOLOGIES, TORUS, Box, Canvas, Topology

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
COVERS = [RandomCover, RandomGrid]
SIZES = [(53, 41, 16), (16, 16, 16), (17, 70, 15), (97, 33, 7)]


def box_round(canvas: Canvas, patch: int, y: int, x: int) -> Box:
    """The patch round a latent, moved inside the canvas on the axes that do not wrap."""
    half = patch // 2
    y0 = y - half if canvas.topology.wraps_y else min(max(y - half, 0), canvas.height - patch)
    x0 = x - half if canvas.topology.wraps_x else min(max(x - half, 0), canvas.width - patch)
    return Box(y0, y0 + patch, x0, x0 + patch)


def latents_in(canvas: Canvas, box: Box) -> tuple[np.ndarray, np.ndarray]:
    """Index of a box that may wrap."""
    return np.ix_(np.arange(box.y0, box.y1) % canvas.height, np.arange(box.x0, box.x1) % canvas.width)


@torch.inference_mode()
def predicted(sampler: Sampler, step: int, given: torch.Tensor, box: Box, count: int) -> np.ndarray:
    """null + (1 + omega) (conditional - null), of a batch that holds one patch `count` times."""
    batch, timestep = given.expand(count, -1, -1, -1), sampler.schedule.timesteps[step]
    told = sampler.denoiser.predict(batch, timestep, sampler.conditioner.conditional([box] * count))
    if sampler.guidance_scale > 1:
        null = sampler.denoiser.predict(batch, timestep, sampler.conditioner.unconditional([box] * count))
        told = null + sampler.guidance_scale * (told - null)
    return told[0].numpy()


def batch_sizes(job: Job, step: int) -> dict[tuple[int, int], int]:
    """(y0, x0) of a step's patches -> evaluations in their batches: by squares of the canvas, whole batches first."""
    canvas, patch, whole = job.plan.canvas, job.info.patch, job.spec.batch_size
    side, squares = math.ceil(math.sqrt(whole)) * patch, defaultdict(list)
    for _, y0, x0 in serial_plan(canvas, patch, job.spec.seed, step):
        y, x = (y0 + patch // 2) % canvas.height, (x0 + patch // 2) % canvas.width
        squares[y // side, x // side].append((y0, x0))
    sizes = {}
    for patches in squares.values():
        while patches:
            batch, patches = patches[:whole], patches[whole:]
            sizes |= dict.fromkeys(batch, len(batch))
    return sizes


def serial(job: Job) -> tuple[np.ndarray, int]:
    """The published loop, one patch after another: final latents, and how many patches it took.

    Mended: every step runs, the snapshot at step 0 is the state itself, it ends when all latents have arrived.
    """
    canvas, patch, steps = job.plan.canvas, job.info.patch, job.plan.steps
    sampler = tiny_worker(job).sampler
    now = sampler.start(canvas.box)
    before = now.copy()  # the snapshot: each latent as it was one step earlier
    times = np.zeros(canvas.box.shape, int)
    sizes = [batch_sizes(job, step) for step in range(steps)]
    patches = 0
    while times.min() < steps:
        step = int(times.min())
        candidates = np.argwhere(times == step)
        drawn = lots(job.spec.seed, step, canvas.box, canvas)[tuple(candidates.T)]
        y, x = candidates[drawn.argmin()].tolist()
        box = box_round(canvas, patch, y, x)
        here = (slice(None), *latents_in(canvas, box))
        mine = times[here[1:]] == step
        shown = np.where(mine, now[here], before[here])
        given = sampler.schedule.model_input(step, torch.from_numpy(shown))
        size = sizes[step][box.y0 % canvas.height, box.x0 % canvas.width]
        prediction = from_fixed(to_fixed(predicted(sampler, step, given, box, size)))
        (advanced,) = sampler.advance(step, box, [shown], prediction)
        before[here] = np.where(mine, shown, before[here])
        now[here] = np.where(mine, advanced, now[here])
        times[here[1:]] += mine
        patches += 1
    return now, patches


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(
    ("width", "height", "seed", "fields"),
    [
        (106, 82, 0, {"scheduler": "ddim", "eta": 1.0, "batch_size": 5}),
        (46, 90, 1, {"scheduler": "euler_a", "guidance_scale": 3.0}),
        (32, 130, 2, {"scheduler": "ddim", "eta": 1.0, "block": 23, "batch_size": 2}),
    ],
)
def test_a_job_equals_the_serial_rule_bit_for_bit(
    width, height, seed, fields, topology, tmp_path: Path, monkeypatch
) -> None:
    job = tiny_job(
        tmp_path, monkeypatch, method="random-patch", topology=topology, width=width, height=height, seed=seed,
        **fields,
    )  # fmt: skip
    assert job.plan.blocks > 1
    run_here(job)
    expected, patches = serial(job)
    assert np.array_equal(latents_of(job), expected)
    assert job.plan.patches == patches


def serial_plan(canvas: Canvas, patch: int, seed: int, step: int) -> list[tuple[int, int, int]]:
    """(lot, y0, x0) of each patch of a step, by going through all latents."""
    left = lots(seed, step, canvas.box, canvas).copy()
    taken = np.iinfo(np.uint64).max
    found = []
    while left.min() < taken:
        y, x = np.unravel_index(left.argmin(), left.shape)
        box = box_round(canvas, patch, int(y), int(x))
        found.append((int(left[y, x]), box.y0 % canvas.height, box.x0 % canvas.width))
        left[latents_in(canvas, box)] = taken
    return found


def whole_plan(cover: Placement, step: int) -> list[Patch]:
    """Every patch once, by rank."""
    found = owned_patches(cover, step, cover.canvas.box)
    assert len(found) == cover.count(step)
    return list(found)


@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
@pytest.mark.parametrize("size", [*SIZES, (150, 210, 16)], ids=str)
def test_plans_by_place_are_the_serial_plan(
    size: tuple[int, int, int], topology: Topology, monkeypatch
) -> None:
    height, width, patch = size
    canvas = Canvas(height, width, topology)
    monkeypatch.setattr(random_covers, "COUNTED_REGIONS", 10_000)
    for region, margin, seed in ((4, 2, 0), (1, 1, 1), (2, 1, 2**64 - 1)):
        monkeypatch.setattr(random_covers, "REGION", region)
        monkeypatch.setattr(random_covers, "MARGIN", margin)
        random_covers.picked_patches.cache_clear()
        found = whole_plan(RandomCover(canvas, patch, seed), step=3)
        assert [(p.rank, p.box.y0 % height, p.box.x0 % width) for p in found] == serial_plan(
            canvas, patch, seed, step=3
        )
    random_covers.picked_patches.cache_clear()


def test_lots_pick_as_uniform_draws_do() -> None:
    """The number of patches of a step, by lots and by drawing among the open latents; standard errors apart."""
    canvas, patch, runs = Canvas(40, 40), 16, 150
    counts = [len(serial_plan(canvas, patch, seed, 0)) for seed in range(runs)]
    drawn = []
    for seed in range(runs):
        left, generator, patches = np.ones(canvas.box.shape, bool), np.random.default_rng(seed), 0
        while left.any():
            y, x = generator.choice(np.argwhere(left)).tolist()
            left[latents_in(canvas, box_round(canvas, patch, y, x))] = False
            patches += 1
        drawn.append(patches)
    error = np.sqrt((np.var(counts) + np.var(drawn)) / runs)
    assert abs(np.mean(counts) - np.mean(drawn)) < 3 * error
    assert 0.8 < np.std(counts) / np.std(drawn) < 1.25


def test_lots_belong_to_places_and_differ_nearby() -> None:
    canvas = Canvas(300, 200, TORUS)
    whole = lots(5, 2, canvas.box, canvas)
    around = lots(5, 2, Box(-20, 90, 150, 260), canvas)
    assert np.array_equal(around, np.roll(whole, (20, -150), (0, 1))[:110, :110])
    assert len(np.unique(whole)) == whole.size
    assert not np.array_equal(whole, lots(5, 3, canvas.box, canvas))
    assert not np.array_equal(whole, lots(6, 2, canvas.box, canvas))


@pytest.mark.parametrize("cover_of", COVERS)
@pytest.mark.parametrize("topology", TOPOLOGIES.values(), ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_latent_has_one_owner_at_every_step(size, topology: Topology, cover_of) -> None:
    height, width, patch = size
    canvas = Canvas(height, width, topology)
    cover = cover_of(canvas, patch, 11)
    for step in range(4):
        weights = Normaliser(cover, step, canvas.clip(canvas.box.expanded(patch)), uniform)
        owners = np.zeros(canvas.box.shape, int)
        left = np.ones(canvas.box.shape, int)
        for each in whole_plan(cover, step):
            assert each.box.shape == (patch, patch) and canvas.clip(each.box) == each.box
            owned = weights.of(each)
            assert set(np.unique(owned)) <= {0.0, 1.0}
            assert owned.sum() == left[latents_in(canvas, each.box)].sum(), "the first patch owns a latent"
            left[latents_in(canvas, each.box)] = 0
            for piece, home in canvas.split_at_edges(each.box):
                owners[home.slices_in(canvas.box)] += owned[piece.slices_in(each.box)].astype(int)
        assert (owners == 1).all()


@pytest.mark.parametrize("cover_of", COVERS)
@pytest.mark.parametrize("topology", [PLANE, RING, TORUS], ids=str)
def test_a_part_of_a_plan_is_what_the_whole_has_there(topology: Topology, cover_of) -> None:
    canvas = Canvas(53, 70, topology)
    cover = cover_of(canvas, 16, 4)
    around = canvas.clip(canvas.box.expanded(40))
    everything = list(cover.overlapping(2, around))
    assert [patch.rank for patch in everything] == sorted(patch.rank for patch in everything)
    for box in (Box(11, 19, 5, 23), Box(0, 3, 0, 2), canvas.clip(Box(-9, 12, 60, 80))):
        assert list(cover.overlapping(2, box)) == [p for p in everything if p.box.intersection(box)]
    whole = Normaliser(cover, 2, around, uniform)
    frame = canvas.clip(Box(7, 41, -3, 30))
    part = Normaliser(cover, 2, frame, uniform)
    assert np.array_equal(part.rank, whole.rank[frame.slices_in(around)])


def test_what_the_covers_cost() -> None:
    """Patches of a step, in areas of the canvas; about 2.1 to 2.2, and 1.3."""
    canvas = Canvas(640, 640, TORUS)
    published, cheap = RandomCover(canvas, 16, 0), RandomGrid(canvas, 16, 0)
    areas = [
        np.mean([cover.count(step) for step in range(3)]) * 16**2 / canvas.box.area
        for cover in (published, cheap)
    ]
    assert 2.05 < areas[0] < 2.25 and 1.25 < areas[1] < 1.35
    for cover, usual in ((published, areas[0]), (cheap, areas[1])):
        assert cover.typical_count(0, Box(0, 128, 0, 128)) == pytest.approx(usual * 64, rel=0.05)


def test_no_patch_of_a_random_grid_owns_next_to_nothing() -> None:
    def least(cover: Placement) -> float:
        weights = Normaliser(cover, 0, canvas.box.expanded(64), uniform)
        return min(weights.of(patch).mean() for patch in whole_plan(cover, 0))

    canvas = Canvas(7 * 56, 7 * 56, TORUS)  # whole cells
    assert least(RandomGrid(canvas, 64, 1)) > 0.35
    assert least(RandomCover(canvas, 64, 1)) < 0.02


def test_large_canvases_are_counted_by_a_sample(monkeypatch) -> None:
    cover = RandomCover(Canvas(1600, 1300, RING), 16, 3)
    estimate = cover.count(0)
    monkeypatch.setattr(random_covers, "COUNTED_REGIONS", len(cover.regions))
    assert estimate != cover.count(0) == pytest.approx(estimate, rel=0.03)


def test_a_place_in_a_huge_canvas_is_planned_alone() -> None:
    """A million latents a side: what is asked for is planned, and nothing else."""
    canvas = Canvas(1_000_000, 1_000_000, TORUS)
    random_covers.picked_patches.cache_clear()
    for cover_of in COVERS:
        patches = list(cover_of(canvas, 64, 0).overlapping(0, Box(999_900, 1_000_028, 500_000, 500_128)))
        assert 9 <= len(patches) <= 40
    assert random_covers.picked_patches.cache_info().currsize <= 9


# --- in the engine ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["random-patch", "random-grid"])
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_blocks_do_not_show_and_patches_are_evaluated_once(
    method, topology, tmp_path: Path, monkeypatch
) -> None:
    fields = {"method": method, "topology": topology, "scheduler": "unipc", "batch_size": 3}
    pictures = []
    for block in (16, 33, 64):
        job = tiny_job(tmp_path / str(block), monkeypatch, **fields, block=block)
        denoiser = ConvolutionalDenoiser()
        run_here(job, denoiser)
        assert denoiser.evaluated == job.plan.patches
        pictures.append(latents_of(job))
    assert np.array_equal(pictures[0], pictures[1]) and np.array_equal(pictures[0], pictures[2])


def test_cond_scale_counts_guidance_from_zero(tmp_path: Path, monkeypatch) -> None:
    def made(name: str, **fields) -> np.ndarray:
        job = tiny_job(tmp_path / name, monkeypatch, method="random-patch", **fields)
        run_here(job)
        return latents_of(job)

    assert np.array_equal(made("omega", cond_scale=3.0), made("scale", guidance_scale=4.0))
    null = made("null", cond_scale=0.0)
    assert np.array_equal(null, made("words", cond_scale=0.0, prompt="other words altogether"))
    assert not np.array_equal(null, made("told", guidance_scale=1.0))


def test_cond_scale_and_guidance_scale_must_agree(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(SpecError, match="guidance_scale 7.5 and cond_scale 3 disagree"):
        tiny_job(tmp_path, monkeypatch, cond_scale=3.0, guidance_scale=7.5)


# --- the picture of the times ----------------------------------------------------------------------------------------


def stopped_job(folder: Path, monkeypatch, after: int, **fields) -> Job:
    """A job stopped after so many tasks, taken in a random order."""

    class Stops(InProcess):
        def capacity(self, ready: int) -> int:
            return 50

        def next(self, patience: float = inf) -> Outcome | None:
            self.taken = getattr(self, "taken", 0) + 1
            if self.taken > after:
                raise KeyboardInterrupt
            self._waiting.rotate(random.Random(self.taken).randrange(50))
            return super().next(patience)

    job = tiny_job(folder, monkeypatch, **fields)
    job_file.save(job.spec, job.fingerprint)
    with pytest.raises(Interrupted):
        run_here(job, executor=Stops(tiny_worker(job)))
    return job


@pytest.mark.parametrize("method", ["random-patch", "random-grid", "shifted", "hann"])
@pytest.mark.parametrize("topology", ["plane", "torus"])
def test_times_are_the_steps_whose_patches_are_all_evaluated(method, topology, tmp_path, monkeypatch) -> None:
    job = stopped_job(tmp_path, monkeypatch, after=31, method=method, topology=topology)
    plan, canvas = job.plan, job.plan.canvas
    done = DoneTasks(tmp_path / LEDGER)
    done.look()
    expected, going = np.zeros(canvas.box.shape, int), np.ones(canvas.box.shape, bool)
    for step in range(plan.steps):
        for block in set(range(plan.blocks)) - set(done.tasks.blocks(step).tolist()):
            weights = plan.cover.weights(step, plan.frame(block))
            for patch in owned_patches(plan.cover, step, plan.grid.box(block)):
                y, x = latents_in(canvas, patch.box)
                going[y, x] &= weights.of(patch) == 0
        expected += going
    reached = read_times(tmp_path)
    assert np.array_equal(reached.times, expected)
    assert len(np.unique(expected)) > 1, "nothing to see"
    assert sum(reached.shares().values()) == pytest.approx(1)
    run_here(job)
    assert (read_times(tmp_path).times == plan.steps).all()


def test_times_of_canvases_too_large_for_every_latent_are_those_of_blocks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("cluster.results.times.EXACT_AREA", 100)
    job = tiny_job(tmp_path, monkeypatch, method="random-patch")
    stages = np.arange(job.plan.blocks) % 7
    reached = reached_by(job.plan, stages)
    assert reached.times.size == job.plan.blocks < 100
    whole, counts = reached.every(1), dict.fromkeys(range(5), 0)
    for block, count in enumerate(stages):
        box = job.plan.grid.box(block)
        assert (whole[box.slices_in(job.plan.canvas.box)] == min(count, 4)).all()
        counts[min(count, 4)] += box.area
    assert reached.shares() == {step: area / job.plan.canvas.box.area for step, area in counts.items()}
    assert np.asarray(picture_of(reached)).any()


def test_the_picture_of_times_tells_steps_apart() -> None:
    times = np.repeat([[3, 4], [4, 5]], 20, axis=1).repeat(30, axis=0)
    picture = np.asarray(picture_of(Reached(times, 12, times.shape)))
    inside = picture[12:, 12:]
    corners = [tuple(inside[y, x].tolist()) for y, x in ((0, 0), (0, 670), (1010, 670))]
    assert len(set(corners)) == 3
    assert sum(corners[0]) < sum(corners[1]) < sum(corners[2])


def test_status_paints_the_times(tmp_path: Path, monkeypatch) -> None:
    def status(name: str) -> Result:
        return CliRunner().invoke(app, ["status", str(folder), "--times", str(tmp_path / name)])

    folder = tmp_path / "job"
    stopped_job(folder, monkeypatch, after=31, method="random-patch")
    told = status("times.png")
    assert (told.exit_code, "of the latents, of 4 steps" in told.stderr) == (0, True)
    assert "a test, 106x82" in told.stdout
    with Image.open(tmp_path / "times.png") as picture:
        assert picture.format == "PNG" and picture.width > 900
    assert (status("times.jpg").exit_code, status("new/one.png").exit_code) == (2, 0)
    assert "end it in .png" in status("times.jpg").stderr
