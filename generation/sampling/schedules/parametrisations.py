"""How a trained network becomes D(x; sigma), the clean latents in x = clean + sigma noise (Karras et al. 2022).

arXiv 2206.00364, table 1: D(x; sigma) = c_skip x + c_out F(c_in x, c_noise). Every family is trained on
a clean + s noise for some a, s; divided by a, that is the paper's x at sigma = s / a. So its network is shown a x:

    trained on       a                     told                                 source
    alphas           1 / sqrt(1+sigma^2)   the step of that sigma, a fraction   table 1, VP; k-diffusion's external.py;
                                           between two of them by log sigma     Euler and Heun in diffusers
    a flow           1 / (1+sigma)         1000 s, with s = sigma / (1+sigma)   Lipman et al. 2023, a = 1 - s
    the paper's own  (its c_in)            log(sigma) / 4                       table 1, EDM

In the first row sigma^2 = (1 - abar) / abar. Steps are not rounded to whole ones: networks embed them as real numbers,
and a rounded one would tell of other noise than there is. Knows networks' conventions; knows no solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from generation.sampling.schedules.names import is_edm, is_flow
from generation.sampling.schedules.predictions import clean_of, prediction_of

PAPERS_SIGMAS = (0.002, 80.0)
_NOISE_SETTINGS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "rescale_betas_zero_snr",
)
_KINDS = ("epsilon", "v_prediction", "sample")


class Parametrisation(Protocol):
    """A family's network, seen at noise levels sigma > 0. Pointwise."""

    @property
    def sigmas(self) -> tuple[float, float]:
        """The least and the largest level that sampling takes, unless it is told otherwise."""

    def timestep(self, sigma: float) -> float:
        """What the network is told."""

    def shown(self, sigma: float, x: torch.Tensor) -> torch.Tensor:
        """What the network is shown of x."""

    def clean(self, sigma: float, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """D(x; sigma) by the network's prediction."""

    def predicted(self, sigma: float, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The prediction by which D(x; sigma) is this."""


@dataclass(frozen=True)
class AlphasTraining:
    """A network trained on sqrt(abar) clean + sqrt(1 - abar) noise. log_sigmas: of the training's steps, increasing."""

    log_sigmas: NDArray[np.float64]
    kind: str

    @property
    def sigmas(self) -> tuple[float, float]:
        """The training's own, but no more than the paper's: cosine schedules end at 20000, where steps are wasted."""
        return math.exp(self.log_sigmas[0]), min(math.exp(self.log_sigmas[-1]), PAPERS_SIGMAS[1])

    def timestep(self, sigma: float) -> float:
        """The training step of that level, a fraction between two of them; beyond them the first or the last one."""
        return float(np.interp(math.log(sigma), self.log_sigmas, np.arange(len(self.log_sigmas))))

    def shown(self, sigma: float, x: torch.Tensor) -> torch.Tensor:
        """x, scaled to the variance that the network was trained with."""
        return x / math.sqrt(1 + sigma**2)

    def clean(self, sigma: float, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents, where the network says epsilon, v or the latents themselves."""
        return clean_of(self.kind, 1.0, sigma, x, prediction)

    def predicted(self, sigma: float, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The epsilon, v or latents that the network would have to say."""
        return prediction_of(self.kind, 1.0, sigma, x, clean)


@dataclass(frozen=True)
class FlowTraining:
    """A network trained on (1 - s) clean + s noise to predict noise - clean. steps: what s = 1 is told as."""

    steps: int

    @property
    def sigmas(self) -> tuple[float, float]:
        """The paper's: at s = 1 sigma has no end, and at 80 a flow is noise but for one part in 81."""
        return PAPERS_SIGMAS

    def timestep(self, sigma: float) -> float:
        """The flow's s, in training steps."""
        return self.steps * sigma / (1 + sigma)

    def shown(self, sigma: float, x: torch.Tensor) -> torch.Tensor:
        """The point of the flow that x is, in the flow's own scale."""
        return x / (1 + sigma)

    def clean(self, sigma: float, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """Where the flow began, if it went straight to this point."""
        return clean_of("flow_prediction", 1.0, sigma / (1 + sigma), self.shown(sigma, x), prediction)

    def predicted(self, sigma: float, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The flow that leads from these clean latents to this point."""
        return prediction_of("flow_prediction", 1.0, sigma / (1 + sigma), self.shown(sigma, x), clean)


@dataclass(frozen=True)
class KarrasTraining:
    """A network trained as the paper does. sign: of c_out; diffusers calls it v where that is negative."""

    sigma_data: float
    sign: float

    @property
    def sigmas(self) -> tuple[float, float]:
        """The paper's, by which it was trained."""
        return PAPERS_SIGMAS

    def timestep(self, sigma: float) -> float:
        """The paper's c_noise."""
        return math.log(sigma) / 4

    def shown(self, sigma: float, x: torch.Tensor) -> torch.Tensor:
        """The paper's c_in x."""
        return x / math.hypot(sigma, self.sigma_data)

    def clean(self, sigma: float, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The paper's c_skip x + c_out F."""
        skip, out = self._scalings(sigma)
        return skip * x + out * prediction

    def predicted(self, sigma: float, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The paper's F = (clean - c_skip x) / c_out."""
        skip, out = self._scalings(sigma)
        return (clean - skip * x) / out

    def _scalings(self, sigma: float) -> tuple[float, float]:
        """The paper's c_skip and c_out."""
        total = math.hypot(sigma, self.sigma_data)
        return (self.sigma_data / total) ** 2, self.sign * sigma * self.sigma_data / total


def parametrisation_of(config: Mapping[str, Any]) -> Parametrisation:
    """How the network of a scheduler configuration was trained. Raises ValueError for a prediction of another type."""
    kind = str(config.get("prediction_type", "epsilon"))
    if is_flow(config):
        return FlowTraining(int(number_in(config, "num_train_timesteps", 1000)))
    if kind not in _KINDS or (is_edm(config) and kind == "sample"):
        raise ValueError(
            f"edm_heun does not understand a prediction of type {kind!r}; epsilon and v_prediction it does"
        )
    if is_edm(config):
        return KarrasTraining(number_in(config, "sigma_data", 0.5), 1.0 if kind == "epsilon" else -1.0)
    return AlphasTraining(_log_sigmas(config), kind)


def number_in(config: Mapping[str, Any], name: str, usual: float) -> float:
    """A setting of a configuration; null, as diffusers writes it, is none. Raises ValueError for what is no number."""
    value = config.get(name)
    if value is None:
        return usual
    if not isinstance(value, int | float) or isinstance(value, bool) or math.isnan(value):
        raise ValueError(f"the scheduler's configuration has {name} {value!r}; give a number")
    return float(value)


def _log_sigmas(config: Mapping[str, Any]) -> NDArray[np.float64]:
    """The log sqrt((1 - abar) / abar) of every training step; of noise alone abar is 2^-24, as Euler has it."""
    import diffusers

    euler: Any = diffusers.EulerDiscreteScheduler
    given = {name: config[name] for name in _NOISE_SETTINGS if name in config}
    kept = euler(**given).alphas_cumprod.double().numpy()
    logarithms: NDArray[np.float64] = np.log((1 - kept) / kept) / 2
    return logarithms
