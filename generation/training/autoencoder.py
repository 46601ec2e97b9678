"""Knows how the codec learns: a decoder from fixed latents to pixels, and an encoder. Knows no denoiser.

    z = pca.encode(x),  y = D(z + s n),  s ~ U(0, 0.12)          (a denoiser's samples are not clean)
    L_rec = |y - x| + |grad y - grad x| + |pool4 y - pool4 x|
    L_adv = -C(y)                                                C: critic of overlapping patches, hinge loss
    dL/dy = dL_rec/dy + a |dL_rec/dy| / |dL_adv/dy| dL_adv/dy    a = 0 at first, so that colours settle

Balancing the two gradients at the pixels needs no tuned weight. The encoder learns to predict z. The codec is
one of diffusers' own, without normalisation over space: a tile decodes like the whole picture wherever
its margin covers the receptive field.
"""

import argparse
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from generation.training.checkpoints import TrainingState, restore, save, start, update_average
from generation.training.data import CropSampler, Strip, load_strips, pixels_of
from generation.training.latents import BlockPca, pca_for, to_bytes, to_unit
from generation.training.networks import CODECS
from generation.training.sources import default_cache

LOG = logging.getLogger(__name__)
LATENT_NOISE = 0.12


@dataclass(frozen=True)
class CodecSettings:
    """A training run of one half of the codec, on crops of `extent` x `extent` latents."""

    codec: str = "subpixel"
    steps: int = 5_000
    batch: int = 4
    extent: int = 20
    learning_rate: float = 1.0e-3
    critic_rate: float = 3.0e-4
    critic_from: float = 0.4
    critic_balance: float = 0.35
    warmup_steps: int = 100
    average_decay: float = 0.998
    seed: int = 11


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


def reconstruction_loss(made: Tensor, real: Tensor) -> Tensor:
    """L_rec of the equation above."""
    loss = (made - real).abs().mean()
    for ours, theirs in zip(differences(made), differences(real), strict=True):
        loss = loss + (ours - theirs).abs().mean()
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


def rate_at(step: int, settings: CodecSettings) -> float:
    """A factor on the learning rates: linear warm-up, then a cosine down to 2 %."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.02 + 0.98 * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def draw_pixels(state: TrainingState, sampler: CropSampler, settings: CodecSettings) -> Tensor:
    """A batch of crops in [-1, 1], on the model's device."""
    crops = [sampler.draw(state.random, settings.extent, settings.extent) for _ in range(settings.batch)]
    device = next(state.model.parameters()).device
    return to_unit([pixels_of(sampler.strips, crop) for crop in crops]).to(device)


def disturbed(latents: Tensor, generator: torch.Generator) -> Tensor:
    """z + s n, with its own s for each crop."""
    strength = LATENT_NOISE * torch.rand((len(latents), 1, 1, 1), generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    return latents + (strength * noise).to(latents.device)


def decoder_step(state: TrainingState, sampler: CropSampler, pca: BlockPca, settings: CodecSettings) -> float:
    """One step of decoder and critic; returns L_rec."""
    decoder, critic = state.model.get_submodule("decoder"), state.model.get_submodule("critic")
    real = draw_pixels(state, sampler, settings)
    made: Tensor = decoder(disturbed(pca.encode(real.cpu()), state.torch_random).to(real.device))
    balance = settings.critic_balance if state.step >= settings.critic_from * settings.steps else 0.0
    state.optimiser.zero_grad(set_to_none=True)
    gradient, loss = balanced_gradient(made, real, critic, balance)
    made.backward(gradient)  # type: ignore[no-untyped-call]
    if state.step >= 0.9 * settings.critic_from * settings.steps:
        hinge_loss(critic, made.detach(), real).backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


def encoder_step(state: TrainingState, sampler: CropSampler, pca: BlockPca, settings: CodecSettings) -> float:
    """One step of the encoder towards the companded coefficients; returns its L1 distance to them."""
    real = draw_pixels(state, sampler, settings)
    state.optimiser.zero_grad(set_to_none=True)
    distance: Tensor = (
        (state.model.get_submodule("encoder")(real) - pca.encode(real.cpu()).to(real.device)).abs().mean()
    )
    distance.backward()  # type: ignore[no-untyped-call]
    return float(distance.detach())


STEPS = {"decoder": decoder_step, "encoder": encoder_step}


def advance(state: TrainingState, settings: CodecSettings) -> None:
    """Clip, take the optimiser's step at this step's rates, update the average."""
    rates = (settings.learning_rate, settings.critic_rate)
    for group, rate in zip(state.optimiser.param_groups, rates, strict=False):
        group["lr"] = rate * rate_at(state.step, settings)
    torch.nn.utils.clip_grad_norm_(state.model.parameters(), 1.0)
    state.optimiser.step()
    state.step += 1
    update_average(state, settings.average_decay)


def half_of_codec(part: str, settings: CodecSettings) -> tuple[nn.ModuleDict, torch.optim.Optimizer]:
    """The modules that one half trains, each with its own learning rate."""
    codec = CODECS[settings.codec]()
    trained = codec.decoder if part == "decoder" else codec.encoder
    modules = nn.ModuleDict({part: trained} | ({"critic": build_critic()} if part == "decoder" else {}))
    groups = [{"params": list(module.parameters())} for module in modules.values()]
    return modules, torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.0)


