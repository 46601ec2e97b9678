"""What the engine costs on top of the network: time as a ratio to a plain loop in the same run, memory by size.

    python benchmarks/overhead.py time            # in process, and on Ray with one and two workers
    python benchmarks/overhead.py workers         # Ray with one worker and with two, in turn
    python benchmarks/overhead.py scaling         # two plain loops at once over one: what the machine allows
    python benchmarks/overhead.py cores           # Ray with a worker on one core, over two workers on two cores
    python benchmarks/overhead.py memory          # peak RSS of a worker at growing sizes
    python benchmarks/overhead.py memory 2048 8192

Times are of the denoising stages only, and the plain loop evaluates the same number of batches of the same shape
with nothing else in it. Each round runs the loop and every executor, and gives a ratio for each; their median stands.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from cluster.engine import driver
from cluster.engine.closing import open_ledger
from cluster.engine.executors import make_here as make
from cluster.engine.executors.contract import Executor
from cluster.engine.executors.ray_actors import connect
from cluster.engine.work import JobWork
from cluster.engine.worker import build_worker
from cluster.following.events import Event, JobStarted, TaskDone
from cluster.jobs.job import Job, prepare
from cluster.machine import ask_for_huge_pages
from cluster.spec.fields import JobSpec

ROUNDS = 5
EXECUTORS = (("in-process", 1), ("ray", 1), ("ray", 2))


def job_of(folder: Path, side: int, steps: int, executor: str, workers: int) -> Job:
    return prepare(
        JobSpec(
            prompt="archipelago", width=side, height=side, num_inference_steps=steps, executor=executor,
            workers=workers, out=folder, device="cpu", outputs=("ome-zarr",),
        )
    )  # fmt: skip


def batches(job: Job) -> float:
    """Whole batches that would hold all evaluations."""
    return job.plan.evaluations / job.plan.batching.size


def plain_loop(job: Job) -> Callable[[], float]:
    """Seconds of as many evaluations in whole batches, in one loop."""
    sampler = build_worker(job).sampler
    side, size, whole = job.info.patch, job.plan.batching.size, max(1, round(batches(job)))
    latents = torch.randn(size, job.info.latent_channels, side, side)
    box = next(iter(sampler.cover.overlapping(0, job.plan.canvas.box))).box
    told = sampler.conditioner.conditional([box] * size)

    @torch.inference_mode()
    def loop() -> float:
        torch.set_num_threads(job.spec.threads)
        began = time.perf_counter()
        for index in range(whole):
            sampler.denoiser.predict(latents, sampler.schedule.timesteps[index % len(sampler.schedule)], told)
        return (time.perf_counter() - began) * batches(job) / whole

    return loop


class DenoiseClock:
    """Seconds from the job's start to its last denoising task."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobStarted):
            self.began = time.perf_counter()
        if isinstance(event, TaskDone) and event.stage_name.startswith("denoise"):
            self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def denoise_seconds(job: Job, executor: Executor, clock: DenoiseClock | None = None) -> float:
    """Denoise, decode and pyramid from nothing; seconds of the first."""
    subprocess.run(["rm", "-rf", str(job.spec.out)], check=True)
    clock = clock or DenoiseClock()
    with open_ledger(job) as ledger:
        driver.run(job, executor, ledger, clock)
    return clock.seconds


def compare(side: int, steps: int) -> None:
    """Rounds of the loop and of every executor, one after another, so that a machine whose speed drifts spoils none."""
    with tempfile.TemporaryDirectory() as scratch:
        connect(sum(workers for _, workers in EXECUTORS))
        jobs = {
            (name, workers): job_of(Path(scratch) / f"{name}-{workers}", side, steps, name, workers)
            for name, workers in EXECUTORS
        }
        alone = jobs["in-process", 1]
        loop = plain_loop(alone)
        plan = alone.plan
        print(
            f"{side} x {side}, {steps} steps, {plan.evaluations} evaluations in {plan.spent.seats} seats of batches of "
            f"{plan.batching.size}, one thread a worker"
        )
        executors = {key: make(JobWork(job)) for key, job in jobs.items()}
        loop()
        for key, job in jobs.items():  # warm
            denoise_seconds(job, executors[key])
        loops, engines = [], {key: [] for key in jobs}
        for _ in range(ROUNDS):
            loops.append(loop())
            for key, job in jobs.items():
                engines[key].append(denoise_seconds(job, executors[key]))
        for executor in executors.values():
            executor.close()
    print(f"loop {spread(loops)} s")
    for (name, workers), seconds in engines.items():
        ratios = [engine / bare for bare, engine in zip(loops, seconds, strict=True)]
        print(f"{name:>10}, {workers} worker(s): {spread(seconds)} s, over the loop {spread(ratios)}")
    pairs = zip(engines["ray", 1], engines["ray", 2], strict=True)
    print(f"two workers over one: {spread([one / two for one, two in pairs])}x")


