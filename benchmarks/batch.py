"""What batches cost on top of the network, and what they take of memory.

    python benchmarks/batch.py time                 # draws against a plain loop over full batches, embedded model
    python benchmarks/batch.py memory               # 100,000 requests, planned and tracked, with a stub for a model
    python benchmarks/batch.py memory --requests 20000

time: the plain loop evaluates the same number of full batches of the same shape with nothing else in it. Rounds
alternate (loop, draws, loop, draws, ...) and medians are compared. Then the same pictures as a batch, from its plan to
_SUCCESS: with decoding, PNG, Parquet and SHA-256.
memory: peak resident memory of the process before and after; the stub's pictures are of one colour.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from cluster.datasets import run as running
from cluster.datasets.checking import planned
from cluster.datasets.drawing import BatchWorker
from cluster.datasets.extras import Extras
from cluster.datasets.plan import Batch, Sizes, enter
from cluster.datasets.requests import Numbered, Table
from cluster.datasets.small import SmallPicture, SmallPictures, frame_of
from cluster.engine.executors.in_process import InProcess
from cluster.engine.worker import build_sampler, class_map
from cluster.following.events import unheard
from cluster.jobs.job import Job, prepare
from cluster.jobs.models import loaded
from cluster.spec.fields import JobSpec
from generation.models.loading import describe
from generation.sampling.packing import Spent, draw_together

ROUNDS = 3


def spec_of(out: Path, side: int, seed: int, steps: int) -> JobSpec:
    return JobSpec(
        prompt="forest", width=side, height=side, seed=seed, num_inference_steps=steps, executor="in-process",
        device="cpu", out=out,
    )  # fmt: skip


def compare(images: int, side: int, steps: int) -> None:
    """Draws and the plain loop, in turns; then everything that a picture takes, decoding and all."""
    torch.set_num_threads(1)
    jobs = [prepare(spec_of(Path("unused"), side, seed, steps)) for seed in range(images)]
    model = loaded(jobs[0].spec)
    samplers = [build_sampler(job, model, class_map(job)) for job in jobs]
    frames = [frame_of(job) for job in jobs]
    spent = draw_together(samplers, frames).spent  # warm
    first = samplers[0]
    latents = torch.randn(first.batching.size, first.channels, jobs[0].info.patch, jobs[0].info.patch)
    box = next(iter(first.cover.overlapping(0, first.canvas.box))).box
    told = first.conditioner.conditional([box] * first.batching.size)
    full = spent.evaluations / first.batching.size
    whole_batches = max(1, round(full))

    @torch.inference_mode()
    def loop() -> float:
        began = time.perf_counter()
        for index in range(whole_batches):
            first.denoiser.predict(latents, first.schedule.timesteps[index % steps], told)
        return (time.perf_counter() - began) * full / whole_batches

    def draws() -> float:
        began = time.perf_counter()
        draw_together(samplers, frames)
        return time.perf_counter() - began

    rounds = [(loop(), draws()) for _ in range(ROUNDS)]
    loops, packed = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(
        f"{images} pictures of {side} x {side}, {steps} steps: {spent.evaluations} evaluations, {spent.batches} batches"
    )
    print(
        f"loop over {full:.1f} full batches {loops:.2f} s, draws {packed:.2f} s: throughput {loops / packed:.3f} of it"
    )
    whole = SmallPictures(jobs[0])
    whole.draw(jobs[:1])
    began = time.perf_counter()
    whole.draw(jobs)
    print(f"with decoding {time.perf_counter() - began:.2f} s")
    seconds = statistics.median(end_to_end(images, side, steps, whole) for _ in range(ROUNDS))
    print(
        f"a batch from its plan to _SUCCESS {seconds:.2f} s: throughput {loops / seconds:.3f} of the loop's, "
        f"{images / seconds:.2f} pictures a second"
    )


def end_to_end(images: int, side: int, steps: int, loaded: SmallPictures) -> float:
    """Seconds of running.run: draws, decoding, PNG, parts, the shard, its manifest, the card. The model is loaded."""
    with tempfile.TemporaryDirectory() as scratch:
        batch = planned_batch(spec_of(Path(scratch) / "set", side, 0, steps), images)
        began = time.perf_counter()
        running.run(batch, Extras(), unheard, lambda work: InProcess(BatchWorker(work, loaded)))
        return time.perf_counter() - began


def planned_batch(spec: JobSpec, requests: int) -> Batch:
    """So many requests, checked, in a claimed folder."""
    (spec.out / "work").mkdir(parents=True)
    given = {"prompt", "seed", "width", "height"}
    table = Table("requests", Numbered(requests))
    batch = planned(spec, describe("embedded"), table, given, None, Sizes())
    enter(batch, resume=False)
    return batch


class Stub(SmallPictures):
    """Pictures of one colour."""

    def __init__(self) -> None: ...

    def draw(self, jobs: Sequence[Job]) -> tuple[list[SmallPicture | Exception], Spent]:
        found: list[SmallPicture | Exception] = []
        for job in jobs:
            shape = (job.spec.height, job.spec.width)
            found.append(
                SmallPicture(np.full((*shape, 3), job.spec.seed % 256, np.uint8), np.zeros(shape, np.uint8))
            )
        return found, Spent(len(jobs), 1, len(jobs))


def track(requests: int, side: int) -> None:
    """Plan, draw with the stub, write and finish, all in this process."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "set"
        spec = spec_of(out, side, 0, 2)
        describe("embedded")
        print(f"{requests:,} requests of {side} x {side}; after the imports {peak()} MiB")
        began = time.perf_counter()
        batch = planned_batch(spec, requests)
        print(
            f"checked and planned in {time.perf_counter() - began:.1f} s: {batch.shards} shards, peak {peak()} MiB"
        )
        began = time.perf_counter()
        summary = running.run(batch, Extras(), unheard, lambda work: InProcess(BatchWorker(work, Stub())))
        print(
            f"tracked to the end in {time.perf_counter() - began:.1f} s: {summary.drawn:,} rows, peak {peak()} MiB"
        )


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["time", "memory"])
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--side", type=int)
    parser.add_argument("--steps", type=int, default=3)
    chosen = parser.parse_args()
    if chosen.what == "time":
        compare(chosen.images, chosen.side or 256, chosen.steps)
    else:
        track(chosen.requests, chosen.side or 32)


if __name__ == "__main__":
    main()
