"""What diffusers' pipelines change of a configuration when they load it. Knows JSON objects; knows no tensor.

    every family          a scheduler is of the class that model_index.json names, whatever its own file says;
                          what a file leaves out is what its class takes by default
    Stable Diffusion 1, 2 steps_offset is 1, clip_sample is false, and a UNet of diffusers before 0.9.0 whose
                          sample_size is below 64 has 64 (StableDiffusionPipeline.__init__)

The other pipelines take what their files say, a clip_sample of true included.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

CLASSIC = "StableDiffusionPipeline"
UNET = "unet/config.json"

LEAST_SIDE = 64
LEAST_SIDE_SINCE = (0, 9)
"""The version of diffusers whose UNets may be smaller, and its number."""

DEFAULTS: Mapping[str, Config] = {
    "UNet2DConditionModel": {
        "in_channels": 4,
        "cross_attention_dim": 1280,
        "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    },
    "SD3Transformer2DModel": {"sample_size": 128, "patch_size": 2, "in_channels": 16},
    "FluxTransformer2DModel": {"in_channels": 64, "guidance_embeds": False},
    "AutoencoderKL": {"latent_channels": 4, "block_out_channels": (64,)},
    "FlowMatchEulerDiscreteScheduler": {
        "base_shift": 0.5,
        "max_shift": 1.15,
        "base_image_seq_len": 256,
        "max_image_seq_len": 4096,
    },
    "DDIMScheduler": {"clip_sample": True},
    "DDPMScheduler": {"clip_sample": True},
}
"""What the classes take for settings that a configuration leaves out, as far as a description reads them."""


@dataclass(frozen=True)
class Correction:
    """A setting that is used with another value than its file has, which is None where that leaves it out.

    why: the end of the sentence that says so.
    """

    file: str
    setting: str
    found: Any
    used: Any
    why: str

    def __str__(self) -> str:
        has = "leaves it out" if self.found is None else f"has {json.dumps(self.found)}"
        return f"{self.setting} is {json.dumps(self.used)} where {self.file} {has}: {self.why}"


def corrections_note(*fixes: Correction) -> dict[str, tuple[Correction, ...]]:
    """The entry of ModelInfo.notes, where there is something to say."""
    return {"corrections": fixes} if fixes else {}


def class_in(index: Config, part: str) -> str | None:
    """The class of a part that model_index.json names: {"scheduler": ["diffusers", "DDIMScheduler"]}."""
    entry = index.get(part)
    if not isinstance(entry, list) or len(entry) != 2:
        return None
    return entry[1] if isinstance(entry[1], str) else None


def unet_settings(kind: str, config: Config) -> tuple[Config, tuple[Correction, ...]]:
    """The configuration of a UNet as the pipeline of class `kind` uses it, and what of it was changed."""
    side, release = config.get("sample_size"), _release(config.get("_diffusers_version"))
    small = isinstance(side, int) and not isinstance(side, bool) and side < LEAST_SIDE
    if kind != CLASSIC or not small or release is None or release >= LEAST_SIDE_SINCE:
        return config, ()
    why = f"diffusers before 0.9.0 wrote it, and {CLASSIC} takes that for a mistake"
    return {**config, "sample_size": LEAST_SIDE}, (Correction(UNET, "sample_size", side, LEAST_SIDE, why),)


def _release(version: Any) -> tuple[int, int] | None:
    """ "0.6.0.dev0" -> (0, 6)."""
    found = re.match(r"(\d+)\.(\d+)", version) if isinstance(version, str) else None
    return (int(found[1]), int(found[2])) if found else None


def completed(name: str, config: Config) -> dict[str, Any]:
    """The configuration of a network or scheduler of a class, with what that takes for settings that are left out."""
    return {**DEFAULTS.get(name, {}), **config, "_class_name": name}
