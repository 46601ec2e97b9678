"""The promise: the picture does not depend on blocks, order, worker or crash. And oracles for fusion and decode."""

import random
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray
import zarr
from engine import (
    FLOW_CONFIG,
    INFO,
    ConvolutionalDenoiser,
    IdentityDenoiser,
    files_of,
    latents_of,
    run_here,
    tiny_job,
    tiny_worker,
)

from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome, finished
from cluster.engine.supervision import TaskFailed
from cluster.engine.work import JobWork
from cluster.following.events import JobStarted
from cluster.jobs.job import Job
from cluster.jobs.stages import Task

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
TOPOLOGIES = ["plane", "ring", "torus"]
METHODS = [
    ("hann", 0.5),
    ("uniform", 0.25),
    ("gaussian", 0.7),
    ("shifted", 0.0),
    ("random-patch", 0.0),
    ("random-grid", 0.0),
]


class Shuffled(InProcess):
    """Takes many tasks at once and runs them in an order of its own."""

    def capacity(self, ready: int) -> int:
        return 50

    def next(self, patience: float = inf) -> Outcome | None:
        self._waiting.rotate(random.Random(len(self._waiting)).randrange(50))
        return super().next(patience)


class InThreads(InProcess):
    """Runs `tasks_in_flight` tasks of one worker at a time."""

    def __init__(self, job: Job, denoiser: Any = None) -> None:
        super().__init__(tiny_worker(job, denoiser))
        self._pool = ThreadPoolExecutor(JobWork(job).tasks_in_flight)
        self._under_way: set[Future[Outcome]] = set()

    def capacity(self, ready: int) -> int:
        return self._tasks_in_flight

    def submit(self, task: Task) -> None:
        self._under_way.add(self._pool.submit(lambda: finished(self._worker.begin(task))))

    def next(self, patience: float = inf) -> Outcome | None:
        done = wait(self._under_way, return_when="FIRST_COMPLETED").done.pop()
        self._under_way.remove(done)
        return done.result()


