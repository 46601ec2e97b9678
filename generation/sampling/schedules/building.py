"""A schedule by its scheduler's name. Composes names and implementations; knows no mathematics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from generation.models.turns import LOADING
from generation.sampling.schedules.contract import Schedule
from generation.sampling.schedules.diffusers_schedule import DiffusersSchedule
from generation.sampling.schedules.edm_heun import edm_heun
from generation.sampling.schedules.names import EDM_HEUN
from generation.sampling.schedules.solvers import build, set_timesteps

NATIVE: Mapping[str, Callable[[Mapping[str, Any], int], Schedule]] = {EDM_HEUN: edm_heun}
"""Name -> the schedule by a model's scheduler configuration and a number of steps; those that are not diffusers'."""


def build_schedule(
    name: str,
    config: Mapping[str, Any],
    num_inference_steps: int,
    eta: float | None = None,
    mu: float | None = None,
    linear_sigmas: bool = False,
) -> Schedule:
    """The schedule of a scheduler, by either of its names, for a model.

    config: the model's own scheduler configuration. num_inference_steps: as in diffusers. eta: as in DDIM and TCD; None
    is the scheduler's own default. mu, linear_sigmas: what a flow model's pipeline passes to `set_timesteps` (the shift
    for the native patch; sigmas from 1 to 1/n). Raises ValueError where the scheduler cannot work with the model.
    """
    with LOADING.together():
        if name in NATIVE:
            return NATIVE[name](config, num_inference_steps)
        scheduler = build(name, config)
        set_timesteps(scheduler, num_inference_steps, mu, linear_sigmas)
    return DiffusersSchedule(scheduler, eta)
