"""Knows which of diffusers' classes make up the model, and their settings. Knows no data, loss or weights.

The builders return Any: diffusers' own annotations are partial.
"""

from collections.abc import Callable, Mapping
from typing import Any

import diffusers

from generation.training.classes import CLASS_NAMES

LIBRARY: Any = diffusers
CHANNELS = 16


def build_unet(
    in_channels: int = CHANNELS + len(CLASS_NAMES),
    out_channels: int = CHANNELS,
    widths: tuple[int, ...] = (64, 96),
    sample_size: int = 32,
) -> Any:
    """Noisy latents and one-hot classes in, v out; attention only at the lowest level."""
    plain = len(widths) - 1
    return LIBRARY.UNet2DModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=out_channels,
        block_out_channels=widths,
        layers_per_block=2,
        down_block_types=("DownBlock2D",) * plain + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * plain,
        attention_head_dim=32,
        norm_num_groups=32,
    )


def build_tiny() -> Any:
    """f = 8, upsampling by repetition; the decoder reaches 8 latents far."""
    return LIBRARY.AutoencoderTiny(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(48, 48, 48, 48),
        num_encoder_blocks=(0, 1, 1, 1),
        num_decoder_blocks=(1, 1, 1, 1),
        scaling_factor=1.0,
    )


def build_subpixel() -> Any:
    """f = 8, upsampling by pixel shuffle; the decoder reaches 8 latents far.

    A pixel knows its place in its block, which repetition cannot tell it: equal latents may have texture too.
    Its RMS norms are over the channels of one pixel, so it is as local as the other.
    """
    return LIBRARY.AutoencoderDC(
        latent_channels=CHANNELS,
        encoder_block_out_channels=(16, 16, 32, 64),
        encoder_layers_per_block=(0, 1, 1, 1),
        encoder_qkv_multiscales=((), (), (), ()),
        decoder_block_out_channels=(48, 48, 64, 64),
        decoder_layers_per_block=(0, 2, 2, 1),
        decoder_qkv_multiscales=((), (), (), ()),
        scaling_factor=1.0,
    )


CODECS: Mapping[str, Callable[[], Any]] = {"tiny": build_tiny, "subpixel": build_subpixel}


def build_noise_schedule() -> Any:
    """The cosine schedule over 1000 steps, for training."""
    return LIBRARY.DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction"
    )


SAMPLING = dict(
    num_train_timesteps=1000,
    beta_schedule="squaredcos_cap_v2",
    solver_order=2,
    timestep_spacing="trailing",
    final_sigmas_type="zero",
)


def build_solver() -> Any:
    """UniPC on the training schedule, for sampling: in 10 steps as good as DPM-Solver++ (2M) in 50 (docs/log.md)."""
    return LIBRARY.UniPCMultistepScheduler(**SAMPLING, prediction_type="v_prediction", solver_type="bh2")


def build_jump_solver() -> Any:
    """DDIM on the same schedule, as the first order of DPM-Solver++, for a network that was taught long steps."""
    return LIBRARY.DPMSolverMultistepScheduler(
        **(SAMPLING | {"solver_order": 1}), prediction_type="v_prediction", algorithm_type="dpmsolver++"
    )


def build_map_solver() -> Any:
    """DPM-Solver++ (2M) on the same schedule, for a network that predicts x_0."""
    return LIBRARY.DPMSolverMultistepScheduler(
        **SAMPLING, prediction_type="sample", algorithm_type="dpmsolver++", solver_type="midpoint"
    )