def spread(values: list[float]) -> str:
    """Median, lowest and highest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def workers(side: int, steps: int, rounds: int) -> None:
    """Ray with two workers, each time between two rounds with one, so that speed which drifts evenly drops out."""
    with tempfile.TemporaryDirectory() as scratch:
        connect(3)
        jobs = {count: job_of(Path(scratch) / str(count), side, steps, "ray", count) for count in (1, 2)}
        executors = {count: make(JobWork(job)) for count, job in jobs.items()}

        def seconds(count: int) -> float:
            return denoise_seconds(jobs[count], executors[count])

        seconds(1), seconds(2)  # warm
        ones, ratios = [seconds(1)], []
        for _ in range(rounds):
            two = seconds(2)
            ones.append(seconds(1))
            ratios.append((ones[-2] + ones[-1]) / 2 / two)
            print(
                f"one {ones[-2]:.2f} s, two {two:.2f} s, one {ones[-1]:.2f} s: {ratios[-1]:.3f}x", flush=True
            )
        for executor in executors.values():
            executor.close()
    print(f"two workers over one: {spread(ratios)}x")


def scaling(side: int, steps: int) -> None:
    """Two processes that each run the plain loop, beside one alone: the most that two workers could do."""
    rounds = []
    for _ in range(ROUNDS):
        alone = max(loops_at_once(1, side, steps))
        rounds.append(2 * alone / max(loops_at_once(2, side, steps)))
    print(f"two plain loops at once do {spread(rounds)} times the work of one")


def loops_at_once(count: int, side: int, steps: int) -> list[float]:
    """Seconds of each of so many processes, which begin their loops together."""
    command = [sys.executable, __file__, "loop", str(side), "--steps", str(steps)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(count)]
    for process in processes:
        process.stdout.readline()  # ready
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    return [float(process.communicate()[0]) for process in processes]


def one_loop(side: int, steps: int) -> None:
    """A process of `loops_at_once`."""
    with tempfile.TemporaryDirectory() as scratch:
        loop = plain_loop(job_of(Path(scratch) / "job", side, steps, "in-process", 1))
        loop()  # warm
        print("ready", flush=True)
        sys.stdin.readline()
        print(loop())


def cores(side: int, steps: int) -> None:
    """A whole Ray (driver, daemons and workers) on one core with one worker, over one on two cores with two."""
    ratios = []
    for _ in range(ROUNDS):
        one, two = (float(told_by("on-cores", side, steps, count)) for count in (1, 2))
        ratios.append(one / two)
        print(f"one core {one:.2f} s, two cores {two:.2f} s")
    print(f"two workers on two cores do {spread(ratios)} times the work of one on one core")


def on_cores(side: int, steps: int, count: int) -> None:
    """A process of `cores`: so many workers, and everything else, on as many cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
    with tempfile.TemporaryDirectory() as scratch:
        job = job_of(Path(scratch) / "job", side, steps, "ray", count)
        executor = make(JobWork(job))
        denoise_seconds(job, executor)  # warm
        print(denoise_seconds(job, executor))
        executor.close()


def told_by(what: str, side: int, steps: int, workers: int) -> str:
    """What this program says in a process of its own."""
    command = [sys.executable, __file__, what, str(side), "--steps", str(steps), "--workers", str(workers)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


class MemoryWatch:
    """The peak resident memory of the process that does the tasks, as the kernel has kept it."""

    peak = 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, TaskDone):
            process = event.worker.rpartition(":")[2]
            status = Path(f"/proc/{process}/status").read_text()
            self.peak = int(re.findall(r"VmHWM:\s*(\d+)", status)[0]) / 1024


def peak_rss(side: int, steps: int) -> None:
    """Run one job on one Ray actor and print the actor's peak resident memory."""
    with tempfile.TemporaryDirectory() as scratch:
        job = job_of(Path(scratch) / "job", side, steps, "ray", 1)
        executor, watch = make(JobWork(job)), MemoryWatch()
        with open_ledger(job) as ledger:
            driver.run(job, executor, ledger, watch)
        executor.close()
    print(f"{side:>6} x {side:<6} {watch.peak:8.0f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["time", "workers", "scaling", "loop", "cores", "on-cores", "memory", "one-size"]
    )
    parser.add_argument("sizes", nargs="*", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of `workers`")
    chosen = parser.parse_args()
    ask_for_huge_pages()  # for the plain loop, too
    if chosen.what == "time":
        compare((chosen.sizes or [2048])[0], chosen.steps or 12)
    elif chosen.what == "workers":
        workers((chosen.sizes or [4096])[0], chosen.steps or 12, chosen.rounds)
    elif chosen.what == "scaling":
        scaling((chosen.sizes or [2048])[0], chosen.steps or 4)
    elif chosen.what == "loop":
        one_loop(chosen.sizes[0], chosen.steps)
    elif chosen.what == "cores":
        cores((chosen.sizes or [4096])[0], chosen.steps or 4)
    elif chosen.what == "on-cores":
        on_cores(chosen.sizes[0], chosen.steps, chosen.workers)
    elif chosen.what == "one-size":
        peak_rss(chosen.sizes[0], chosen.steps or 1)
    else:
        for side in chosen.sizes or [2048, 8192, 16384]:
            command = [sys.executable, __file__, "one-size", str(side), "--steps", str(chosen.steps or 1)]
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
