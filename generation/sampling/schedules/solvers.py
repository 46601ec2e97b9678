"""diffusers' schedulers, built for a model and ready to step. Knows settings; knows no field, no canvas."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import diffusers
import torch

from generation.sampling.schedules.names import FLOW_CLASSES, is_flow, resolve

NO_CLIPPING = {"clip_sample": False}
"""Unless the model asks for it: diffusers' default, to clip x0 to [-1, 1], is for pixels; latents reach further."""

_OTHER_LEVELS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")

LEAST_STEPS = {"PNDMScheduler": 4}
"""Steps that a solver begins with, whose number is fixed."""
MEMORYLESS = ("DDIMScheduler", "DDPMScheduler")
"""Schedulers whose steps depend on the timestep alone, so that they can begin at any without being told."""


def build(name: str, config: Mapping[str, Any]) -> Any:
    """A scheduler by either of its names, for a model. Raises ValueError for what blocks cannot do."""
    class_name, overrides = resolve(name)
    scheduler_class = getattr(diffusers, class_name)
    settings = NO_CLIPPING | dict(config) | _flow_overrides(class_name, scheduler_class, config) | overrides
    accepted = inspect.signature(scheduler_class.__init__).parameters
    settings = {key: value for key, value in settings.items() if key in accepted}
    scheduler = scheduler_class.from_config(settings)
    _refuse_what_is_not_pointwise(scheduler, class_name)
    _refuse_levels_beyond_a_flow(scheduler, class_name)
    return scheduler


def _flow_overrides(class_name: str, scheduler_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that let a solver written for diffusion integrate a flow; an error where it cannot."""
    model_flows = is_flow(config)
    if model_flows == (class_name in FLOW_CLASSES):
        return {}
    if not model_flows:
        raise ValueError(
            f"scheduler {class_name} needs a flow-matching model; this model predicts noise, choose another"
        )
    if "use_flow_sigmas" not in inspect.signature(scheduler_class.__init__).parameters:
        raise ValueError(
            f"scheduler {class_name} cannot integrate a flow-matching model; choose flow_euler or dpmpp_2m"
        )
    shift = float(config.get("shift", 1.0))
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


def _refuse_what_is_not_pointwise(scheduler: Any, class_name: str) -> None:
    config = scheduler.config
    if config.get("thresholding"):
        raise ValueError(
            f"{class_name} with thresholding looks at the whole sample; set thresholding to false"
        )
    if "learned" in str(config.get("variance_type", "")):
        raise ValueError(f"{class_name} with a learned variance is not supported; choose another scheduler")
    if config.get("stochastic_sampling"):
        raise ValueError(f"{class_name} with stochastic_sampling is not supported; set it to false")


def _refuse_levels_beyond_a_flow(scheduler: Any, class_name: str) -> None:
    """diffusers lets these settings go before use_flow_sigmas: levels above 1, where a flow has none, and then NaN."""
    wrong = [name for name in _OTHER_LEVELS if scheduler.config.get(name)]
    if wrong and scheduler.config.get("use_flow_sigmas"):
        raise ValueError(
            f"{class_name} with {wrong[0]} cannot integrate a flow-matching model; choose flow_euler or dpmpp_2m"
        )


def set_timesteps(scheduler: Any, steps: int, mu: float | None, linear_sigmas: bool) -> None:
    """Tell it how many steps it takes, and what a flow model's pipeline passes beside.

    Raises ValueError for fewer than its first ones need.
    """
    least = LEAST_STEPS.get(type(scheduler).__name__, 1)
    if steps < least and not scheduler.config.get("skip_prk_steps"):
        raise ValueError(
            f"scheduler {type(scheduler).__name__} takes {least} steps or more, not {steps}; choose another, as ddim"
        )
    takes = inspect.signature(scheduler.set_timesteps).parameters
    shift = {"mu": mu} if mu is not None and "mu" in takes else {}
    if linear_sigmas and "sigmas" in takes and not scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)], **shift)
    else:
        scheduler.set_timesteps(steps, **shift)


def scaled_input(scheduler: Any, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """diffusers' method of that name, which flow schedulers do without."""
    if not hasattr(scheduler, "scale_model_input"):
        return x
    scaled: torch.Tensor = scheduler.scale_model_input(x, timestep)
    return scaled


def set_begin(scheduler: Any, k: int) -> None:
    """Tell a fresh scheduler that it begins at evaluation k. Raises ValueError where it cannot."""
    name, order = type(scheduler).__name__, int(scheduler.order)
    if not 0 <= k < len(scheduler.timesteps):
        raise ValueError(
            f"{name} has no step {k} to begin at; its steps are 0 to {len(scheduler.timesteps) - 1}"
        )
    if k % order:
        raise ValueError(
            f"{name} cannot begin at evaluation {k}, amid a step of {order}; give a multiple of {order}"
        )
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(k)
    elif k and name not in MEMORYLESS:
        raise ValueError(
            f"{name} cannot begin at step {k}: it takes its first step twice, wherever that is; choose ddim or dpmpp_2m"
        )
