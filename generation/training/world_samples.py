"""Knows how maps are invented: the engine's sampler on a canvas of cells, and a sheet to look at. Knows no training.

wish (mix, scale) --> engine: x_K .. x_0 of 12 planes --> argmax --> majority filter --> class ids
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from generation.covers import overlapping_grid, shifted_tiling
from generation.denoise import Sampler
from generation.fusion import WINDOWS, from_fixed
from generation.models.contracts import Conditioning
from generation.schedules import Schedule
from generation.training.classes import CLASS_ID, CLASS_NAMES, EARTH, Classes
from generation.training.earth import Bytes, Floats
from generation.training.networks import build_solver
from generation.training.world_network import wish_planes
from storage.geometry import Box, Canvas


class Wish(Protocol):
    """What is asked for at each place."""

    def read(self, box: Box) -> Floats:
        """(13, h, w): shares of the twelve classes around each cell, and the scale's feature."""


@dataclass(frozen=True)
class UniformWish:
    """The same mix everywhere: shares by class name, None for no wish; `scale` in blocks per cell."""

    mix: Mapping[str, float] | None
    scale: float

    def read(self, box: Box) -> Floats:
        planes = np.zeros((len(CLASS_NAMES), *box.shape), dtype=np.float32)
        mix = self.mix or {}
        total = sum(mix.values())
        for name, share in mix.items():
            planes[CLASS_ID[name]] = share / total
        return wish_planes(planes, self.scale)


@dataclass(frozen=True)
class DriftingWish:
    """Several wishes, each strongest in regions of about `size` cells that sums of waves choose; known place by place.

    weight_i(y, x) ~ exp(2 sum_j cos(2 pi f_j . (y, x) + phase_ij)),    |f_j| about 1 / (2 size)
    """

    wishes: tuple[Wish, ...]
    size: float
    seed: int = 0
    waves: int = 5

    def read(self, box: Box) -> Floats:
        """(13, h, w): a blend of the wishes."""
        random = np.random.default_rng(self.seed)
        angles, lengths = random.uniform(0, 2 * np.pi, self.waves), random.uniform(0.6, 1.4, self.waves)
        phases = random.uniform(0, 2 * np.pi, (len(self.wishes), self.waves, 1, 1))
        y, x = np.arange(box.y0, box.y1)[:, None], np.arange(box.x0, box.x1)[None]
        ways = [np.cos(angle) * y + np.sin(angle) * x for angle in angles]
        turns = np.stack(
            [np.pi * way / (self.size * length) for way, length in zip(ways, lengths, strict=True)]
        )
        weights = np.exp(2.0 * np.cos(turns[None] + phases).sum(axis=1))
        weights /= weights.sum(axis=0)
        blend: Floats = np.einsum(
            "ihw,ichw->chw", weights, np.stack([wish.read(box) for wish in self.wishes])
        ).astype(np.float32)
        return blend


@dataclass(frozen=True)
class MapSampling:
    """How a map is sampled: `method` is "shifted" or the name of a window for overlapping patches."""

    patch: int = 64
    steps: int = 20
    method: str = "shifted"
    overlap: float = 0.5
    guidance_scale: float = 1.0
    temperature: float = 0.65
    seed: int = 0
    filter_votes: int = 2
    batch_size: int = 8


@dataclass(frozen=True)
class MapDenoiser:
    """E[x_0] of noisy maps: the engine's prediction of type "sample"."""

    network: nn.Module
    temperature: float

    def predict(self, latents: Tensor, timestep: Tensor, conditioning: Conditioning) -> Tensor:
        """(N, 12, h, w) with conditioning "wish" (N, 13, h, w) -> (N, 12, h, w)."""
        hidden = torch.zeros_like(latents[:, :1])
        steps = timestep.long().expand(len(latents))
        logits = self.network(latents, hidden, conditioning["wish"], steps, self.temperature)
        expected: Tensor = torch.softmax(logits, dim=1) - 1.0 / logits.shape[1]
        return expected


@dataclass(frozen=True)
class WishConditioner:
    """Each patch's part of the wish; no mix, but the same scale, for the guidance's other end."""

    wish: Wish

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        return {"wish": torch.from_numpy(np.stack([self.wish.read(box) for box in boxes]))}

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        planes = self.conditional(boxes)["wish"].clone()
        planes[:, :-1] = 0.0
        return {"wish": planes}


def map_solver() -> Any:
    """The picture model's solver, told that the network predicts x_0."""
    solver = build_solver()
    return type(solver).from_config(solver.config, prediction_type="sample")


def map_sampler(network: nn.Module, wish: Wish, canvas: Canvas, settings: MapSampling) -> Sampler:
    """The engine's sampler of a map."""
    shifted = settings.method == "shifted"
    return Sampler(
        canvas=canvas,
        cover=shifted_tiling(canvas, settings.patch, settings.seed)
        if shifted
        else overlapping_grid(canvas, settings.patch, settings.overlap),
        window=WINDOWS["uniform" if shifted else settings.method],
        schedule=Schedule("dpmpp_2m", dict(map_solver().config), settings.steps),
        seed=settings.seed,
        channels=wish.read(Box(0, 1, 0, 1)).shape[0] - 1,
        denoiser=MapDenoiser(network, settings.temperature),
        conditioner=WishConditioner(wish),
        guidance_scale=settings.guidance_scale,
        batch_size=settings.batch_size,
        device=torch.device("cpu"),
        dtype=torch.float32,
    )


def invent(network: nn.Module, wish: Wish, canvas: Canvas, settings: MapSampling) -> Bytes:
    """(h, w) class ids of a whole canvas, in one block."""
    sampler = map_sampler(network, wish, canvas, settings)
    state = sampler.start(canvas.box)
    for k in range(len(sampler.schedule)):
        total = sampler.evaluate(k, canvas.box, canvas.box, state[: sampler.channels])
        state = sampler.advance(k, canvas.box, state, from_fixed(total.astype(np.int64)))
    ids: Bytes = state[: sampler.channels].argmax(axis=0).astype(np.uint8)
    return smoothed(ids, settings.filter_votes) if settings.filter_votes else ids


def smoothed(ids: Bytes, votes: int) -> Bytes:
    """A cell whose class fewer than `votes` of its 3 x 3 neighbourhood share takes its neighbours' commonest class."""
    padded = np.pad(ids, 1, mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
    counts = np.stack([(windows == index).sum(axis=(2, 3)) for index in range(int(ids.max()) + 1)])
    own = np.take_along_axis(counts, ids[None].astype(np.intp), axis=0)[0]
    return np.where(own < votes, counts.argmax(axis=0), ids).astype(np.uint8)


def write_map_sheet(
    maps: Sequence[Sequence[Bytes]], path: Path, enlarge: int = 3, classes: Classes = EARTH
) -> None:
    """Rows of maps of one size as one PNG, with white lines between them; unknown cells are grey."""
    rows = [np.concatenate([framed(classes.painted(ids), enlarge) for ids in row], axis=1) for row in maps]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)


def framed(picture: Bytes, enlarge: int) -> Bytes:
    """A picture with cells of `enlarge` pixels and a white frame."""
    large = picture.repeat(enlarge, axis=0).repeat(enlarge, axis=1)
    return np.pad(large, ((2, 2), (2, 2), (0, 0)), constant_values=255)
