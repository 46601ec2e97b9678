"""Knows how the codec learns: a decoder from fixed latents to pixels, and an encoder. Knows no denoiser, no loop.

    z = pca.encode(x),  y = D(z + s n),  s ~ U(0, 0.25)          (a denoiser's samples are not clean)
    L_rec = |y - x| + |grad y - grad x| + |pool4 y - pool4 x| + 2 |profile y - profile x|
    L_adv = -C(y)                                                C: critic of overlapping patches, hinge loss
    dL/dy = dL_rec/dy + a |dL_rec/dy| / |dL_adv/dy| dL_adv/dy    a = 0 at first, so that colours settle

The profile is the mean |grad| at each place of the 8-pixel lattice of latents: a decoder that leaves its lattice
visible, or smooths too much, is told so. Balancing the two gradients at the pixels needs no tuned weight. The encoder
learns to predict z. The codec is one of diffusers' own, without normalisation over space: a tile decodes like the
whole picture wherever its margin covers the receptive field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from generation.training.checkpoints import TrainingState
from generation.training.crops import CropSets
from generation.training.earth import BLOCK
from generation.training.latents import BlockPca, to_bytes, to_unit
from generation.training.networks import CODECS

LATENT_NOISE = 0.25
LATTICE_WEIGHT = 2.0
CRITIC_BALANCE = 0.35
CRITIC_FROM = 0.4
CRITIC_WARMUP = 0.9
CRITIC_RATE_SHARE = 0.3
AVERAGE_DECAY = 0.998
HELD_OUT_CROPS = 24


def build_critic() -> nn.Module:
    """Judges overlapping patches of 22 pixels; spectral normalisation keeps its gradients bounded."""

    def layer(inputs: int, outputs: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 4 if stride == 2 else 3, stride, padding=1)
        return nn.utils.parametrizations.spectral_norm(convolution)

    widths = ((3, 32, 2), (32, 64, 2), (64, 64, 1))
    hidden = [part for shape in widths for part in (layer(*shape), nn.LeakyReLU(0.2))]
    return nn.Sequential(*hidden, layer(64, 1, 1))


def differences(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels, down and across."""
    return pixels.diff(dim=2), pixels.diff(dim=3)


def lattice_profile(difference: Tensor, axis: int) -> Tensor:
    """(8,) mean |difference| by the place of its first pixel in its block."""
    sizes = difference.abs().mean(dim=[dim for dim in range(4) if dim != axis])
    whole = functional.pad(sizes, (0, 1)).reshape(-1, BLOCK)
    return torch.cat(
        [whole[:, :-1].mean(dim=0), whole[:-1, -1:].mean(dim=0)]
    )  # the last block has no next one


def reconstruction_loss(made: Tensor, real: Tensor) -> Tensor:
    """L_rec of the equation above."""
    loss = (made - real).abs().mean()
    for ours, theirs in zip(differences(made), differences(real), strict=True):
        loss = loss + (ours - theirs).abs().mean()
    for axis, ours, theirs in zip((2, 3), differences(made), differences(real), strict=True):
        gap = lattice_profile(ours, axis) - lattice_profile(theirs, axis)
        loss = loss + LATTICE_WEIGHT * gap.abs().mean()
    return loss + (functional.avg_pool2d(made, 4) - functional.avg_pool2d(real, 4)).abs().mean()


def hinge_loss(critic: nn.Module, made: Tensor, real: Tensor) -> Tensor:
    """The critic's own loss: real patches above one, made patches below minus one."""
    loss: Tensor = functional.relu(1.0 - critic(real)).mean() + functional.relu(1.0 + critic(made)).mean()
    return loss


def balanced_gradient(made: Tensor, real: Tensor, critic: nn.Module, balance: float) -> tuple[Tensor, Tensor]:
    """(dL/dy, L_rec), with the critic's gradient brought to `balance` times the reconstruction's."""
    loss = reconstruction_loss(made, real)
    (gradient,) = torch.autograd.grad(loss, made)
    if balance == 0.0:
        return gradient, loss
    (adverse,) = torch.autograd.grad(-critic(made).mean(), made)
    return gradient + adverse * (balance * gradient.norm() / adverse.norm().clamp(min=1e-12)), loss


def disturbed(latents: Tensor, generator: torch.Generator) -> Tensor:
    """z + s n, with its own s for each crop."""
    strength = LATENT_NOISE * torch.rand((len(latents), 1, 1, 1), generator=generator)
    return latents + strength * torch.randn(latents.shape, generator=generator)


@dataclass(frozen=True)
class Pair:
    """Pictures (N, 3, H, W) in [-1, 1] and their latents, disturbed for the decoder."""

    pixels: Tensor
    latents: Tensor


