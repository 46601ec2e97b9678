"""Tiny random class-map and map models, in the layout of the embedded one."""

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
from tiny_models import PATCH

CLASSES = ("sea", "sand", "wood")
CALM = {"temperature": {"value": 0.5, "until": 300, "one_from": 800}}


def build_class_map(folder: Path) -> Path:
    """The embedded model's layout: 4 latent channels, 3 classes, 4 pixels per latent, convolutional codec."""
    torch.manual_seed(7)
    unet = diffusers.UNet2DModel(
        sample_size=PATCH,
        in_channels=4 + len(CLASSES),
        out_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )
    codec = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3,
        decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1, 1, 1),
        num_decoder_blocks=(1, 1, 1),
        latent_channels=4,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="v_prediction", timestep_spacing="trailing"
    )
    unet.save_pretrained(folder / "unet")
    codec.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    _write_index(folder, unet=unet, vae=codec, scheduler=scheduler)
    _write_json(folder / "classes.json", {"format_version": 1, "cell": 4, "classes": _class_rows()})
    return folder


def _class_rows() -> list[dict[str, str]]:
    return [{"name": name, "colour": f"#0000{place:02x}"} for place, name in enumerate(CLASSES)]


def _write_index(folder: Path, **parts: Any) -> None:
    index = {name: ["diffusers", type(part).__name__] for name, part in parts.items()}
    _write_json(folder / "model_index.json", {"_class_name": "DiffusionPipeline", **index})


def build_map(folder: Path) -> Path:
    """A map model of the same classes: patches of 16 cells."""
    torch.manual_seed(8)
    unet = diffusers.UNet2DModel(
        sample_size=PATCH,
        in_channels=2 * len(CLASSES) + 2,
        out_channels=len(CLASSES),
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(
        prediction_type="sample", timestep_spacing="trailing", beta_schedule="squaredcos_cap_v2"
    )
    unet.save_pretrained(folder / "unet")
    scheduler.save_pretrained(folder / "scheduler")
    _write_index(folder, unet=unet, scheduler=scheduler)
    table = {
        "format_version": 1,
        "classes": _class_rows(),
        "patch": PATCH,
        "method": "hann",
        "overlap": 0.5,
        "guidance_scale": 1.5,
        "num_inference_steps": 3,
    }
    _write_json(folder / "map.json", table | {"scale": {"default": 2.0}, "filter": {"votes": 3}, **CALM})
    return folder


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
