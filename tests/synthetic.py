"""Pictures that look like nothing, with classes: what the tests of training learn from."""

import dataclasses
from functools import cache

import numpy as np
import torch
from torch import nn

from generation.training import classes, crops, data, earth, latents

LATENTS = 48


def smooth_noise(random: np.random.Generator, height: int, width: int) -> earth.Bytes:
    """A picture with structure at several scales."""
    total = np.zeros((height, width, 3))
    for cell in (1, 4, 16, 64):
        coarse = random.standard_normal(size=(height // cell + 1, width // cell + 1, 3))
        total += coarse.repeat(cell, axis=0).repeat(cell, axis=1)[:height, :width] * cell**0.5
    return np.clip(128 + 12 * total, 0, 255).astype(np.uint8)


def synthetic_strip(seed: int = 0) -> data.Strip:
    """48 x 96 blocks: every class occurs, the left third is held out."""
    random = np.random.default_rng(seed)
    ids = random.integers(len(classes.CLASS_NAMES), size=(LATENTS // 4, LATENTS // 2)).astype(np.uint8)
    held_out = np.zeros((LATENTS, 2 * LATENTS), dtype=np.bool_)
    held_out[:, :34] = True
    pixels = smooth_noise(random, LATENTS * earth.BLOCK, 2 * LATENTS * earth.BLOCK)
    return data.Strip(pixels, ids.repeat(4, axis=0).repeat(4, axis=1), held_out)


@cache
def strips() -> tuple[data.Strip, ...]:
    """One strip."""
    return (synthetic_strip(),)


@cache
def sets() -> crops.CropSets:
    """Its crops."""
    return data.crop_sets(strips())


@cache
def pca() -> latents.BlockPca:
    """Sixteen components of it."""
    return latents.fit(sets().training, channels=16, crops=8, side=16, seed=0)


class OneConvolution(nn.Module):
    """The smallest network with the denoiser's signature."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(28, 16, 3, padding=1)

    def forward(self, noisy: torch.Tensor, step: torch.Tensor) -> "OneConvolution.Output":
        return OneConvolution.Output(self.layer(noisy) * (1.0 + step[:, None, None, None] / 1000))

    @dataclasses.dataclass
    class Output:
        sample: torch.Tensor
