"""What the engine costs beside the network, batch by batch: each is evaluated once more right after it, alone.

    python benchmarks/paired.py                   # 2048 x 2048, 12 steps, in process and on Ray with one worker
    python benchmarks/paired.py 4096 --steps 4

overhead.py sets a picture against a plain loop that ran a minute before, and a machine whose speed drifts by some
percent within that minute drowns what it measures. Here both share every moment:

    cost = (wall time of the denoising stages - seconds of the second evaluations) / seconds of the second evaluations
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from overhead import EXECUTORS, ROUNDS, DenoiseClock, denoise_seconds, job_of, spread

from cluster.engine.executors import make_here as make
from cluster.engine.executors.contract import TaskRunner
from cluster.engine.executors.ray_actors import connect
from cluster.engine.outcomes import Outcome, StartedTask
from cluster.engine.work import JobWork
from cluster.following.events import Event, TaskDone
from cluster.jobs.job import Job
from cluster.jobs.stages import Task
from cluster.machine import ask_for_huge_pages
from cluster.spec.fields import JobSpec
from generation.models.contracts import Conditioning, Denoiser


@dataclass
class Twice:
    """A network that does everything twice. seconds: what the second times took."""

    network: Denoiser
    seconds: float = 0.0

    def predict(
        self, latents: torch.Tensor, timestep: torch.Tensor, conditioning: Conditioning
    ) -> torch.Tensor:
        prediction = self.network.predict(latents, timestep, conditioning)
        began = time.perf_counter()
        self.network.predict(latents, timestep, conditioning)
        self.seconds += time.perf_counter() - began
        return prediction

    def take(self) -> float:
        """The seconds since this was last asked."""
        seconds, self.seconds = self.seconds, 0.0
        return seconds


@dataclass(frozen=True)
class TellsOfSecondTimes:
    """A worker whose outcomes have the seconds of second evaluations for their own. Satisfies TaskRunner."""

    worker: TaskRunner
    network: Twice

    @property
    def name(self) -> str:
        return self.worker.name

    def begin(self, task: Task) -> StartedTask:
        begun, seconds = self.worker.begin(task), self.network.take()
        if isinstance(begun, Outcome):
            return replace(begun, seconds=seconds)
        wait: Callable[[], Outcome] = begun
        return lambda: replace(wait(), seconds=seconds)


@dataclass(frozen=True)
class Paired:
    """A job whose worker evaluates everything twice. Satisfies Workload."""

    job: Job

    @property
    def spec(self) -> JobSpec:
        return self.job.spec

    @property
    def tasks_in_flight(self) -> int:
        return JobWork(self.job).tasks_in_flight

    def worker(self) -> TaskRunner:
        worker = JobWork(self.job).worker()
        network = Twice(worker.sampler.denoiser)
        worker.sampler = replace(worker.sampler, denoiser=network)
        return TellsOfSecondTimes(worker, network)


class PairedClock(DenoiseClock):
    """The stage's wall time, and the seconds of second evaluations in it."""

    again = 0.0

    def __call__(self, event: Event) -> None:
        super().__call__(event)
        if isinstance(event, TaskDone) and event.stage_name.startswith("denoise"):
            self.again += event.seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("size", nargs="?", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    chosen = parser.parse_args()
    ask_for_huge_pages()
    connect(2)
    with tempfile.TemporaryDirectory() as scratch:
        for name, workers in EXECUTORS:
            if workers == 1:
                job = job_of(Path(scratch) / name, chosen.size, chosen.steps, name, workers)
                print(f"{name:>10}, 1 worker: {spread(costs(job))} of the evaluations alone", flush=True)


def costs(job: Job) -> list[float]:
    """Of each round."""
    executor = make(Paired(job))
    denoise_seconds(job, executor, PairedClock())  # warm
    found = []
    for _ in range(ROUNDS):
        clock = PairedClock()
        found.append((denoise_seconds(job, executor, clock) - clock.again) / clock.again)
    executor.close()
    return found


if __name__ == "__main__":
    main()