def averaged_half(part: str, codec_name: str, average: dict[str, Tensor]) -> nn.Module:
    """The encoder or decoder with the moving average as its weights."""
    codec = CODECS[codec_name]()
    module: nn.Module = codec.decoder if part == "decoder" else codec.encoder
    own = {
        name.removeprefix(f"{part}."): value for name, value in average.items() if name.startswith(f"{part}.")
    }
    module.load_state_dict(own)
    return module.eval().requires_grad_(False)


def held_out_pixels(strips: Sequence[Strip], number: int) -> Tensor:
    """Fixed held-out crops of 256 x 256 pixels."""
    sampler, random = CropSampler(strips, held_out=True), np.random.default_rng(99)
    return to_unit([pixels_of(strips, sampler.draw(random, 32, 32)) for _ in range(number)])


def decibels(made: Tensor, real: Tensor) -> float:
    """Peak signal to noise ratio of pictures in [-1, 1]."""
    return float(-10.0 * torch.log10((made.clamp(-1, 1) - real).square().mean() / 4.0))


def report_decoder(
    codec: str, state: TrainingState, strips: Sequence[Strip], pca: BlockPca, out: Path, recent: float
) -> None:
    """PSNR on held-out crops, and a sheet: real | linear inverse | decoder | decoder of noisy latents."""
    decoder, real = averaged_half("decoder", codec, state.average), held_out_pixels(strips, 24)
    latents = pca.encode(real)
    made = torch.cat([decoder(part) for part in torch.split(latents, 4)])
    ratio, linear = decibels(made, real), decibels(pca.decode(latents), real)
    state.history.append({"step": state.step, "seconds": state.seconds, "loss": recent, "decibels": ratio})
    LOG.info(
        "step %d: loss %.4f, %.2f dB (linear inverse %.2f dB), %.0f s",
        state.step,
        recent,
        ratio,
        linear,
        state.seconds,
    )
    shown = slice(0, 24, 5)
    noisy = decoder(
        latents[shown] + 0.1 * torch.randn(latents[shown].shape, generator=torch.Generator().manual_seed(0))
    )
    columns = [to_bytes(part) for part in (real[shown], pca.decode(latents[shown]), made[shown], noisy)]
    sheet = np.concatenate([column.reshape(-1, *column.shape[2:]) for column in columns], axis=1)
    Image.fromarray(sheet).save(out / f"decoder-{state.step:06d}.png")


def report_encoder(
    codec: str, state: TrainingState, strips: Sequence[Strip], pca: BlockPca, out: Path, recent: float
) -> None:
    """Distance to the held-out crops' latents."""
    encoder, real = averaged_half("encoder", codec, state.average), held_out_pixels(strips, 24)
    distance = float((encoder(real) - pca.encode(real)).abs().mean())
    state.history.append({"step": state.step, "seconds": state.seconds, "loss": recent, "held_out": distance})
    LOG.info("step %d: loss %.4f, held-out L1 %.4f, %.0f s", state.step, recent, distance, state.seconds)


REPORTS = {"decoder": report_decoder, "encoder": report_encoder}


@dataclass(frozen=True)
class Rhythm:
    """How often, in seconds, a run writes its checkpoint and a report."""

    checkpoint_seconds: float = 300.0
    report_seconds: float = 600.0


def train(
    part: str,
    state: TrainingState,
    strips: Sequence[Strip],
    pca: BlockPca,
    settings: CodecSettings,
    out: Path,
    rhythm: Rhythm,
) -> TrainingState:
    """Train one half until the settings' number of steps; checkpoints and reports go to `out`."""
    sampler = CropSampler(strips)
    saved = reported = time.monotonic()
    recent = 0.0
    while state.step < settings.steps:
        began = time.monotonic()
        loss = STEPS[part](state, sampler, pca, settings)
        advance(state, settings)
        recent = loss if recent == 0.0 else recent + 0.02 * (loss - recent)
        now = time.monotonic()
        state.seconds += now - began
        if state.step % 100 == 0:
            LOG.info("step %d: loss %.4f, %.3f s/step", state.step, recent, now - began)
        if now - reported > rhythm.report_seconds or state.step == settings.steps:
            REPORTS[part](settings.codec, state, strips, pca, out, recent)
            reported = time.monotonic()
        if now - saved > rhythm.checkpoint_seconds or state.step == settings.steps:
            save(state, out / f"{part}.pt")
            saved = time.monotonic()
    return state


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train one half of the codec; resumes from --out.")
    parser.add_argument("--codec", choices=sorted(CODECS), default=CodecSettings.codec)
    parser.add_argument("--part", choices=sorted(STEPS), required=True)
    parser.add_argument(
        "--cache", type=Path, default=default_cache(), help="downloads and the composed picture"
    )
    parser.add_argument("--out", type=Path, required=True, help="checkpoints, sheets, latents.npz")
    parser.add_argument("--steps", type=int, default=CodecSettings.steps)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--checkpoint-seconds", type=float, default=Rhythm.checkpoint_seconds)
    parser.add_argument("--report-seconds", type=float, default=Rhythm.report_seconds)
    return parser.parse_args(arguments)


def main() -> None:
    """Load the data, restore the last checkpoint if there is one, train."""
    options = parse_arguments()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    settings = CodecSettings(codec=options.codec, steps=options.steps)
    strips = load_strips(options.cache)
    pca = pca_for(strips, options.out / "latents.npz")
    torch.manual_seed(settings.seed)
    modules, optimiser = half_of_codec(options.part, settings)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    modules.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = restore(start(modules, optimiser, settings.seed), options.out / f"{options.part}.pt")
    rhythm = Rhythm(options.checkpoint_seconds, options.report_seconds)
    train(options.part, state, strips, pca, settings, options.out, rhythm)


if __name__ == "__main__":
    main()
