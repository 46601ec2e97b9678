"""Whether samples are copies of training pictures: distances to the nearest of them. Knows features only.

    ratio = median over samples of d(sample) / median over held-out crops of d(crop)
    d(x) = min over training crops t of |f(x) - f(t)|

A model that invents is as far from its training pictures as other real pictures are: near one. Copies are near zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

COPY = 0.5


@dataclass(frozen=True)
class Memorisation:
    """ratio: as above. closest: the smallest d of a sample over the median of held-out crops. copies: the share of
    samples that are less than half as far from a training crop as the held-out crop that is nearest to one."""

    ratio: float
    closest: float
    copies: float


def nearest(features: Tensor, training: Tensor) -> Tensor:
    """d of each row."""
    return torch.cdist(features, training).amin(dim=1)


def memorised(samples: Tensor, held_out: Tensor, training: Tensor) -> Memorisation:
    """The figures for features of samples, held-out crops and training crops."""
    ours, theirs = nearest(samples, training), nearest(held_out, training)
    typical = float(theirs.median().clamp(min=1e-12))
    copies = float((ours < COPY * theirs.min()).double().mean())
    return Memorisation(float(ours.median()) / typical, float(ours.min()) / typical, copies)
