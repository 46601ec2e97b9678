"""Three solvers as their papers write them, in float64, on one screen each: where to begin reading.

Nothing here runs when a picture is made: `generation/sampling/schedules` takes the same steps one at a time,
on blocks. The tests compare the two.

    x = a clean + s noise              signal a and noise s of a level; abar = a^2 where a^2 + s^2 = 1
    denoise(x, k), denoise(x, sigma)   the clean latents that the network sees in x[k], or in x at a level
    draw(k)                            standard normal noise of x's shape
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, log, sqrt
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Latents: TypeAlias = NDArray[np.float64]


def ddim(
    denoise: Callable[[Latents, int], Latents],
    x: Latents,
    kept: Sequence[float],
    eta: float,
    draw: Callable[[int], Latents],
) -> Latents:
    """Song et al. 2021, "Denoising diffusion implicit models" (arXiv 2010.02502), equations 12 and 16.

    kept: abar of x[0], ..., x[n].
    """
    for k, (now, after) in enumerate(pairwise(kept)):
        clean = denoise(x, k)
        noise = (x - sqrt(now) * clean) / sqrt(1 - now)
        sigma = eta * sqrt((1 - after) / (1 - now)) * sqrt(1 - now / after)
        x = sqrt(after) * clean + sqrt(1 - after - sigma**2) * noise + sigma * draw(k)
    return x


def dpmpp_2m(
    denoise: Callable[[Latents, int], Latents], x: Latents, levels: Sequence[tuple[float, float]]
) -> Latents:
    """Lu et al. 2022, "DPM-Solver++" (arXiv 2211.01095), algorithm 2; the first and the last step are of first order.

    levels: (a, s) of x[0], ..., x[n]; the last s is 0. lambda = log(a / s), h its step, and a' (e^-h - 1) the
    exact integral of what the exponential integrator does not solve by itself.
    """
    *noisy, (last, _) = levels
    lambdas = [log(a / s) for a, s in noisy]
    before = denoise(x, 0)
    for k, ((_, s), (a_next, s_next)) in enumerate(pairwise(noisy)):
        clean, h = denoise(x, k), lambdas[k + 1] - lambdas[k]
        r = (lambdas[k] - lambdas[k - 1]) / h if k else 1.0
        middle = clean + (clean - before) / (2 * r)
        x = s_next / s * x - a_next * (exp(-h) - 1) * middle
        before = clean
    return last * denoise(x, len(noisy) - 1)


def edm_heun(
    denoise: Callable[[Latents, float], Latents],
    x: Latents,
    levels: Sequence[float],
    draw: Callable[[int], Latents],
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = float("inf"),
    s_noise: float = 1.0,
) -> Latents:
    """Karras et al. 2022, "Elucidating the design space" (arXiv 2206.00364), algorithm 2.

    levels: t_0 > ... > t_N = 0; x is x_0, noise of t_0.
    """
    most = min(s_churn / (len(levels) - 1), sqrt(2) - 1)
    for i, (t, t_next) in enumerate(pairwise(levels)):
        gamma = most if s_tmin <= t <= s_tmax else 0.0
        t_hat = t + gamma * t
        x_hat = x + sqrt(t_hat**2 - t**2) * s_noise * draw(i)
        slope = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * slope
        if t_next > 0:
            second = (x - denoise(x, t_next)) / t_next
            x = x_hat + (t_next - t_hat) * (slope + second) / 2
    return x