class CrowdedDenoiser(ConvolutionalDenoiser):
    """Counts how many threads are in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = self.most = 0

    def predict(self, *arguments: Any) -> torch.Tensor:
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.001)
        told = super().predict(*arguments)
        self.inside -= 1
        return told


def info_for(scheduler: str):
    if scheduler == "edm_heun":
        return replace(INFO, scheduler_config={**INFO.scheduler_config, "s_churn": 4.0, "s_noise": 1.003})
    return replace(INFO, scheduler_config=FLOW_CONFIG) if scheduler.startswith("flow") else INFO


def blockwise_equals_whole(tmp_path: Path, monkeypatch, **fields) -> None:
    info, fields = info_for(fields.get("scheduler", "ddim")), {"batch_size": 3, **fields}
    blocks = tiny_job(tmp_path / "blocks", monkeypatch, info, **fields)
    whole = tiny_job(tmp_path / "whole", monkeypatch, info, **{**fields, "block": 64})
    assert len(whole.plan.grid) == 1 < len(blocks.plan.grid)
    assert whole.fingerprint == blocks.fingerprint
    run_here(blocks, executor=Shuffled(tiny_worker(blocks)))
    run_here(whole)
    assert np.array_equal(latents_of(blocks), latents_of(whole))
    pictures = [
        {k: v for k, v in files_of(job.spec.out).items() if k.startswith("image")} for job in (blocks, whole)
    ]
    assert pictures[0] == pictures[1] and pictures[0]


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "dpm_2_a", "flow_euler", "edm_heun"])
def test_solvers_in_blocks_equal_the_whole_canvas(scheduler: str, tmp_path: Path, monkeypatch) -> None:
    """Whatever they remember, on disk; test_crossed.py has all of them with all covers on all topologies."""
    blockwise_equals_whole(
        tmp_path,
        monkeypatch,
        scheduler=scheduler,
        num_inference_steps=5,
        method="random-grid",
        topology="ring",
    )


@pytest.mark.parametrize(("method", "topology"), [("shifted", "torus"), ("random-patch", "ring")])
def test_churn_in_blocks_equals_the_whole_canvas(
    method: str, topology: str, tmp_path: Path, monkeypatch
) -> None:
    """Noise that is stirred in between two evaluations, on covers that are others at each of them."""
    blockwise_equals_whole(
        tmp_path, monkeypatch, scheduler="edm_heun", num_inference_steps=4, method=method, topology=topology
    )


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize(("method", "overlap"), METHODS)
def test_every_cover_in_blocks_equals_the_whole_canvas(
    method, overlap, topology, tmp_path: Path, monkeypatch
) -> None:
    blockwise_equals_whole(
        tmp_path, monkeypatch, scheduler="euler_a", method=method, overlap=overlap, topology=topology,
        guidance_scale=3.0,
    )  # fmt: skip


@pytest.mark.parametrize("scheduler", ["euler_a", "unipc", "ddpm"])
def test_two_threads_of_a_worker_give_the_same_bytes(scheduler: str, tmp_path: Path, monkeypatch) -> None:
    """One computes while the other waits for the disk; the network is never asked by both."""
    fields = {"method": "random-grid", "scheduler": scheduler, "num_inference_steps": 5}
    serial = tiny_job(tmp_path / "serial", monkeypatch, **fields)
    threads = tiny_job(tmp_path / "threads", monkeypatch, **fields)
    assert JobWork(threads).tasks_in_flight == 2
    denoiser = CrowdedDenoiser()
    run_here(serial)
    run_here(threads, executor=InThreads(threads, denoiser))
    assert denoiser.evaluated and denoiser.most == 1
    assert files_of(serial.spec.out) == files_of(threads.spec.out)


@pytest.mark.parametrize(("block", "batch_size"), [(19, 1), (33, 2), (33, 7), (48, 4)])
def test_block_size_does_not_show(block: int, batch_size: int, tmp_path: Path, monkeypatch) -> None:
    fields = {"method": "hann", "overlap": 0.6, "topology": "ring", "width": 2 * 37, "batch_size": batch_size}
    first = tiny_job(tmp_path / "a", monkeypatch, **fields)
    other = tiny_job(tmp_path / "b", monkeypatch, **fields, block=block)
    run_here(first)
    run_here(other)
    assert np.array_equal(latents_of(first), latents_of(other))


def test_each_patch_is_evaluated_once_a_step(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path, monkeypatch, method="hann", batch_size=1)
    denoiser = ConvolutionalDenoiser()
    events = run_here(job, denoiser)
    assert denoiser.evaluated == job.plan.patches == sum(getattr(event, "evaluations", 0) for event in events)


def test_guidance_evaluates_twice(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path, monkeypatch, method="shifted", batch_size=1, guidance_scale=2.0)
    denoiser = ConvolutionalDenoiser()
    run_here(job, denoiser)
    assert denoiser.evaluated == job.plan.evaluations == 2 * job.plan.patches


@pytest.mark.parametrize(("method", "overlap"), METHODS)
@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_an_identity_network_returns_its_input_through_every_fusion(
    method, overlap, topology, tmp_path, monkeypatch
):
    job = tiny_job(tmp_path, monkeypatch, method=method, overlap=overlap, topology=topology)
    worker = tiny_worker(job, IdentityDenoiser())
    canvas, frame = job.plan.canvas, job.plan.canvas.box
    x = worker.sampler.start(frame)
    shown = worker.sampler.schedule.model_input(1, torch.from_numpy(x)).numpy()
    total = np.zeros(x.shape, np.int64)
    for block in range(len(job.plan.grid)):
        around = job.plan.frame(block)
        local = worker.sampler.start(around)
        sums = worker.sampler.evaluate(1, job.plan.grid.box(block), around, local).sums
        for piece, home in canvas.split_at_edges(around):
            total[(slice(None), *home.slices_in(frame))] += sums[(slice(None), *piece.slices_in(around))]
    assert abs(total / 2**22 - shown).max() < 2e-6


def test_a_resumed_job_has_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    """Stopped after every task in turn, each time by a fresh driver."""

    class OneTask(InProcess):
        taken = 0

        def next(self, patience: float = inf) -> Outcome | None:
            self.taken += 1
            if self.taken > 7:
                raise KeyboardInterrupt
            return super().next(patience)

    straight = tiny_job(tmp_path / "straight", monkeypatch, scheduler="dpmpp_2m", method="hann")
    run_here(straight)
    stopped = tiny_job(tmp_path / "stopped", monkeypatch, scheduler="dpmpp_2m", method="hann")
    stops = 0
    while True:
        try:
            run_here(stopped, executor=OneTask(tiny_worker(stopped)))
            break
        except Interrupted:
            stops += 1
    assert stops > 5
    assert files_of(stopped.spec.out) == files_of(straight.spec.out)
    assert not (stopped.spec.out / "work").exists()


def test_a_lost_worker_costs_nothing_but_time(tmp_path: Path, monkeypatch) -> None:
    class Flaky(InProcess):
        """Loses every fifth task after having done it."""

        count = 0

        def next(self, patience: float = inf) -> Outcome | None:
            outcome = super().next(patience)
            self.count += 1
            if self.count % 5 == 0:
                return Outcome(outcome.task, error=RuntimeError("worker died"), lost=True)
            return outcome

    straight = tiny_job(tmp_path / "straight", monkeypatch)
    flaky = tiny_job(tmp_path / "flaky", monkeypatch)
    run_here(straight)
    events = run_here(flaky, executor=Flaky(tiny_worker(flaky)))
    assert sum(type(event).__name__ == "TaskRetried" for event in events) > 10
    assert files_of(flaky.spec.out) == files_of(straight.spec.out)


def test_a_task_that_always_kills_its_worker_ends_the_job(tmp_path: Path, monkeypatch) -> None:
    class Deadly(InProcess):
        def next(self, patience: float = inf) -> Outcome | None:
            return Outcome(self._waiting.popleft(), error=RuntimeError("worker died"), lost=True)

    job = tiny_job(tmp_path, monkeypatch)
    with pytest.raises(TaskFailed, match="denoise 0, block 2: the worker died 4 times"):
        run_here(job, executor=Deadly(tiny_worker(job)))


def test_nan_is_named_by_step_and_patch(tmp_path: Path, monkeypatch) -> None:
    class Broken(ConvolutionalDenoiser):
        def predict(self, latents, timestep, conditioning):
            prediction = super().predict(latents, timestep, conditioning)
            if self.evaluated > 40:
                prediction[0, 0, 0, 0] = torch.nan
            return prediction

    job = tiny_job(tmp_path, monkeypatch)
    with pytest.raises(ArithmeticError, match=r"returned NaN at step \d+, patch at latent \(y \d+, x \d+\)"):
        run_here(job, Broken())


def test_an_identity_codec_through_the_decode_blend(tmp_path: Path, monkeypatch) -> None:
    """What is decoded is the latents, enlarged, whatever the tiles: weights sum to one."""
    from generation.decoding.decode import decode_box

    for topology in TOPOLOGIES:
        job = tiny_job(tmp_path / topology, monkeypatch, topology=topology)
        worker = tiny_worker(job)
        box = job.plan.canvas.box
        field = np.random.default_rng(1).uniform(-1, 1, (3, *box.shape)).astype(np.float32)

        def read(asked, field=field, canvas=job.plan.canvas):
            out = np.empty((3, *asked.shape), np.float32)
            for piece, home in canvas.split_at_edges(asked):
                out[(slice(None), *piece.slices_in(asked))] = field[
                    (slice(None), *home.slices_in(canvas.box))
                ]
            return out

        pixels = decode_box(worker.codec, job.plan.tiling, box, read, torch.device("cpu"))
        expected = field.repeat(2, 1).repeat(2, 2).transpose(1, 2, 0) * 0.5 + 0.5
        assert abs(pixels - expected).max() < 1e-6


def test_any_pixel_size_is_made(tmp_path: Path, monkeypatch) -> None:
    for index, (width, height) in enumerate([(1, 1), (33, 7), (101, 67)]):
        job = tiny_job(tmp_path / str(index), monkeypatch, width=width, height=height)
        run_here(job)
        assert (job.plan.layout.width, job.plan.layout.height) == (width, height)
        from PIL import Image

        finest = max((job.spec.out / "image_files").iterdir(), key=lambda path: int(path.name))
        right = max(finest.iterdir(), key=lambda path: tuple(int(n) for n in path.stem.split("_")))
        column, row = (int(n) for n in right.stem.split("_"))
        with Image.open(right) as tile:
            assert (column * 16 + tile.width, row * 16 + tile.height) == (width, height)


@pytest.mark.parametrize(("scheduler", "evaluations", "blended"), [("ddim", 12, 3), ("heun", 23, 6)])
def test_a_quarter_of_what_is_evaluated_blends(
    scheduler: str, evaluations: int, blended: int, tmp_path, monkeypatch
):
    """Some solvers evaluate the network twice a step."""
    job = tiny_job(tmp_path, monkeypatch, method="shifted", scheduler=scheduler, num_inference_steps=12)
    assert job.plan.steps == evaluations and job.plan.cover.placement.begin == evaluations - blended
    counts = [job.plan.cover.count(k) for k in range(evaluations)]
    assert len(set(counts[-blended:])) == 1 and counts[-blended] > max(counts[:-blended])


@pytest.mark.parametrize(
    ("lost", "empty"),
    [("image_files/*/0_0.png", False), ("image_files/*/0_0.png", True), ("image.zarr/0/c/0/0/1", False)],
)  # TensorStore syncs a shard before it gets its name: there are no empty ones
def test_pixels_that_a_power_cut_took_are_drawn_again(
    lost: str, empty: bool, tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The ledger says that they are there; the latents still are."""
    job = tiny_job(tmp_path, monkeypatch, outputs=("ome-zarr", "deep-zoom"))
    run_here(job)
    before = files_of(tmp_path)
    (tmp_path / "image.dzi").unlink()
    path = sorted(tmp_path.glob(lost))[-1]
    path.unlink()
    if empty:
        path.touch()
    denoiser = ConvolutionalDenoiser()
    events = run_here(job, denoiser)
    assert files_of(tmp_path) == before and denoiser.evaluated == 0
    assert "missing or damaged: 1 of 65 tasks are to be done again, from decode on" in caplog.text
    assert sum(isinstance(event, JobStarted) for event in events) == 2
    assert not any(isinstance(event, JobStarted) for event in run_here(job)[1:])


def test_others_open_the_latents(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path, monkeypatch)
    run_here(job)
    latents = latents_of(job)
    assert np.array_equal(zarr.open_group(tmp_path / "latents.zarr", mode="r")["latents"][:], latents)
    opened = xarray.open_zarr(tmp_path / "latents.zarr", consolidated=False)["latents"]
    assert opened.dims == ("c", "y", "x") and np.array_equal(opened.to_numpy(), latents)
