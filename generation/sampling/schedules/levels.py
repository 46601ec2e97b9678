"""How noisy x[k] is in a scheduler of diffusers. Knows the conventions of its classes; knows no prediction."""

from __future__ import annotations

from typing import Any

import torch

from generation.sampling.schedules.names import FLOW_CLASSES


def levels_of(scheduler: Any, k: int, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, s) of x[k] = a clean + s noise, in the scheduler's own convention."""
    if hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas"):  # DDIM and its like
        variance = scheduler.alphas_cumprod[int(timestep)]
        return variance**0.5, (1 - variance) ** 0.5
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # solvers whose samples keep their variance, or flow
        signal, noise = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[k])
        return signal, noise
    if type(scheduler).__name__ in FLOW_CLASSES:
        return 1 - scheduler.sigmas[k], scheduler.sigmas[k]
    return torch.tensor(1.0), _karras_sigma(scheduler, k)


def _karras_sigma(scheduler: Any, k: int) -> torch.Tensor:
    """The noise level of x[k] where its signal is not scaled; the KDPM2 pair evaluates half way between two levels."""
    half_way = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
    index = k - 1 if type(scheduler).__name__ == "KDPM2AncestralDiscreteScheduler" else k
    sigma: torch.Tensor = scheduler.sigmas_interpol[index] if half_way else scheduler.sigmas[k]
    return sigma
