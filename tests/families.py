"""The tiny models of every family, and diffusers' own pipelines over them. Not a test itself."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import tiny_class_models
import tiny_models
import torch

from generation.models.contracts import Model, ModelInfo, Request
from storage.geometry import Box

diffusers: Any = importlib.import_module("diffusers")
"""Untyped."""

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "sd1": tiny_models.build_sd1,
    "sd2": tiny_models.build_sd2,
    "sdxl": tiny_models.build_sdxl,
    "sd3": tiny_models.build_sd3,
    "flux-dev": tiny_models.build_flux,
    "flux-schnell": lambda folder: tiny_models.build_flux(folder, guided=False),
    "class-map": tiny_class_models.build_class_map,
}
TEXT = [name for name in BUILDERS if name != "class-map"]
TOLERANCE = 1e-4
"""Largest difference from diffusers' latents, which have a standard deviation near 1. Both sides compute in
float32; they batch the two guidance evaluations differently, so the last bits differ."""

WORDS = Request("a lake", "blurry", tiny_models.PATCH, tiny_models.PATCH)


class Stripes:
    """Class ids that grow downwards, with a first row that has none."""

    def read(self, box: Box) -> torch.Tensor:
        """-1, 0, 1, 2, 0, 1, 2, ... by row."""
        rows = torch.arange(box.y0, box.y1) - 1
        return torch.where(rows < 0, -1, rows % len(tiny_class_models.CLASSES))[:, None].expand(box.shape)


def request_for(name: str) -> Request:
    """Words, or stripes."""
    return replace(WORDS, classes=Stripes()) if name == "class-map" else WORDS


def noise(info: ModelInfo, count: int, side: int | None = None) -> torch.Tensor:
    """(count, C, side, side) seeded noise; the side is a native patch's unless given."""
    size = side or info.patch
    return torch.randn(count, info.latent_channels, size, size, generator=torch.Generator().manual_seed(11))


def squares(count: int, side: int) -> list[Box]:
    """Patches in a row."""
    return [Box(0, side, place * side, (place + 1) * side) for place in range(count)]


def predict(model: Model, request: Request = WORDS) -> torch.Tensor:
    """One evaluation, on 16 latents."""
    conditioning = model.conditioner_for(request).conditional(squares(1, 16))
    return model.denoiser.predict(noise(model.info, 1, 16), torch.tensor(500.0), conditioning)


def theirs(
    folder: Path, latents: torch.Tensor, request: Request, steps: int, guidance: float
) -> torch.Tensor:
    """diffusers' pipeline on the same canvas."""
    pipeline = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    flux = isinstance(pipeline, diffusers.FluxPipeline)
    pixels = latents.shape[-1] * pipeline.vae_scale_factor
    given = pipeline._pack_latents(latents, *latents.shape) if flux else latents
    negative = {} if flux else {"negative_prompt": request.negative_prompt or None}
    result: torch.Tensor = pipeline(
        request.prompt,
        height=pixels,
        width=pixels,
        latents=given.clone(),
        num_inference_steps=steps,
        guidance_scale=guidance,
        output_type="latent",
        **negative,
    ).images
    return pipeline._unpack_latents(result, pixels, pixels, pipeline.vae_scale_factor) if flux else result


def assert_near(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Equal but for the last bits: mapped weights lie otherwise aligned, and kernels sum in another order."""
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0.0)
