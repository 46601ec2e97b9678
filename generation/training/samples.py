"""Knows how to look at a denoiser: samples of held-out class maps beside real pictures. Knows no training.

one row per class map:   | class map | real | sample, no guidance | sample, guidance 1.5 |
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn

from generation.training.classes import CLASS_COLOURS
from generation.training.data import Coarsening, Crop, CropSampler, Strip, class_map, one_hot, pixels_of
from generation.training.earth import BLOCK, Bytes
from generation.training.latents import to_bytes
from generation.training.networks import CHANNELS, build_solver

WHOLE = Coarsening(4, 0, 0, False)


def guided(unet: nn.Module, noisy: Tensor, step: Tensor, maps: Tensor, guidance: float) -> Tensor:
    """v of the class map, pushed away from v of the null class by `guidance`; 1 costs a single evaluation."""
    conditional: Tensor = unet(torch.cat([noisy, maps], dim=1), step).sample
    if guidance == 1.0:
        return conditional
    null: Tensor = unet(torch.cat([noisy, torch.zeros_like(maps)], dim=1), step).sample
    return null + guidance * (conditional - null)


def sample(unet: nn.Module, maps: Tensor, steps: int, guidance: float, seed: int) -> Tensor:
    """Latents for one-hot class maps (N, 12, h, w)."""
    solver = build_solver()
    solver.set_timesteps(steps)
    shape = (maps.shape[0], CHANNELS, *maps.shape[2:])
    latents: Tensor = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * solver.init_noise_sigma
    )
    for step in solver.timesteps:
        with torch.no_grad():
            velocity = guided(unet, solver.scale_model_input(latents, step), step, maps, guidance)
        latents = solver.step(velocity, step, latents).prev_sample
    return latents


def palette() -> npt.NDArray[np.uint8]:
    """The display colours as (12, 3) bytes."""
    return np.array(
        [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in CLASS_COLOURS], dtype=np.uint8
    )


def choose_crops(strips: Sequence[Strip], number: int, seed: int) -> list[Crop]:
    """Held-out crops of 32 x 32 latents that differ in their commonest class, as far as the classes reach."""
    sampler, random = CropSampler(strips, held_out=True, balance=0.0), np.random.default_rng(seed)
    drawn = [sampler.draw(random, 32, 32) for _ in range(200)]
    commonest = [int(np.bincount(class_map(strips, crop, WHOLE, random).ravel()).argmax()) for crop in drawn]
    first = [drawn[commonest.index(index)] for index in sorted(set(commonest), key=commonest.index)]
    return (first + drawn)[:number]


def stack_column(pictures: Bytes) -> Bytes:
    """(N, height, width, 3) -> one tall picture."""
    return pictures.reshape(-1, *pictures.shape[2:])


def write_sheet(
    unet: nn.Module,
    decode: Callable[[Tensor], Tensor],
    strips: Sequence[Strip],
    path: Path,
    seed: int,
    rows: int = 6,
) -> None:
    """Write the sheet described above as one PNG."""
    crops, random = choose_crops(strips, rows, seed), np.random.default_rng(seed)
    classes = np.stack([class_map(strips, crop, WHOLE, random) for crop in crops])
    maps = torch.from_numpy(np.stack([one_hot(plane) for plane in classes]))
    columns = [palette()[classes].repeat(BLOCK, axis=1).repeat(BLOCK, axis=2)]
    columns.append(np.stack([pixels_of(strips, crop) for crop in crops]))
    with torch.no_grad():
        columns += [to_bytes(decode(sample(unet, maps, 20, guidance, seed))) for guidance in (1.0, 1.5)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate([stack_column(column) for column in columns], axis=1)).save(path)
