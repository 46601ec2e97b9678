"""Knows how to look at a denoiser: samples of held-out class maps beside real pictures. Knows no training.

one row per class map:   | class map | real | sample, no guidance | sample, guidance 1.5 |

Where there are no classes, the map and the guided sample are left out.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from generation.training.crops import CANONICAL, NO_CLASS, Crop, CropSource, coarsened, condition
from generation.training.earth import BLOCK, Bytes
from generation.training.latents import to_bytes
from generation.training.networks import CHANNELS, build_solver

GUIDANCES = (1.0, 1.5)
SEARCHED = 200


def guided(unet: nn.Module, noisy: Tensor, step: Tensor, maps: Tensor, guidance: float) -> Tensor:
    """v of the class map, pushed away from v of the null class by `guidance`; 1 costs a single evaluation."""
    conditional: Tensor = unet(torch.cat([noisy, maps], dim=1), step).sample
    if guidance == 1.0:
        return conditional
    null: Tensor = unet(torch.cat([noisy, torch.zeros_like(maps)], dim=1), step).sample
    return null + guidance * (conditional - null)


def sample(unet: nn.Module, maps: Tensor, steps: int, guidance: float, seed: int) -> Tensor:
    """Latents for one-hot class maps (N, K, h, w), which lie on the network's device."""
    solver = build_solver()
    solver.set_timesteps(steps)
    shape = (maps.shape[0], CHANNELS, *maps.shape[2:])
    noise: Tensor = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    latents: Tensor = (noise * solver.init_noise_sigma).to(maps.device)
    for step in solver.timesteps:
        with torch.no_grad():
            velocity = guided(unet, solver.scale_model_input(latents, step), step, maps, guidance)
        latents = solver.step(velocity, step, latents).prev_sample
    return latents


def map_of(crop: Crop, random: np.random.Generator) -> Bytes:
    """The crop's class map as the finished model is told it; no class anywhere where there is none."""
    if crop.classes is None:
        return np.full((crop.pixels.shape[0] // BLOCK, crop.pixels.shape[1] // BLOCK), NO_CLASS, np.uint8)
    return coarsened(crop.classes, CANONICAL, random)


def choose_crops(source: CropSource, number: int, side: int, seed: int) -> list[Crop]:
    """Crops that differ in their commonest class, as far as the classes reach."""
    random = np.random.default_rng(seed)
    drawn = [source.draw(random, side, side) for _ in range(SEARCHED if len(source.classes) else number)]
    commonest = [int(np.bincount(map_of(crop, random).ravel()).argmax()) for crop in drawn]
    first = {commonest.index(index): None for index in commonest}
    others = [index for index in range(len(drawn)) if index not in first]
    return [drawn[index] for index in [*first, *others][:number]]


def stack_column(pictures: Bytes) -> Bytes:
    """(N, height, width, 3) -> one tall picture."""
    return pictures.reshape(-1, *pictures.shape[2:])


def write_sheet(
    unet: nn.Module,
    decode: Callable[[Tensor], Tensor],
    source: CropSource,
    side: int,
    path: Path,
    seed: int,
    rows: int = 6,
) -> None:
    """Write the sheet described above as one PNG."""
    crops, random = choose_crops(source, rows, side, seed), np.random.default_rng(seed)
    number, device = len(source.classes), next(unet.parameters()).device
    maps = torch.from_numpy(np.stack([condition(crop, CANONICAL, number, random) for crop in crops])).to(
        device
    )
    columns = [np.stack([crop.pixels for crop in crops])]
    if number:
        ids = np.stack([map_of(crop, random) for crop in crops])
        columns.insert(0, source.classes.painted(ids).repeat(BLOCK, axis=1).repeat(BLOCK, axis=2))
    with torch.no_grad():
        for guidance in GUIDANCES if number else GUIDANCES[:1]:
            columns.append(to_bytes(decode(sample(unet, maps, 20, guidance, seed).cpu())))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([stack_column(column) for column in columns], axis=1)).save(path)