@dataclass(frozen=True)
class HalfSubject:
    """What both halves have in common: crops of `side` latents, the latents' definition, and what shows progress."""

    sets: CropSets
    pca: BlockPca
    codec: str
    steps: int
    batch: int
    side: int

    def crops(self, random: np.random.Generator) -> Tensor:
        """A batch of crops in [-1, 1]."""
        return to_unit(
            [self.sets.training.draw(random, self.side, self.side).pixels for _ in range(self.batch)]
        )

    def held_out(self, state: TrainingState) -> tuple[Tensor, Tensor]:
        """Fixed held-out crops and their exact latents, on the model's device."""
        random, device = np.random.default_rng(99), next(state.model.parameters()).device
        side = held_out_side(self.side)
        source = self.sets.held_out
        real = to_unit([source.draw(random, side, side).pixels for _ in range(HELD_OUT_CROPS)])
        return real.to(device), self.pca.encode(real).to(device)


def held_out_side(side: int) -> int:
    """Latents along the side of held-out crops: as the training crops', at most 32."""
    return min(side, 32)


class DecoderSubject(HalfSubject):
    """Decoder and critic as the loop sees them."""

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> Pair:
        """Crops and their latents, disturbed."""
        real = self.crops(random)
        return Pair(real, disturbed(self.pca.encode(real), torch_random))

    def loss(self, state: TrainingState, batch: Pair) -> Tensor:
        """A scalar of L_rec's value, with the gradients of the equation above for the decoder and of the hinge
        loss for the critic."""
        decoder, critic = state.model.get_submodule("decoder"), state.model.get_submodule("critic")
        device = next(decoder.parameters()).device
        real, made = batch.pixels.to(device), decoder(batch.latents.to(device)).float()
        with torch.autocast(device.type, enabled=False):
            started = state.step >= CRITIC_FROM * self.steps
            gradient, loss = balanced_gradient(made, real, critic, CRITIC_BALANCE if started else 0.0)
            followed = (made * gradient).sum()
            if state.step >= CRITIC_WARMUP * CRITIC_FROM * self.steps:
                followed = followed + hinge_loss(critic, made.detach(), real)
        value: Tensor = followed - followed.detach() + loss.detach()
        return value

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """PSNR on held-out crops, and a sheet: real | linear inverse | decoder | decoder of noisy latents."""
        real, latents = self.held_out(state)
        decoder = averaged_half("decoder", self.codec, state.average).to(real.device)
        made = torch.cat([decoder(part) for part in torch.split(latents, 4)])
        linear = self.pca.decode(latents.cpu())
        shown = slice(0, HELD_OUT_CROPS, 5)
        noise = torch.randn(latents[shown].shape, generator=torch.Generator().manual_seed(0))
        noisy = decoder(latents[shown] + 0.1 * noise.to(real.device))
        columns = [to_bytes(part) for part in (real[shown], linear[shown], made[shown], noisy)]
        sheet = np.concatenate([column.reshape(-1, *column.shape[2:]) for column in columns], axis=1)
        Image.fromarray(sheet).save(out / f"decoder-{state.step:06d}.png")
        return {"decibels": decibels(made, real), "linear_decibels": decibels(linear, real.cpu())}


class EncoderSubject(HalfSubject):
    """The encoder as the loop sees it."""

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> Pair:
        """Crops and their exact latents."""
        real = self.crops(random)
        return Pair(real, self.pca.encode(real))

    def loss(self, state: TrainingState, batch: Pair) -> Tensor:
        """The L1 distance to the companded coefficients."""
        encoder = state.model.get_submodule("encoder")
        device = next(encoder.parameters()).device
        distance: Tensor = (encoder(batch.pixels.to(device)).float() - batch.latents.to(device)).abs().mean()
        return distance

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """Distance to the held-out crops' latents."""
        real, latents = self.held_out(state)
        encoder = averaged_half("encoder", self.codec, state.average).to(real.device)
        return {"held_out": float((encoder(real) - latents).abs().mean())}


SUBJECTS: Mapping[str, type[DecoderSubject] | type[EncoderSubject]] = {
    "decoder": DecoderSubject,
    "encoder": EncoderSubject,
}


def half_of_codec(part: str, codec_name: str) -> nn.ModuleDict:
    """The modules that one half trains, each with its own learning rate."""
    codec = CODECS[codec_name]()
    return nn.ModuleDict(
        {part: codec.get_submodule(part)} | ({"critic": build_critic()} if part == "decoder" else {})
    )


def averaged_half(part: str, codec_name: str, average: Mapping[str, Tensor]) -> nn.Module:
    """The encoder or decoder with the moving average as its weights."""
    codec: Any = CODECS[codec_name]()
    module: nn.Module = codec.get_submodule(part)
    own = {
        name.removeprefix(f"{part}."): value for name, value in average.items() if name.startswith(f"{part}.")
    }
    module.load_state_dict(own)
    return module.eval().requires_grad_(False)


def decibels(made: Tensor, real: Tensor) -> float:
    """Peak signal to noise ratio of pictures in [-1, 1]."""
    return float(-10.0 * torch.log10((made.clamp(-1, 1) - real).square().mean() / 4.0))
