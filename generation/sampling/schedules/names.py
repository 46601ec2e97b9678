"""Schedulers by name, and which settings mean something to each. Knows tables; imports diffusers only to ask it.

diffusers' own    a short name -> its class and what to set otherwise; or the class's name
ours              edm_heun, Karras et al. 2022, Algorithm 2 (generation/sampling/schedules/edm_heun.py)
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

FLOW_CLASSES = (
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
)
EDM_CLASSES = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")
"""Schedulers of networks that were trained with the preconditioning of Karras et al. 2022."""

SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "sa_solver": ("SASolverScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
}

CLASS_NAMES = tuple(sorted({name for name, _ in SHORT_NAMES.values()}))

EDM_HEUN = "edm_heun"
NATIVE_NAMES = (EDM_HEUN,)
"""Schedulers that are not diffusers'."""

_ZERO_SNR, _PREDICTION = "rescale_betas_zero_snr", "prediction_type"


def check_name(name: str) -> None:
    """Raises ValueError for a name that no scheduler has."""
    if name not in NATIVE_NAMES:
        resolve(name)


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Class name and overrides of a scheduler of diffusers by either of its names. Raises ValueError for others."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if name in CLASS_NAMES:
        return name, {}
    known = (*SHORT_NAMES, *NATIVE_NAMES)
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]}? There are" if near else "choose one of"
    raise ValueError(f"unknown scheduler {name!r}; {meant} {', '.join(known)}, or a class name of them")


def takes_eta(name: str) -> bool:
    """Whether a scheduler, by either of its names, has noise that eta scales."""
    return own_eta(name) is not None


def own_eta(name: str) -> float | None:
    """The eta that a scheduler takes by itself, by either of its names; None where it takes none."""
    if name in NATIVE_NAMES:
        return None
    given = inspect.signature(_class_of(name).step).parameters.get("eta")
    return None if given is None else float(given.default)


def takes(name: str, setting: str, config: Mapping[str, Any]) -> bool:
    """Whether a setting of noise means something to a scheduler, by either of its names, of a model's configuration."""
    if is_flow(config):
        return False
    if name in NATIVE_NAMES:
        return setting == _PREDICTION or (setting == _ZERO_SNR and not is_edm(config))
    return setting in inspect.signature(_class_of(name).__init__).parameters


def is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration is that of a flow."""
    return _class_in(config) in FLOW_CLASSES or config.get(_PREDICTION) == "flow_prediction"


def is_edm(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration is that of a network that was trained as Karras et al. 2022 do."""
    return _class_in(config) in EDM_CLASSES


def _class_in(config: Mapping[str, Any]) -> str:
    return str(config.get("_class_name", ""))


def _class_of(name: str) -> Any:
    import diffusers

    return getattr(diffusers, resolve(name)[0])
