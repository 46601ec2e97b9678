"""Which schedulers go with which predictions, and diffusers' own word on noise. Not a test itself."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from engine import FLOW_CONFIG

from generation.sampling.schedules.names import SHORT_NAMES
from generation.sampling.schedules.solvers import build

KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")
NOT_IN_DIFFUSERS = {("pndm", "sample"), ("euler_a", "sample"), ("dpm_2", "sample"), ("dpm_2_a", "sample")} | {
    ("edm_euler", "sample"), ("edm_dpmpp_2m", "sample"),
}  # fmt: skip
FLOWS = {
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "deis",
    "unipc",
    "sa_solver",
    "flow_euler",
}
SIGMA_DATA = 0.5


def cases() -> Iterator[tuple[str, str]]:
    for name in SHORT_NAMES:
        for kind in KINDS:
            if kind == "flow_prediction" and name in FLOWS:
                yield name, kind
            if kind != "flow_prediction" and name != "flow_euler" and (name, kind) not in NOT_IN_DIFFUSERS:
                yield name, kind


def config_of(kind: str) -> dict[str, object]:
    return FLOW_CONFIG if kind == "flow_prediction" else {"prediction_type": kind, "clip_sample": False}


def field(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 3, 5, 7)))


class Noised:
    """diffusers' own word on how noisy a sample is at step k."""

    def __init__(self, name: str, kind: str, steps: int) -> None:
        self.scheduler = build(name, config_of(kind))
        self.scheduler.set_timesteps(steps)
        self.is_sa_solver_in_a_flow = (name, kind) == ("sa_solver", "flow_prediction")

    def at(self, k: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if hasattr(
            self.scheduler, "set_begin_index"
        ):  # else two steps at one timestep would be taken for one
            self.scheduler.set_begin_index(0)
            self.scheduler._step_index = k
        if self.is_sa_solver_in_a_flow:  # whose add_noise knows no flow
            return (1 - self.scheduler.sigmas[k]) * clean + self.scheduler.sigmas[k] * noise
        timestep = self.scheduler.timesteps[k : k + 1]
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(clean, timestep, noise)
        return self.scheduler.add_noise(clean, noise, timestep)


def exact_prediction(
    noised: Noised, k: int, kind: str, clean: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """What a network that knows everything returns."""
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    a, s = noised.at(k, one, zero), noised.at(k, zero, one)
    if hasattr(noised.scheduler, "precondition_outputs"):  # Karras et al. 2022, table 1; v has the other sign
        total = s**2 + SIGMA_DATA**2
        aim = clean - SIGMA_DATA**2 / total * noised.at(k, clean, noise)
        return aim / (s * SIGMA_DATA / total**0.5) * (1 if kind == "epsilon" else -1)
    return {
        "epsilon": noise,
        "v_prediction": (a * noise - s * clean) / (a**2 + s**2) ** 0.5,
        "sample": clean,
        "flow_prediction": noise - clean,
    }[kind]
