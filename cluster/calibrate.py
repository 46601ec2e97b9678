"""How long one evaluation of a job's network takes here, by doing a few. Knows jobs and clocks; writes nothing."""

from __future__ import annotations

import time

from cluster.job import Job

SECONDS_ENOUGH = 10.0


def seconds_per_evaluation(job: Job) -> float:
    """Seconds of one evaluation in the job's own batches, on this machine, by one worker.

    Loads the model and evaluates the first block's patches: once to warm up, then once more, unless the first time
    took so long that warming up cannot have mattered. Raises what loading and evaluating raise.
    """
    import torch

    from cluster.worker import build_sampler
    from generation.covers import owned_patches
    from generation.models.loading import load

    spec = job.spec
    threads = torch.get_num_threads()
    torch.set_num_threads(spec.threads)
    try:
        model = load(
            spec.model, dtype=spec.dtype or "float32", device=spec.device or "cpu", loras=spec.loras,
            allow_pickle=spec.allow_pickle,
        )  # fmt: skip
        sampler = build_sampler(job, model)
        own, frame = job.plan.grid.box(0), job.plan.frame(0)
        x = sampler.start(frame)
        evaluations = len(owned_patches(sampler.cover, 0, own)) * (2 if job.plan.guided else 1)
        for _ in range(2):
            began = time.perf_counter()
            sampler.evaluate(0, own, frame, x)
            seconds = time.perf_counter() - began
            if seconds > SECONDS_ENOUGH:
                break
    finally:
        torch.set_num_threads(threads)
    return seconds / max(1, evaluations)
