"""Knows the latent space: companded principal components of 8 x 8 x 3 pixel blocks. Knows no learned codec.

With x a block of pixels in [-1, 1], m the mean block, E the K leading eigenvectors, s their deviations,

    c = E^T (x - m) / s            whitened coefficients
    z = g b asinh(c / b)           companded, so that coasts fit into +-5 and flat seas keep their texture
    x ~ m + E (s b sinh(z / g b))  the linear inverse; a learned decoder replaces it

Brightness and colours of whole blocks are evenly spread (kurtosis 3) and stay linear, b = 50. The details are
heavy-tailed (kurtosis 12 to 30: most blocks are smooth, a few are coasts) and are bent, b = 1/2. The gains g
give each channel a deviation proportional to s^0.15, and all together the variance one: the eye forgives
noise in detail before noise in brightness.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from generation.training.crops import CropSource
from generation.training.earth import BLOCK, Bytes

HEAVY_TAIL = 6.0
BENT, LINEAR = 0.5, 50.0
SCALE_EXPONENT = 0.15
CHANNELS = 16
FIT_CROPS, FIT_SIDE = 1000, 16


@dataclass(frozen=True)
class BlockPca:
    """m (192), E (192, K), s (K), b (K) and g (K)."""

    mean: Tensor
    vectors: Tensor
    deviations: Tensor
    bends: Tensor
    gains: Tensor

    @property
    def channels(self) -> int:
        """K."""
        return self.vectors.shape[1]

    def encode(self, pixels: Tensor) -> Tensor:
        """(N, 3, 8 h, 8 w) in [-1, 1] -> (N, K, h, w)."""
        coefficients = (blocks_of(pixels) - self.mean) @ self.vectors / self.deviations
        return (self.gains * bent(coefficients, self.bends)).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """(N, K, h, w) -> (N, 3, 8 h, 8 w): the linear inverse, with visible block edges."""
        coefficients = self.bends * torch.sinh(
            (latents.movedim(1, -1) / self.gains / self.bends).clamp(-4.5, 4.5)
        )
        return pixels_from_blocks(self.mean + (coefficients * self.deviations) @ self.vectors.T)


def bent(coefficients: Tensor, bends: Tensor) -> Tensor:
    """b asinh(c / b): c itself while |c| << b, then logarithmic."""
    return bends * torch.asinh(coefficients / bends)


def blocks_of(pixels: Tensor) -> Tensor:
    """(N, 3, 8 h, 8 w) -> (N, h, w, 192)."""
    number, colours, height, width = pixels.shape
    split = pixels.reshape(number, colours, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return split.permute(0, 2, 4, 1, 3, 5).flatten(3)


def pixels_from_blocks(blocks: Tensor) -> Tensor:
    """(N, h, w, 192) -> (N, 3, 8 h, 8 w)."""
    number, height, width, _ = blocks.shape
    split = blocks.reshape(number, height, width, 3, BLOCK, BLOCK).permute(0, 3, 1, 4, 2, 5)
    return split.reshape(number, 3, height * BLOCK, width * BLOCK)


def to_unit(pixels: Sequence[Bytes]) -> Tensor:
    """Pictures (height, width, 3) of bytes -> (N, 3, height, width) in [-1, 1]."""
    stacked = torch.from_numpy(np.stack(pixels)).movedim(-1, 1)
    return stacked.float() / 127.5 - 1.0


def to_bytes(pixels: Tensor) -> Bytes:
    """(N, 3, height, width) in [-1, 1] -> (N, height, width, 3) bytes."""
    scaled = ((pixels.detach().float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8)
    array: Bytes = scaled.movedim(1, -1).cpu().numpy()
    return array


def fit(source: CropSource, channels: int, crops: int, side: int, seed: int) -> BlockPca:
    """The principal components of blocks drawn from crops of side x side latents."""
    random = np.random.default_rng(seed)
    pixels = to_unit([source.draw(random, side, side).pixels for _ in range(crops)])
    return fit_blocks(blocks_of(pixels).flatten(0, 2), channels)


def fit_blocks(blocks: Tensor, channels: int) -> BlockPca:
    """The principal components of (M, 192) blocks; each eigenvector's largest entry is made positive."""
    mean = blocks.mean(dim=0)
    covariance = torch.cov(blocks.T.double())
    variances, vectors = torch.linalg.eigh(covariance)
    vectors, deviations = (
        vectors.flip(1)[:, :channels].float(),
        variances.flip(0)[:channels].clamp(min=1e-12).sqrt().float(),
    )
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    vectors = vectors * largest.sign()
    coefficients = (blocks - mean) @ vectors / deviations
    kurtosis = coefficients.pow(4).mean(dim=0) / coefficients.square().mean(dim=0).square()
    bends = torch.where(kurtosis > HEAVY_TAIL, BENT, LINEAR)
    wanted = deviations**SCALE_EXPONENT
    wanted = wanted / wanted.square().mean().sqrt()
    return BlockPca(mean, vectors, deviations, bends, wanted / bent(coefficients, bends).std(dim=0))


def save_pca(pca: BlockPca, path: Path) -> None:
    """Write the five fields as one npz file, which appears whole."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with temporary.open("wb") as file:
        np.savez(file, **{field.name: getattr(pca, field.name).numpy() for field in fields(pca)})
    temporary.replace(path)


def load_pca(path: Path) -> BlockPca:
    """Read what `save_pca` wrote."""
    with np.load(path) as file:
        return BlockPca(**{field.name: torch.from_numpy(file[field.name]) for field in fields(BlockPca)})


def pca_for(source: CropSource, path: Path, side: int = FIT_SIDE) -> BlockPca:
    """The components kept at `path`, fitted with fixed settings on first use.

    Of two runs that fit them at the same time, the first to finish decides for both.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fitted = fit(source, CHANNELS, FIT_CROPS, min(side, FIT_SIDE), seed=1)
        if not path.exists():
            save_pca(fitted, path)
    return load_pca(path)
