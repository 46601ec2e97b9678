"""What a prediction says of x = a clean + s noise, and back. Knows formulas; knows no scheduler.

epsilon   noise                      Ho et al. 2020, equation 15
v         (a noise - s clean) / r    Salimans & Ho 2022, appendix D, where r^2 = a^2 + s^2 is 1
flow      noise - clean              Lipman et al. 2023, with a = 1 - s
sample    clean
"""

from __future__ import annotations

from typing import TypeVar

import torch

Level = TypeVar("Level", torch.Tensor, float)


def clean_of(kind: str, a: Level, s: Level, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
    """Solve x = a clean + s noise for the clean latents, with the noise, or a mixture of both, as predicted."""
    if kind == "epsilon":
        return (x - s * prediction) / a
    if kind == "v_prediction":
        r = _length(a, s)
        return (a * x / r - s * prediction) / r
    if kind == "flow_prediction":
        return x - s * prediction
    if kind in ("sample", "original_sample"):
        return prediction
    raise _unknown(kind)


def prediction_of(kind: str, a: Level, s: Level, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """The prediction that `clean_of` takes for these clean latents."""
    if kind == "epsilon":
        return (x - a * clean) / s
    if kind == "v_prediction":
        r = _length(a, s)
        return (a * x / r - r * clean) / s
    if kind == "flow_prediction":
        return (x - clean) / s
    if kind in ("sample", "original_sample"):
        return clean
    raise _unknown(kind)


def _length(a: Level, s: Level) -> Level:
    length: Level = (a**2 + s**2) ** 0.5
    return length


def _unknown(kind: str) -> ValueError:
    return ValueError(
        f"a prediction of type {kind!r} is not understood; epsilon, v_prediction and sample are"
    )
