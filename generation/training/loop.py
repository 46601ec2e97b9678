"""Knows how a run goes from step to step: rates, precision, average, checkpoints, reports. Knows no model or data.

    draw  ->  loss  ->  backward  ->  mean over the workers  ->  clip  ->  AdamW  ->  moving average

Step k of worker r draws with generators seeded by (seed, r, k): a run that is stopped and resumed gives the same
weights as one that was not, and the next batch can be drawn while this one is computed.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from generation.training.checkpoints import TrainingState, save, update_average
from generation.training.curve import write_curve

LOG = logging.getLogger(__name__)
FLOOR = 0.02
CURVE_POINTS = 400
TOLD_SECONDS = 10.0
SMOOTHING = 0.02
Batch = TypeVar("Batch")


class Diverged(ArithmeticError):
    """The loss is no number any more."""


class TrainingSubject(Protocol[Batch]):
    """What is trained."""

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> Batch:
        """What a step sees; reads no weights."""

    def loss(self, state: TrainingState, batch: Batch) -> Tensor:
        """A scalar; the step follows its gradient."""

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """Pictures for people go to `out`; figures of the averaged weights come back."""


@dataclass(frozen=True)
class TrainingPace:
    """How far and how fast the weights move. learning_rates: the peak for each group of the optimiser."""

    steps: int
    learning_rates: tuple[float, ...]
    warmup_steps: int = 200
    average_decay: float = 0.999
    seed: int = 7


@dataclass(frozen=True)
class Habits:
    """How often, in seconds, a run writes its checkpoint and a report."""

    checkpoint_seconds: float = 600.0
    report_seconds: float = 1200.0


class Team(Protocol):
    """The workers that train the same weights on different crops; each calls the same methods in the same order."""

    @property
    def rank(self) -> int:
        """0 for the one that writes files."""

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Replace each gradient by its mean over the workers."""

    def agree(self, decisions: tuple[bool, ...]) -> tuple[bool, ...]:
        """What the first worker decided."""


class Alone:
    """A team of one."""

    rank = 0

    def average(self, gradients: Sequence[Tensor]) -> None:
        """They are their own mean."""

    def agree(self, decisions: tuple[bool, ...]) -> tuple[bool, ...]:
        """No one else decides."""
        return decisions


@dataclass(frozen=True)
class TrainingRun:
    """Where and with whom training happens. autocast: the precision of the network's arithmetic, float32 for none.

    stop: asked between steps; once it says yes, a checkpoint is written and KeyboardInterrupt raised.
    """

    out: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    autocast: torch.dtype = torch.float32
    habits: Habits = field(default_factory=Habits)
    team: Team = field(default_factory=Alone)
    stop: Callable[[], bool] = lambda: False


def build_optimiser(
    modules: Sequence[nn.Module], pace: TrainingPace, weight_decay: float = 0.01
) -> torch.optim.Optimizer:
    """AdamW with a short memory of the squared gradients; a group for each module."""
    groups = [
        {"params": list(module.parameters()), "lr": rate}
        for module, rate in zip(modules, pace.learning_rates, strict=True)
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.99), weight_decay=weight_decay, eps=1e-10)


def learning_rate_at(step: int, pace: TrainingPace) -> float:
    """The share of the peak: linear warm-up, then a cosine down to 2 %."""
    if step < pace.warmup_steps:
        return (step + 1) / pace.warmup_steps
    done = (step - pace.warmup_steps) / max(1, pace.steps - pace.warmup_steps)
    return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def stratified_steps(number: int, generator: torch.Generator) -> Tensor:
    """One timestep from each of `number` equal intervals of 0..999: less variance than independent draws."""
    positions = (torch.arange(number) + torch.rand(number, generator=generator)) / number
    return (positions * 1000).long().clamp(max=999)


def generators(seed: int, rank: int, step: int) -> tuple[np.random.Generator, torch.Generator]:
    """The generators of one step of one worker."""
    random = np.random.default_rng([seed, rank, step])
    return random, torch.Generator().manual_seed(int(random.integers(2**62)))


def batches(
    subject: TrainingSubject[Batch], first: int, pace: TrainingPace, run: TrainingRun
) -> Iterator[Batch]:
    """The batch of every step from `first` on; beside a GPU the next one is drawn while this one is used."""

    def drawn(step: int) -> Batch:
        return subject.draw(step, *generators(pace.seed, run.team.rank, step))

    if run.device.type == "cpu":
        yield from map(drawn, range(first, pace.steps))
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(drawn, first)
        for step in range(first, pace.steps):
            batch = ahead.result()
            if step + 1 < pace.steps:
                ahead = pool.submit(drawn, step + 1)
            yield batch


