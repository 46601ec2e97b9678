"""The stochastic sampler of Karras et al. 2022 (arXiv 2206.00364, algorithm 2), one evaluation a step.

    t_i    = (t_max^(1/rho) + i / (N-1) (t_min^(1/rho) - t_max^(1/rho)))^rho,  t_N = 0             equation 5
    t^_i   = t_i + gamma_i t_i,  gamma_i = min(S_churn / N, sqrt 2 - 1) where S_tmin <= t_i <= S_tmax, else 0
    x^_i   = x_i + sqrt(t^_i^2 - t_i^2) S_noise eps                                                churn
    d      = (x^_i - D(x^_i; t^_i)) / t^_i
    x'     = x^_i + (t_{i+1} - t^_i) d                                                             Euler
    d'     = (x' - D(x'; t_{i+1})) / t_{i+1}
    x_i+1  = x^_i + (t_{i+1} - t^_i) (d + d') / 2                                                  Heun, if t_{i+1} > 0

The network sees x^_i and x', so these are what is kept: step 2i takes x^_i to x' and remembers x^_i, step 2i+1 takes
both to x_{i+1} and stirs in the churn of i+1 at once. N steps are 2N - 1 evaluations.

    k          0        1              2        3                  2N-2
    x[k]       x^_0     x' (x^_0)      x^_1     x' (x^_1)   ...    x^_{N-1}      -> D(x^_{N-1})
    level      t^_0     t_1            t^_1     t_2                t^_{N-1}

Knows levels and steps; of the network it knows a Parametrisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch

from generation.sampling.schedules.contract import Draw
from generation.sampling.schedules.parametrisations import Parametrisation, number_in, parametrisation_of


@dataclass(frozen=True)
class Churn:
    """How much noise is stirred in, at which levels; by default none. Names as in the paper and in diffusers."""

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0

    def raised(self, level: float, steps: int) -> float:
        """The level t^ that noise raises a level t to."""
        stirred = self.s_tmin <= level <= self.s_tmax
        return level * (1 + min(self.s_churn / steps, math.sqrt(2) - 1)) if stirred else level


@dataclass(frozen=True)
class EdmHeun:
    """Algorithm 2 over a network, as a Schedule.

    levels: t_0 > ... > t_N = 0. raised: t^_0, ..., t^_{N-1}. s_noise: inflates churn's noise. began: after step 0.
    """

    network: Parametrisation
    levels: tuple[float, ...]
    raised: tuple[float, ...]
    s_noise: float = 1.0
    began: bool = False

    order = 2

    def __len__(self) -> int:
        """Evaluations of the network for each latent."""
        return 2 * len(self.raised) - 1

    @cached_property
    def timesteps(self) -> torch.Tensor:
        """(length,) what the network is told, float32."""
        told = [self.network.timestep(self.level(k)) for k in range(len(self))]
        return torch.tensor(told, dtype=torch.float32)

    def level(self, k: int) -> float:
        """The noise level of x[k]: t^_i, then t_{i+1}."""
        i, is_second = divmod(k, 2)
        return self.levels[i + 1] if is_second else self.raised[i]

    def fields(self, k: int) -> int:
        """How many history fields are kept beside x[k]: x^_i beside x', none beside x^_i."""
        return k % 2 if k < len(self) else 0

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """x[0] = x^_0: the noise of t_0 and that of its churn, both normal, in one draw."""
        if self.began:
            raise ValueError(
                "a schedule that begins at a later step starts from noised latents, not from noise"
            )
        return math.hypot(self.levels[0], self._stirred(0)) * noise

    def model_input(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """What the network is shown of x[k]: same shape, pointwise."""
        return self.network.shown(self.level(k), x)

    def step(
        self, k: int, x: torch.Tensor, history: Sequence[torch.Tensor], prediction: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """x[k] and its history, the fused prediction at x[k] -> x[k+1] and its history; all of x's shape, float32."""
        i, is_second = divmod(k, 2)
        slope = (x - self.clean(k, x, prediction)) / self.level(k)
        length = self.levels[i + 1] - self.raised[i]
        if not is_second:
            return x + length * slope, [x] * self.fields(k + 1)
        [x_hat] = history  # x is x_hat + length d, so the mean of the two is x_hat + length d / 2
        stepped = (x_hat + x) / 2 + length / 2 * slope
        stirred = self._stirred(i + 1)
        return (stepped + stirred * draw(0) if stirred else stepped), []

    def clean(self, k: int, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents D(x[k]; sigma) by a prediction, not clipped; pointwise, x's shape."""
        return self.network.clean(self.level(k), x, prediction)

    def noised(self, k: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The x[k] of clean latents and standard normal noise: clean + sigma noise."""
        return clean + self.level(k) * noise

    def predicted(self, k: int, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The prediction at x[k] that implies these clean latents; pointwise, x's shape."""
        return self.network.predicted(self.level(k), x, clean)

    def begin(self, k: int) -> EdmHeun:
        """The steps from k on; the churn of each is what it is in the whole."""
        i, is_second = divmod(k, 2)
        if is_second or not 0 <= i < len(self.raised):
            raise ValueError(
                f"edm_heun cannot begin at evaluation {k}; give an even number from 0 to {len(self) - 1}"
            )
        began = self.began or i > 0
        return replace(self, levels=self.levels[i:], raised=self.raised[i:], began=began)

    def _stirred(self, i: int) -> float:
        """The standard deviation of the noise that takes x_i to x^_i."""
        return self.s_noise * math.sqrt(self.raised[i] ** 2 - self.levels[i] ** 2)


def edm_heun(config: Mapping[str, Any], steps: int) -> EdmHeun:
    """The sampler for a model, by its scheduler configuration: rho, sigma_min, sigma_max and Churn's settings.

    Raises ValueError for levels that are none, and for networks that no parametrisation understands.
    """
    network, churn = parametrisation_of(config), _churn(config)
    lowest, highest = network.sigmas
    low, high = number_in(config, "sigma_min", lowest), number_in(config, "sigma_max", highest)
    levels = karras_levels(low, high, number_in(config, "rho", 7.0), steps)
    raised = tuple(churn.raised(level, steps) for level in levels)
    return EdmHeun(network, (*levels, 0.0), raised, churn.s_noise)


def karras_levels(low: float, high: float, rho: float, steps: int) -> tuple[float, ...]:
    """The levels t_0 > ... > t_{N-1} of so many steps, without the last, which is 0 (equation 5)."""
    if not (0 < low < high < math.inf and rho > 0 and steps > 0):
        raise ValueError(
            f"edm_heun has no levels from sigma_max {high:g} to sigma_min {low:g} with rho {rho:g} in {steps} steps; "
            "give 0 < sigma_min < sigma_max, rho above 0 and at least one step"
        )
    ends = high ** (1 / rho), low ** (1 / rho)
    shares = [i / max(steps - 1, 1) for i in range(steps)]
    return tuple((ends[0] + share * (ends[1] - ends[0])) ** rho for share in shares)


def _churn(config: Mapping[str, Any]) -> Churn:
    usual = Churn()
    values = {name: number_in(config, name, value) for name, value in vars(usual).items()}
    churn = Churn(**values)
    if churn.s_churn < 0 or churn.s_noise <= 0:
        raise ValueError(
            f"edm_heun has s_churn {churn.s_churn:g} and s_noise {churn.s_noise:g}; give 0 or more, and more than 0"
        )
    return churn
