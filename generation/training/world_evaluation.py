"""Knows how invented maps are judged: held-out loss, neighbours, wishes granted, originality. Knows no training.

held-out loss    v-loss and cross-entropy of held-out cells, and of the training cells of the same views
neighbours       L1 distance of the K x K tables of classes side by side: samples, held-out cells, training cells
wishes           correlation, over classes and maps, of the shares asked for and the shares obtained
originality      agreement with the most similar of many views of the training cells, at all bearings
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generation.models.maps import WishConditioner
from generation.training.classes import EARTH, Classes
from generation.training.data import Bools
from generation.training.earth import Bytes, Floats
from generation.training.networks import build_noise_schedule
from generation.training.world_globe import (
    Doubles,
    GlobeSource,
    GlobeView,
    World,
    axes,
    cells_of,
    centred,
    exact_wish,
    looked_up,
    shares,
)
from generation.training.world_network import UNKNOWN, MapNetwork, centred_planes, scale_of
from generation.training.world_samples import MapSampling, invent, write_map_sheet
from storage.geometry import Box, Canvas

BATCH = 8
SHEET_ROWS = 6


@dataclass(frozen=True)
class Judged:
    """Maps with all their cells (N, h, w), which of them are held out, and exact wishes (N, K + 1, h, w)."""

    ids: Bytes
    held_out: Bools
    wishes: Floats


@dataclass(frozen=True)
class FixedWish:
    """The shares (K, h, w) of one map."""

    shares: Floats
    names: tuple[str, ...]

    def read(self, box: Box) -> Floats:
        """(K, h, w) of a box inside the map."""
        whole = Box(0, self.shares.shape[1], 0, self.shares.shape[2])
        return self.shares[(slice(None), *box.slices_in(whole))]


def judged_views(world: World, number: int, side: int, seed: int = 99) -> Judged:
    """Fixed views near held-out blocks; wishes know nothing of what is held out."""
    source, random = GlobeSource(world, held_out=True), np.random.default_rng(seed)
    views = [source.view(random, side) for _ in range(number)]
    inside = np.stack([cells_of(world, view, side, held_out=True) for view in views])
    outside = np.stack([cells_of(world, view, side) for view in views])
    wishes = np.stack([exact_wish(world, view, side) for view in views])
    return Judged(np.where(inside != UNKNOWN, inside, outside), inside != UNKNOWN, wishes)


@torch.no_grad()
def cell_losses(network: nn.Module, judged: Judged, steps: Tensor, seed: int = 99) -> tuple[Tensor, Tensor]:
    """(N, h, w) |v - v_theta|^2 = |x_0 - x_theta|^2 / sigma_t^2, mean over planes, and nats; fixed noise."""
    schedule: Any = build_noise_schedule()
    classes, device = judged.wishes.shape[1] - 1, next(network.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    errors, nats = [], []
    for begin in range(0, len(judged.ids), BATCH):
        ids, at = torch.from_numpy(judged.ids[begin : begin + BATCH]), steps[begin : begin + BATCH]
        wishes = torch.from_numpy(judged.wishes[begin : begin + BATCH])
        planes = centred_planes(ids, classes)
        noisy = schedule.add_noise(planes, torch.randn(planes.shape, generator=generator), at)
        hidden = (ids == UNKNOWN)[:, None].float()
        logits = network(*(tensor.to(device) for tensor in (noisy, hidden, wishes, at))).float().cpu()
        guess = torch.softmax(logits, dim=1) - 1.0 / classes
        variance = (1.0 - schedule.alphas_cumprod[at])[:, None, None]
        errors.append((guess - planes).square().mean(dim=1) / variance)
        targets = torch.where(ids == UNKNOWN, 0, ids).long()
        nats.append(functional.cross_entropy(logits, targets, reduction="none"))
    return torch.cat(errors), torch.cat(nats)


def spread_steps(number: int) -> Tensor:
    """The middles of `number` equal intervals of 0..999."""
    return ((torch.arange(number) + 0.5) * 1000 / number).long()


def held_out_losses(network: nn.Module, judged: Judged) -> dict[str, float]:
    """Means over the held-out cells and over the training cells of the same maps; timesteps spread evenly."""
    errors, nats = cell_losses(network, judged, spread_steps(len(judged.ids)))
    held_out = torch.from_numpy(judged.held_out)
    trained = ~held_out & torch.from_numpy(judged.ids != UNKNOWN)
    return {
        "held_out_v_loss": float(errors[held_out].mean()),
        "training_v_loss": float(errors[trained].mean()),
        "held_out_nats": float(nats[held_out].mean()),
        "training_nats": float(nats[trained].mean()),
    }


def sampled(network: MapNetwork, wishes: Floats, settings: MapSampling, classes: Classes = EARTH) -> Bytes:
    """One map for each wish, each with its own noise, each a single patch."""
    canvas = Canvas(wishes.shape[-1], wishes.shape[-1])
    alone = replace(settings, patch=canvas.width, batch_size=1)
    asked = [
        WishConditioner(FixedWish(wish[:-1], classes.names), scale_of(wish), network.evidence.device)
        for wish in wishes
    ]
    maps = [
        invent(network, conditioner, canvas, replace(alone, seed=settings.seed + index))
        for index, conditioner in enumerate(asked)
    ]
    return np.stack(maps)


def write_report_sheet(network: MapNetwork, judged: Judged, classes: Classes, path: Path) -> None:
    """Rows of a map near held-out cells, and two maps invented for its wish."""
    wishes = judged.wishes[:SHEET_ROWS]
    made = [sampled(network, wishes, MapSampling(seed=seed), classes) for seed in (0, 100)]
    columns = [judged.ids[:SHEET_ROWS], *made]
    write_map_sheet(list(zip(*columns, strict=True)), path, classes=classes)


def neighbours(maps: Bytes, number: int = len(EARTH)) -> Doubles:
    """(K, K) symmetric shares of the pairs of classes side by side; pairs with an unknown cell do not count."""
    table = np.zeros((256, 256))
    for first, second in ((maps[:, 1:], maps[:, :-1]), (maps[:, :, 1:], maps[:, :, :-1])):
        np.add.at(table, (first.ravel(), second.ravel()), 1.0)
    known = table[:number, :number]
    pairs: Doubles = (known + known.T) / max(1.0, 2 * known.sum())
    return pairs


def borders(table: Doubles) -> Doubles:
    """The table of the pairs of unlike classes alone: what borders on what."""
    unlike: Doubles = table * (1.0 - np.eye(len(table)))
    return unlike / max(float(unlike.sum()), 1e-12)


def wish_correlation(wishes: Floats, maps: Bytes) -> float:
    """Pearson's correlation of asked and obtained shares, over all maps and classes."""
    asked = wishes[:, :-1].mean(axis=(2, 3)).ravel()
    obtained = np.concatenate([shares(ids) for ids in maps])
    return float(np.corrcoef(asked, obtained)[0, 1])


