"""Knows how the denoiser learns: its network, noise schedule, loss, and the loop. Knows no codec.

    x_t = alpha_t z + sigma_t e,    v = alpha_t e - sigma_t z            (Salimans and Ho 2022)
    loss = w_t |v - v_theta(x_t, t, class map)|^2,   w_t = min(snr_t + 1, gamma + 1) / (snr_t + 1)

w_t is min-SNR (Hang et al. 2023) with the + 1 of v-prediction: pure noise keeps weight one, so the colours
that a class map alone decides are learned too.
"""

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generation.training.checkpoints import TrainingState, restore, save, start, update_average
from generation.training.data import (
    CropSampler,
    Strip,
    class_map,
    draw_coarsening,
    load_strips,
    one_hot,
    pixels_of,
)
from generation.training.latents import BlockPca, pca_for, to_unit
from generation.training.networks import build_noise_schedule, build_unet
from generation.training.sources import default_cache

LOG = logging.getLogger(__name__)
GAMMA = 5.0
NULL_SHARE = 0.1


@dataclass(frozen=True)
class Phase:
    """Steps up to `until` (a share of the whole run) use `batch` crops of height x width latents.

    With chance `halves` a step uses 2 `batch` crops of half the width or of half the height instead, so that the
    network also knows the half windows that overlaps are made of (Algorithm 6 of DiffCollage, Zhang et al. 2023).
    """

    until: float
    batch: int
    height: int
    width: int
    halves: float = 0.0


@dataclass(frozen=True)
class DenoiserSettings:
    """A training run; the same settings and seed give the same weights."""

    steps: int = 11_000
    learning_rate: float = 1.0e-3
    warmup_steps: int = 200
    weight_decay: float = 0.01
    average_decay: float = 0.999
    seed: int = 7
    phases: tuple[Phase, ...] = (Phase(0.25, 16, 16, 16), Phase(1.0, 8, 32, 32, halves=0.2))


@dataclass(frozen=True)
class Batch:
    """Latents (N, 16, h, w) and one-hot class maps (N, 12, h, w)."""

    latents: Tensor
    classes: Tensor


def draw_batch(sampler: CropSampler, pca: BlockPca, phase: Phase, random: np.random.Generator) -> Batch:
    """Random crops with their coarsened class maps; a tenth of the maps are null."""
    crops = [sampler.draw(random, phase.height, phase.width) for _ in range(phase.batch)]
    maps = np.stack(
        [one_hot(class_map(sampler.strips, crop, draw_coarsening(random), random)) for crop in crops]
    )
    maps[random.random(phase.batch) < NULL_SHARE] = 0.0
    latents = pca.encode(to_unit([pixels_of(sampler.strips, crop) for crop in crops]))
    return Batch(latents, torch.from_numpy(maps))


def squared_errors(
    model: torch.nn.Module, batch: Batch, noise: Tensor, steps: Tensor, schedule: Any
) -> Tensor:
    """|v - v_theta|^2 of each crop, averaged over its latents."""
    noisy = schedule.add_noise(batch.latents, noise, steps)
    target = schedule.get_velocity(batch.latents, noise, steps)
    predicted = model(torch.cat([noisy, batch.classes], dim=1), steps).sample
    errors: Tensor = (predicted - target).square().mean(dim=(1, 2, 3))
    return errors


def loss_weights(steps: Tensor, schedule: Any) -> Tensor:
    """w_t of the equation above."""
    kept: Tensor = schedule.alphas_cumprod.to(steps.device)[steps]
    ratio = kept / (1.0 - kept)
    return (ratio + 1.0).clamp(max=GAMMA + 1.0) / (ratio + 1.0)


def stratified_steps(number: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `number` equal intervals of 0..999: less variance than independent draws."""
    positions = (torch.arange(number) + torch.rand(number, generator=generator)) / number
    return (positions * 1000).long().clamp(max=999)


def learning_rate_at(step: int, settings: DenoiserSettings) -> float:
    """Linear warm-up, then a cosine down to 2 % of the peak."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def build_optimiser(model: torch.nn.Module, settings: DenoiserSettings) -> torch.optim.Optimizer:
    """AdamW with a short memory of the squared gradients."""
    rate, decay = settings.learning_rate, settings.weight_decay
    return torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=decay, eps=1e-10)


def phase_at(step: int, settings: DenoiserSettings) -> Phase:
    """The phase that a step belongs to."""
    return next(phase for phase in settings.phases if step < phase.until * settings.steps)


