"""Knows how maps are invented: the engine's sampler on a canvas of cells, and a sheet to look at. Knows no training.

WishConditioner (wish, scale) --> engine: x_K .. x_0 of 12 planes --> argmax --> majority filter --> class ids
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from generation.models.maps import Calm, MapDenoiser, WishConditioner, smoothed
from generation.sampling.batching import batching
from generation.sampling.denoise import Fields, Sampler
from generation.sampling.fusion import from_fixed
from generation.sampling.methods import Method, Name
from generation.sampling.schedules.building import build_schedule
from generation.training.classes import CLASS_NAMES, EARTH, Classes
from generation.training.earth import Bytes, Floats
from generation.training.networks import build_map_solver
from generation.training.world_network import MapNetwork
from storage.geometry import Box, Canvas

CALM = Calm(0.65, until=400.0, one_from=900.0)


@dataclass(frozen=True)
class UniformWish:
    """One mix everywhere: shares by class name, none for no wish."""

    mix: Mapping[str, float]
    names: tuple[str, ...] = CLASS_NAMES

    def read(self, box: Box) -> Floats:
        """(K, h, w), the same at every cell."""
        planes = np.zeros((len(self.names), *box.shape), np.float32)
        total = sum(self.mix.values())
        for name, share in self.mix.items():
            planes[self.names.index(name)] = share / total
        return planes


@dataclass(frozen=True)
class MapSampling:
    """How a map is sampled: by one of the methods that pictures are made by."""

    patch: int = 64
    steps: int = 20
    method: Name = "shifted"
    overlap: float = 0.5
    guidance_scale: float = 1.0
    calm: Calm = CALM
    seed: int = 0
    filter_votes: int = 2
    batch_size: int = 8


def map_denoiser(network: MapNetwork, calm: Calm) -> MapDenoiser:
    """The network as the engine calls it, where it is."""
    evidence = network.evidence
    steps = torch.arange(len(evidence), device=evidence.device)
    return MapDenoiser(network.unet, evidence.device, network.unet.dtype, evidence, calm.temperatures(steps))


def map_sampler(
    network: MapNetwork, conditioner: WishConditioner, canvas: Canvas, settings: MapSampling
) -> Sampler:
    """The engine's sampler of a map."""
    method = Method(settings.method, settings.seed, settings.steps, settings.overlap, blend_last=0)
    return Sampler(
        canvas=canvas,
        cover=method.cover(canvas, settings.patch, settings.steps),
        schedule=build_schedule("dpmpp_2m", dict(build_map_solver().config), settings.steps),
        seed=settings.seed,
        channels=len(conditioner.wish.names),
        denoiser=map_denoiser(network, settings.calm),
        conditioner=conditioner,
        guidance_scale=settings.guidance_scale,
        batching=batching(canvas, settings.patch, method.stride(settings.patch), settings.batch_size),
        device=network.evidence.device,
        dtype=torch.float32,
    )


def invent(network: MapNetwork, conditioner: WishConditioner, canvas: Canvas, settings: MapSampling) -> Bytes:
    """(h, w) class ids of a whole canvas, in one block."""
    sampler = map_sampler(network, conditioner, canvas, settings)
    fields: Fields = [sampler.start(canvas.box)]
    for k in range(len(sampler.schedule)):
        found = sampler.evaluate(k, canvas.box, canvas.box, fields[0])
        fields = sampler.advance(k, canvas.box, fields, from_fixed(found.sums.astype(np.int64)))
    ids: Bytes = fields[0].argmax(axis=0).astype(np.uint8)
    return smoothed(ids, settings.filter_votes) if settings.filter_votes else ids


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