@dataclass(frozen=True)
class Bank:
    """Coarse views of the training cells (n, points^2), and their centres on the unit sphere (n, 3)."""

    ids: Bytes
    centres: Doubles


def build_bank(
    world: World, scale: float, window: int, points: int, spacing: float, bearings: int = 16
) -> Bank:
    """Views `spacing` cells apart all over the Earth, at all bearings, and mirrored; at most a tenth unknown."""
    gap = spacing * scale * world.step
    offsets = centred(points, window * scale * world.step)
    ids, centres = [], []
    for latitude in np.arange(-np.pi / 2 + gap, np.pi / 2, gap):
        for longitude in np.arange(-np.pi, np.pi, gap / np.cos(latitude)):
            for turn in range(2 * bearings):
                bearing = turn // 2 * 2 * np.pi / bearings
                view = GlobeView(float(latitude), float(longitude), bearing, turn % 2 == 1, scale)
                coarse = looked_up(world, view, offsets).ravel()
                if (coarse == UNKNOWN).mean() <= 0.1:
                    ids.append(coarse)
                    centres.append(axes(view)[0])
    return Bank(np.stack(ids), np.stack(centres))


def nearest_agreement(bank: Bank, queries: Bytes, away: Sequence[Doubles | None], radians: float) -> Doubles:
    """Each query's largest share of equal points with a view of the bank, `radians` or more from its `away`."""
    known = (bank.ids != UNKNOWN).sum(axis=1)
    best = []
    for query, centre in zip(queries, away, strict=True):
        agreeing = (bank.ids == query.ravel()[None]).sum(axis=1) / known
        if centre is not None:
            agreeing[bank.centres @ centre > np.cos(radians)] = 0.0
        best.append(agreeing.max())
    return np.array(best)