def take_step(
    state: TrainingState, subject: TrainingSubject[Batch], batch: Batch, pace: TrainingPace, run: TrainingRun
) -> float:
    """One step of the optimiser; returns the loss."""
    share = learning_rate_at(state.step, pace)
    for group, rate in zip(state.optimiser.param_groups, pace.learning_rates, strict=True):
        group["lr"] = rate * share
    state.optimiser.zero_grad(set_to_none=True)
    with torch.autocast(run.device.type, run.autocast, enabled=run.autocast != torch.float32):
        loss = subject.loss(state, batch)
    state.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # PyTorch's is not annotated
    run.team.average([tensor.grad for tensor in state.model.parameters() if tensor.grad is not None])
    state.scaler.unscale_(state.optimiser)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.scaler.step(state.optimiser)
    state.scaler.update()
    state.step += 1
    update_average(state, pace.average_decay)
    return float(loss.detach())


@dataclass
class Alarm:
    """Rings when a number of seconds has passed since it was set."""

    seconds: float
    since: float = field(default_factory=time.monotonic)

    def rings(self) -> bool:
        """Whether it is time."""
        return time.monotonic() - self.since > self.seconds

    def reset(self) -> None:
        """Begin to wait again."""
        self.since = time.monotonic()


def train(
    name: str, state: TrainingState, subject: TrainingSubject[Batch], pace: TrainingPace, run: TrainingRun
) -> TrainingState:
    """Train until the last step; `out` gets NAME.pt, NAME-loss.png and what the subject reports."""
    saving, reporting = Alarm(run.habits.checkpoint_seconds), Alarm(run.habits.report_seconds)
    telling = Alarm(TOLD_SECONDS)
    if state.step >= pace.steps:
        LOG.info("%s: all %d steps are done; raise --steps to go on", name, pace.steps)
    began = time.monotonic()
    for batch in batches(subject, state.step, pace, run):
        loss = checked(take_step(state, subject, batch, pace, run), state.step)
        spent = time.monotonic() - began
        note(state, loss, spent, pace)
        if telling.rings() and run.team.rank == 0:
            tell(name, state, spent, pace)
            telling.reset()
        last = state.step == pace.steps
        decisions = (last or reporting.rings(), last or saving.rings(), run.stop() and not last)
        report, saved, stop = run.team.agree(decisions)
        if report and run.team.rank == 0:
            write_report(name, state, subject, run)
        if (saved or stop) and run.team.rank == 0:
            save(state, run.out / f"{name}.pt")
        if stop:
            LOG.info("%s: stopped after step %d; the same command goes on from there", name, state.step)
            raise KeyboardInterrupt
        for alarm, rang in ((reporting, report), (saving, saved)):
            if rang:
                alarm.reset()
        began = time.monotonic()
    return state


def note(state: TrainingState, loss: float, seconds: float, pace: TrainingPace) -> None:
    """Write a step down in the history: the smoothed loss, at some hundred steps of a run."""
    state.seconds += seconds
    state.loss = loss if state.loss is None else state.loss + SMOOTHING * (loss - state.loss)
    if state.step % max(1, pace.steps // CURVE_POINTS) == 0:
        state.history.append({"step": state.step, "seconds": state.seconds, "loss": state.loss})


def tell(name: str, state: TrainingState, seconds: float, pace: TrainingPace) -> None:
    """A line of progress."""
    LOG.info("%s: step %d of %d, loss %.4f, %.3f s a step", name, state.step, pace.steps, state.loss, seconds)


def checked(loss: float, step: int) -> float:
    """The loss, or Diverged."""
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} after step {step}: lower learning_rate, or use precision float32")
    return loss


def write_report(name: str, state: TrainingState, subject: TrainingSubject[Batch], run: TrainingRun) -> None:
    """The subject's pictures and figures, and the loss so far as a curve."""
    run.out.mkdir(parents=True, exist_ok=True)
    figures = subject.report(state, run.out)
    loss = float("nan") if state.loss is None else state.loss
    state.history.append({"step": state.step, "seconds": state.seconds, "loss": loss, **figures})
    write_curve(state.history, run.out / f"{name}-loss.png")
    told = ", ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in figures.items())
    LOG.info("%s: step %d, loss %.4f, %s, %.0f s", name, state.step, loss, told, state.seconds)
