"""Draws what is judged: samples of class maps, and a canvas of many patches. Knows a loaded model, no figure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generation.decoding.decode import Tiling, decode_box
from generation.models.contracts import ClassMap, Conditioner, Model
from generation.places.scenes import CLASSES, SCENES, SceneMap
from generation.sampling.batching import batching
from generation.sampling.covers import Cover
from generation.sampling.denoise import Fields, Sampler
from generation.sampling.fusion import from_fixed
from generation.sampling.methods import Method, blended
from generation.sampling.schedules.building import build_schedule
from generation.training.crops import CANONICAL, Crop, CropSource, coarsened, one_hot
from generation.training.earth import BLOCK, Bytes, Floats
from generation.training.latents import to_unit
from storage.geometry import Box, Canvas

BATCH = 16
DECODED = 8
REGION = 64
"""Latents between the middles of a patchwork's regions."""


@dataclass(frozen=True)
class Painter:
    """A class-map model that draws with its own scheduler, steps and guidance."""

    model: Model
    device: torch.device

    @property
    def classes(self) -> int:
        """How many classes it knows."""
        return len(self.model.info.class_names)

    @property
    def side(self) -> int:
        """Pixels along the side of its patch."""
        return self.model.info.patch * self.model.info.scale

    @torch.inference_mode()
    def paint(self, maps: Tensor, seed: int) -> Tensor:
        """(N, K, h, w) one-hot maps -> (N, 3, H, W) pictures in [-1, 1]."""
        pictures = [
            self.decode(self.denoise(part, seed + index))
            for index, part in enumerate(torch.split(maps, BATCH))
        ]
        return torch.cat(pictures)

    def denoise(self, maps: Tensor, seed: int) -> Tensor:
        """Latents of one batch."""
        info = self.model.info
        solver: Any = getattr(diffusers, info.scheduler).from_config(dict(info.scheduler_config))
        solver.set_timesteps(info.num_inference_steps)
        shape = (len(maps), info.latent_channels, *maps.shape[2:])
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        latents: Tensor = noise.to(self.device) * solver.init_noise_sigma
        for step in solver.timesteps:
            seen = solver.scale_model_input(latents, step)
            latents = solver.step(self.guided(seen, step, maps.to(self.device)), step, latents).prev_sample
        return latents

    def guided(self, latents: Tensor, step: Tensor, maps: Tensor) -> Tensor:
        """The prediction for the maps, pushed away from that for no map where the model's guidance asks for it."""
        told = self.model.denoiser.predict(latents, step, {"classes": maps})
        scale = self.model.info.guidance_scale
        if scale <= 1.0 or not self.classes:
            return told
        untold = self.model.denoiser.predict(latents, step, {"classes": torch.zeros_like(maps)})
        return untold + scale * (told - untold)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures of latents, a few at a time, on the CPU."""
        return torch.cat([self.model.codec.decode(part).cpu() for part in torch.split(latents, DECODED)])


@dataclass(frozen=True)
class Drawn:
    """Pictures (N, 3, H, W) in [-1, 1] of crops, and one-hot class maps (N, K, h, w) of what lies around them."""

    pictures: Tensor
    maps: Tensor


def drawn_crops(source: CropSource, classes: int, number: int, side: int, patch: int, seed: int) -> Drawn:
    """Real crops of side x side latents; the maps are those of the patch x patch latents around them."""
    random = np.random.default_rng(seed)
    crops = [source.draw(random, side, side) for _ in range(number)]
    maps = np.stack([map_around(crop, classes, patch, random) for crop in crops])
    return Drawn(to_unit([crop.pixels for crop in crops]), torch.from_numpy(maps))


def map_around(crop: Crop, classes: int, patch: int, random: np.random.Generator) -> Floats:
    """(classes, patch, patch) one-hot planes of the surroundings, as the finished model is told them.

    +-- patch ------+
    |   +-- crop --+|      so that the middle of what is drawn shows what the crop shows; beyond the margin
    |   +----------+|      of a crop's classes, its outermost go on
    +---------------+
    """
    if crop.classes is None or classes == 0:
        return np.zeros((classes, patch, patch), np.float32)
    side = crop.pixels.shape[0] // BLOCK
    wide = np.pad(crop.classes, (patch - side) // 2, mode="edge")
    return one_hot(coarsened(wide, CANONICAL, random), classes)


def middle(pictures: Tensor, side: int) -> Tensor:
    """The middle side x side pixels."""
    top, left = (pictures.shape[2] - side) // 2, (pictures.shape[3] - side) // 2
    return pictures[:, :, top : top + side, left : left + side]


def quarters(pictures: Tensor, side: int) -> Tensor:
    """All side x side squares of a regular grid."""
    rows, columns = pictures.shape[2] // side, pictures.shape[3] // side
    squares = [
        pictures[:, :, y * side : (y + 1) * side, x * side : (x + 1) * side]
        for y in range(rows)
        for x in range(columns)
    ]
    return torch.cat(squares)


# --- a canvas --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patchwork:
    """A class for every place: that of the nearest of some scattered points."""

    ids: NDArray[np.int64]

    def read(self, box: Box) -> Tensor:
        """(h, w) ids."""
        return torch.from_numpy(self.ids[box.slices_in(Box(0, self.ids.shape[0], 0, self.ids.shape[1]))])


def patchwork(canvas: Canvas, cell: int, classes: int, seed: int) -> Patchwork:
    """Regions about 64 latents wide, in whole cells."""
    random = np.random.default_rng(seed)
    rows, columns = -(-canvas.height // cell), -(-canvas.width // cell)
    count = max(2, round(canvas.height * canvas.width / REGION**2))
    points = random.random((count, 2)) * (rows, columns)
    y, x = np.mgrid[:rows, :columns] + 0.5
    nearest = ((y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2).argmin(axis=-1)
    ids = random.integers(classes, size=count)[nearest].repeat(cell, axis=0).repeat(cell, axis=1)
    return Patchwork(ids[: canvas.height, : canvas.width])


@dataclass(frozen=True)
class Painted:
    """A canvas as pixels (H, W, 3), and what it was made of."""

    pixels: Bytes
    cover: Cover
    steps: int
    tiling: Tiling


def conditioner_for(painter: Painter, canvas: Canvas, seed: int) -> Conditioner:
    """A scene where the model's classes are the Earth's, a patchwork of its classes where not."""
    from generation.models.contracts import Request

    info = painter.model.info
    if not info.class_names:
        return painter.model.conditioner_for(Request("", "", canvas.height, canvas.width))
    cell = int(info.notes.get("cell", 1))
    classes: ClassMap = (
        SceneMap(SCENES["continent"], seed, canvas, cell, info.class_names)
        if set(info.class_names) == set(CLASSES)
        else patchwork(canvas, cell, len(info.class_names), seed)
    )
    return painter.model.conditioner_for(Request("", "", canvas.height, canvas.width, classes))


def paint_canvas(painter: Painter, side: int, seed: int) -> Painted:
    """A canvas of side x side latents as a job of the model's own settings draws it, in one block."""
    info, canvas = painter.model.info, Canvas(side, side)
    name, steps = info.notes.get("method", "shifted"), info.num_inference_steps
    method = Method(name, seed, steps, info.notes.get("overlap", 0.5), blended(name, steps))
    schedule = build_schedule(info.scheduler, info.scheduler_config, steps)
    sampler = Sampler(
        canvas=canvas,
        cover=method.cover(canvas, info.patch, len(schedule)),
        schedule=schedule,
        seed=seed,
        channels=info.latent_channels,
        denoiser=painter.model.denoiser,
        conditioner=conditioner_for(painter, canvas, seed),
        guidance_scale=info.guidance_scale if info.class_names else 1.0,
        batching=batching(canvas, info.patch, method.stride(info.patch), BATCH),
        device=painter.device,
        dtype=torch.float32,
    )
    fields: Fields = [sampler.start(canvas.box)]
    for k in range(len(sampler.schedule)):
        found = sampler.evaluate(k, canvas.box, canvas.box, fields[0])
        fields = sampler.advance(k, canvas.box, fields, from_fixed(found.sums.astype(np.int64)))
    tiling = Tiling(canvas, info.scale, info.tile, info.tile_margin, info.local_codec)
    latents = fields[0]
    pixels = decode_box(
        painter.model.codec,
        tiling,
        canvas.box,
        lambda box: latents[(slice(None), *box.slices_in(canvas.box))],
        painter.device,
    )
    shown = np.round(pixels * 255.0).astype(np.uint8)
    return Painted(shown, sampler.cover, len(sampler.schedule), tiling)