def halved(phase: Phase, random: np.random.Generator) -> Phase:
    """The phase itself, or, with its chance of halves, one of half windows side by side or above each other."""
    if random.random() >= phase.halves:
        return phase
    if random.random() < 0.5:
        return replace(phase, batch=2 * phase.batch, width=phase.width // 2)
    return replace(phase, batch=2 * phase.batch, height=phase.height // 2)


def train_step(
    state: TrainingState,
    sampler: CropSampler,
    pca: BlockPca,
    schedule: Any,
    settings: DenoiserSettings,
) -> float:
    """One step of AdamW on one batch; returns the weighted loss."""
    device = next(state.model.parameters()).device
    batch = draw_batch(sampler, pca, halved(phase_at(state.step, settings), state.random), state.random)
    steps = stratified_steps(len(batch.latents), state.torch_random)
    noise = torch.randn(batch.latents.shape, generator=state.torch_random)
    batch, noise, steps = (
        Batch(batch.latents.to(device), batch.classes.to(device)),
        noise.to(device),
        steps.to(device),
    )
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate_at(state.step, settings)
    loss = (loss_weights(steps, schedule) * squared_errors(state.model, batch, noise, steps, schedule)).mean()
    state.optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    update_average(state, settings.average_decay)
    return float(loss.detach())


def averaged_unet(average: dict[str, Tensor]) -> Any:
    """A network with the moving average as its weights, for evaluation."""
    model = build_unet()
    model.load_state_dict(average)
    model.eval()
    model.requires_grad_(False)
    return model


def held_out_loss(model: torch.nn.Module, strips: Sequence[Strip], pca: BlockPca, crops: int = 64) -> float:
    """Unweighted v-loss on fixed held-out crops of 32 x 32 latents: fixed noise, evenly spread timesteps."""
    sampler, random = CropSampler(strips, held_out=True), np.random.default_rng(99)
    generator, schedule = torch.Generator().manual_seed(99), build_noise_schedule()
    total = 0.0
    for index in range(0, crops, 8):
        batch = draw_batch(sampler, pca, Phase(1.0, 8, 32, 32), random)
        noise = torch.randn(batch.latents.shape, generator=generator)
        steps = ((torch.arange(8) * crops // 8 + index // 8 + 0.5) * 1000 / crops).long()
        with torch.no_grad():
            total += float(squared_errors(model, batch, noise, steps, schedule).sum())
    return total / crops


@dataclass(frozen=True)
class Habits:
    """How often, in seconds, a run writes its checkpoint and a report."""

    checkpoint_seconds: float = 600.0
    report_seconds: float = 1200.0


def report(state: TrainingState, strips: Sequence[Strip], pca: BlockPca, out: Path, recent: float) -> None:
    """A line of history, and a sheet of samples to look at."""
    from generation.training.samples import write_sheet

    model = averaged_unet(state.average)
    held_out = held_out_loss(model, strips, pca)
    state.history.append({"step": state.step, "seconds": state.seconds, "loss": recent, "held_out": held_out})
    LOG.info("step %d: loss %.4f, held-out v-loss %.4f, %.0f s", state.step, recent, held_out, state.seconds)
    write_sheet(model, pca.decode, strips, out / f"samples-{state.step:06d}.png", seed=state.step)


def train(
    state: TrainingState,
    strips: Sequence[Strip],
    pca: BlockPca,
    settings: DenoiserSettings,
    out: Path,
    habits: Habits,
) -> TrainingState:
    """Train until the settings' number of steps; checkpoints and reports go to `out`."""
    sampler, schedule = CropSampler(strips), build_noise_schedule()
    saved = reported = time.monotonic()
    recent = 1.0
    while state.step < settings.steps:
        began = time.monotonic()
        recent += 0.01 * (train_step(state, sampler, pca, schedule, settings) - recent)
        now = time.monotonic()
        state.seconds += now - began
        if state.step % 100 == 0:
            LOG.info("step %d: loss %.4f, %.3f s/step", state.step, recent, now - began)
        if now - reported > habits.report_seconds or state.step == settings.steps:
            report(state, strips, pca, out, recent)
            reported = time.monotonic()
        if now - saved > habits.checkpoint_seconds or state.step == settings.steps:
            save(state, out / "denoiser.pt")
            saved = time.monotonic()
    return state


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Train the denoiser of the embedded Earth model; resumes from --out."
    )
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="downloads and the composed picture"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, samples, latents.npz")
    parser.add_argument("--steps", type=int, default=DenoiserSettings.steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint-seconds", type=float, default=Habits.checkpoint_seconds)
    parser.add_argument("--report-seconds", type=float, default=Habits.report_seconds)
    return parser.parse_args(arguments)


def main() -> None:
    """Load the data, restore the last checkpoint if there is one, train."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    settings = DenoiserSettings(steps=options.steps)
    strips = load_strips(options.cache)
    pca = pca_for(strips, options.out / "latents.npz")
    torch.manual_seed(settings.seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    unet = build_unet().to(device, memory_format=torch.channels_last)
    state = restore(start(unet, build_optimiser(unet, settings), settings.seed), options.out / "denoiser.pt")
    train(
        state, strips, pca, settings, options.out, Habits(options.checkpoint_seconds, options.report_seconds)
    )


if __name__ == "__main__":
    main()
