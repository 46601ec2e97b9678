"""Knows the map model's network and what it reads: cells, flags, wishes. Knows no globe, loss or canvas.

A map is one-hot planes, centred: x_0 = onehot - 1/K (Chen et al. 2022, "Analog Bits"; unit steps between classes). Then

    x_t = alpha_t x_0 + sigma_t e,    p = softmax(logits),    x_theta = p - 1/K = E[x_0 | x_t, wish] where p is exact.

What a cell's own noisy planes say about its class is known: log p(x_t | class c) = alpha_t / sigma_t^2 x_t[c] + const.
So by Bayes' rule the network need only say what the rest of the map and the wish do:

    logits = alpha_t / sigma_t^2 x_t + network(x_t, t, wish)

Cells that may not be seen have x_0 = 0 and a flag; an invented map has none.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from generation.models.maps import scale_feature
from generation.training.classes import CLASS_NAMES
from generation.training.earth import Bytes, Floats
from generation.training.networks import LIBRARY, build_noise_schedule

UNKNOWN = 255
"""The class of cells that may not be looked at."""
WIDTHS = (32, 40, 48, 80)


@dataclass(frozen=True)
class MapView:
    """Class ids (h, w), UNKNOWN where hidden, and a wish (K + 1, h, w)."""

    ids: Bytes
    wish: Floats


class MapSource(Protocol):
    """Maps to learn from."""

    def draw(self, random: np.random.Generator, side: int) -> MapView:
        """A square of side x side cells, and a wish that it would grant."""


def wish_planes(mix: Floats, scale: float) -> Floats:
    """(K, h, w) shares, all zero for no wish -> (K + 1, h, w) with the scale."""
    plane = np.full((1, *mix.shape[1:]), scale_feature(scale), dtype=np.float32)
    return np.concatenate([mix, plane])


def scale_of(wish: Floats) -> float:
    """Blocks per cell of a whole wish (K + 1, h, w)."""
    return float(2.0 ** (wish[-1, 0, 0] + 1.0))


def centred_planes(ids: Tensor, number: int = len(CLASS_NAMES)) -> Tensor:
    """x_0: (N, h, w) ids -> (N, K, h, w), zero where unknown."""
    classes = torch.arange(number, device=ids.device)[:, None, None]
    planes = (ids[:, None] == classes).float() - 1.0 / number
    return planes * (ids != UNKNOWN)[:, None]


def build_map_unet(number: int = len(CLASS_NAMES), widths: tuple[int, ...] = WIDTHS) -> Any:
    """Noisy planes, flags and wishes in, logits out; attention only at the lowest level."""
    plain = len(widths) - 1
    return LIBRARY.UNet2DModel(
        sample_size=64,
        in_channels=2 * (number + 1),
        out_channels=number,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=16,
        norm_num_groups=8,
    )


class MapNetwork(nn.Module):
    """The UNet, and each cell's own evidence: logits of classes."""

    evidence: Tensor

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.unet = unet
        kept = build_noise_schedule().alphas_cumprod
        self.register_buffer("evidence", kept.sqrt() / (1.0 - kept), persistent=False)

    def forward(self, noisy: Tensor, hidden: Tensor, wishes: Tensor, steps: Tensor) -> Tensor:
        """(N, K, h, w), (N, 1, h, w) flags, (N, K + 1, h, w), (N,) -> (N, K, h, w) logits."""
        prior: Tensor = self.unet(torch.cat([noisy, hidden, wishes], dim=1), steps).sample
        return self.evidence[steps][:, None, None, None] * noisy.float() + prior.float()


def build_map_network(number: int = len(CLASS_NAMES), widths: tuple[int, ...] = WIDTHS) -> MapNetwork:
    """A fresh network with open paths."""
    unet = build_map_unet(number, widths)
    open_paths(unet)
    return MapNetwork(unet)


@torch.no_grad()
def open_paths(unet: Any) -> None:
    """Start as an almost linear network that passes every level on at full strength.

    With diffusers' defaults the shortcuts of the up blocks attenuate what comes from below, and the deepest level
    never learns. So shortcuts start as identities (up blocks: of what comes from below plus the skip, over sqrt 2),
    resnets add nothing, the convolutions of the samplers keep the variance, and logits start at zero.
    """
    for module in unet.modules():
        kind = type(module).__name__
        if kind == "ResnetBlock2D":
            module.conv2.weight.zero_()
            module.conv2.bias.zero_()
        elif kind in ("Upsample2D", "Downsample2D"):
            module.conv.weight.mul_(3**0.5)
    for block in unet.down_blocks:
        for resnet in block.resnets:
            if resnet.conv_shortcut is not None:
                set_identities(resnet.conv_shortcut, (resnet.conv_shortcut.in_channels,), 1.0)
    open_up_blocks(unet)
    unet.conv_out.weight.zero_()
    unet.conv_out.bias.zero_()


def open_up_blocks(unet: Any) -> None:
    """Shortcuts of the up blocks: what comes from below has the channels that the resnet before it made."""
    below = unet.config.block_out_channels[-1]
    for block in unet.up_blocks:
        for resnet in block.resnets:
            shortcut = resnet.conv_shortcut
            set_identities(shortcut, (below, shortcut.in_channels - below), 0.5**0.5)
            below = shortcut.out_channels


def set_identities(convolution: nn.Conv2d, parts: tuple[int, ...], factor: float) -> None:
    """weight = factor [I | I | ...], one truncated identity for each part of the input."""
    convolution.weight.zero_()
    begin = 0
    for part in parts:
        shared = min(part, convolution.out_channels)
        convolution.weight[:shared, begin : begin + shared, 0, 0] = factor * torch.eye(shared)
        begin += part
