"""diffusers' schedulers as pure functions of fields. Knows schedulers; knows no canvas, no network, no storage.

A diffusers scheduler is an object with memory. Seen from a latent, that memory is of two kinds: *scalars* (step
index, solver order, ...), which depend on the step alone, and *fields* with the sample's shape (`model_outputs`,
`ets`, `last_sample`, ...), which are pointwise. So step k of any block can be taken by a scheduler whose scalars
come from a dry run of k steps on a tiny sample and whose fields come from storage:

    x[k+1], history[k+1] = step(k, x[k], history[k], fused prediction, noise)

Fields that no later step reads are found by poisoning the dry run with NaN, and are not kept. Steps are taken in
float32 on the CPU, on flat vectors padded to a multiple of 64, so that vectorised and scalar remainders of the
arithmetic cannot make a latent's bits depend on where a block's border lies.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from generation.models.turns import LOADING
from generation.sampling.schedules.addressed_noise import AddressedNoise
from generation.sampling.schedules.contract import Draw
from generation.sampling.schedules.levels import levels_of
from generation.sampling.schedules.memory import (
    PAD,
    Path,
    copied,
    field_paths,
    flatten,
    get_field,
    put_field,
    unflatten,
)
from generation.sampling.schedules.predictions import clean_of, prediction_of
from generation.sampling.schedules.solvers import scaled_input, set_begin

_LOOKAHEAD = 16


@dataclass(frozen=True)
class Snapshot:
    """A scheduler after some steps of the dry run, and the groups of paths that hold each field worth keeping."""

    scheduler: Any
    kept: tuple[tuple[Path, ...], ...]
    dropped: tuple[Path, ...]


class DiffusersSchedule:
    """The steps of one scheduler of diffusers. A Schedule.

    scheduler: one that has its timesteps and has taken no step. Some take more than one evaluation a step, so
    `len(schedule)` may be larger than what they call steps. eta: as in DDIM and TCD; None is the scheduler's own
    default. begin: the evaluation that it begins at, if it was told so.
    """

    def __init__(self, scheduler: Any, eta: float | None = None, begin: int = 0) -> None:
        self._eta = eta
        self._begin = begin
        self.order = int(scheduler.order)
        self.timesteps: torch.Tensor = scheduler.timesteps[begin:]
        self.init_noise_sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
        self._snapshots = self._dry_run(scheduler)

    def __len__(self) -> int:
        """Evaluations of the network for each latent."""
        return len(self.timesteps)

    def fields(self, k: int) -> int:
        """How many history fields are kept beside x after k steps."""
        return len(self._snapshots[k].kept)

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """x[0] of standard normal noise."""
        if self._begin:
            raise ValueError(
                f"a schedule that begins at step {self._begin} starts from noised latents, not from noise"
            )
        return noise * self.init_noise_sigma

    def model_input(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """What the network is shown of x[k]: same shape, pointwise."""
        flat = flatten(x)
        with LOADING.together():
            scaled = scaled_input(copied(self._snapshots[k].scheduler), flat, self.timesteps[k])
        return unflatten(scaled, x)

    def step(
        self, k: int, x: torch.Tensor, history: Sequence[torch.Tensor], prediction: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """x[k] and its history, the fused prediction at x[k] -> x[k+1] and its history; all of x's shape, float32."""
        snapshot = self._snapshots[k]
        scheduler = copied(snapshot.scheduler)
        flat = flatten(x)
        for path in snapshot.dropped:
            put_field(scheduler, path, torch.zeros_like(flat))
        for paths, field in zip(snapshot.kept, history, strict=True):
            loaded = flatten(field).clone()
            for path in paths:
                put_field(scheduler, path, loaded)
        stepped = self._advance(scheduler, k, flat, flatten(prediction), lambda n: flatten(draw(n)))
        kept = [unflatten(get_field(scheduler, paths[0]), x) for paths in self._snapshots[k + 1].kept]
        return unflatten(stepped, x), kept

    def clean(self, k: int, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents that the prediction at x[k] implies, not clipped; pointwise, x's shape."""
        scheduler = self._snapshots[k].scheduler
        if hasattr(scheduler, "precondition_outputs"):  # Karras et al. 2022, equation 7
            denoised: torch.Tensor = scheduler.precondition_outputs(x, prediction, self._level(k)[1])
            return denoised
        return clean_of(self._kind, *self._level(k), x, prediction)

    def noised(self, k: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The x[k] of clean latents and standard normal noise; pointwise, their shape, as diffusers' `add_noise`."""
        signal, sigma = self._level(k)
        return signal * clean + sigma * noise

    def predicted(self, k: int, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The prediction at x[k] that implies these clean latents; pointwise, x's shape."""
        scheduler = self._snapshots[k].scheduler
        if hasattr(scheduler, "precondition_outputs"):
            sigma = self._level(k)[1]
            skipped = scheduler.precondition_outputs(x, torch.zeros_like(x), sigma)
            scaled: torch.Tensor = (clean - skipped) / scheduler.precondition_outputs(0.0, 1.0, sigma)
            return scaled
        return prediction_of(self._kind, *self._level(k), x, clean)

    def begin(self, k: int) -> DiffusersSchedule:
        """The steps from k on, of a fresh solver: what diffusers' `set_begin_index` leaves."""
        scheduler = copied(self._snapshots[0].scheduler)
        set_begin(scheduler, self._begin + k)
        return DiffusersSchedule(scheduler, self._eta, self._begin + k)

    @property
    def _kind(self) -> str:
        """What the network predicts."""
        kind: str = self._snapshots[0].scheduler.config.get("prediction_type", "flow_prediction")
        return kind

    def _level(self, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(a, s) of x[k] = a clean + s noise."""
        return levels_of(self._snapshots[k].scheduler, self._begin + k, self.timesteps[k])

    def _advance(
        self, scheduler: Any, k: int, x: torch.Tensor, prediction: torch.Tensor, draw: Draw
    ) -> torch.Tensor:
        timestep = self.timesteps[k]
        scaled_input(scheduler, x, timestep)
        takes_eta = self._eta is not None and "eta" in inspect.signature(scheduler.step).parameters
        extra = {"eta": self._eta} if takes_eta else {}
        with LOADING.together(), AddressedNoise(draw):
            result: torch.Tensor = scheduler.step(prediction, timestep, x, return_dict=False, **extra)[0]
        return result

    def _dry_run(self, scheduler: Any) -> list[Snapshot]:
        """States before every step and after the last, on a sample of one padded row."""
        states = [copied(scheduler)]
        probe = torch.linspace(0.1, 0.9, PAD).reshape(1, 1, 1, PAD)
        for k in range(len(self.timesteps)):
            following = copied(states[-1])
            probe = self._advance(following, k, probe, probe * 0.5, lambda n: torch.full((1, 1, 1, PAD), 0.3))
            states.append(following)
        if not bool(torch.isfinite(probe).all()):
            raise ValueError(
                f"scheduler {type(scheduler).__name__} leads to no numbers in {len(self.timesteps)} evaluations at "
                "this model's noise levels; take more steps, or another scheduler"
            )
        return [self._snapshot(state, k) for k, state in enumerate(states)]

    def _snapshot(self, scheduler: Any, k: int) -> Snapshot:
        groups: dict[int, list[Path]] = {}
        for path in field_paths(scheduler):
            groups.setdefault(id(get_field(scheduler, path)), []).append(path)
        alive = {key for key, paths in groups.items() if self._is_read(scheduler, k, paths)}
        kept = tuple(tuple(paths) for key, paths in groups.items() if key in alive)
        dropped = tuple(path for key, paths in groups.items() if key not in alive for path in paths)
        return Snapshot(scheduler, kept, dropped)

    def _is_read(self, scheduler: Any, k: int, paths: Sequence[Path]) -> bool:
        """Whether NaN in a field reaches x within the longest memory that a solver has."""
        poisoned = copied(scheduler)
        x = torch.ones(1, 1, 1, PAD)
        for path in paths:
            put_field(poisoned, path, torch.full_like(x, torch.nan))
        for later in range(k, min(k + _LOOKAHEAD, len(self.timesteps))):
            x = self._advance(poisoned, later, x, torch.ones_like(x), lambda n: torch.ones(1, 1, 1, PAD))
            if bool(torch.isnan(x).any()):
                return True
        return False
