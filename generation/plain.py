"""The whole method on one screen, without blocks, workers or files. Read this first; the engine is tested against it.

Denoise a canvas that is larger than the network's patch: at each step the network sees overlapping patches of x, its
predictions are put together into one for the canvas, and an ordinary solver takes its step with that:

    x[k+1] = solver(k, x[k], e),    e(u) = sum_p W_p(u) e_p(u),    e_p = null_p + s (cond_p - null_p)

(Bar-Tal et al. 2023, "MultiDiffusion", eq. 5; Ho & Salimans 2022 for s.) What a method says is where the patches lie
and how they count. The engine (denoise.py, fusion.py, cluster/) does the same in blocks, with sums in fixed point, so
that no bit depends on how the work was shared out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True)
class PlainPatch:
    """Latents that the network sees at once, at rows x columns of the canvas, which may go round it.

    weights: (rows, columns), how much its prediction counts at each.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    weights: torch.Tensor


Predict = Callable[[int, PlainPatch, torch.Tensor], torch.Tensor]
"""(step, patch, its latents (C, h, w)) -> prediction (C, h, w), guidance included."""


def denoise(
    x: torch.Tensor, solver: Any, patches: Callable[[int], Sequence[PlainPatch]], predict: Predict
) -> torch.Tensor:
    """(C, H, W) noise at the solver's first level -> clean latents. solver: one of diffusers', its timesteps set."""
    for step, timestep in enumerate(solver.timesteps):
        shown = solver.scale_model_input(x, timestep) if hasattr(solver, "scale_model_input") else x
        prediction = fuse(shown, patches(step), partial(predict, step))
        x = solver.step(prediction[None], timestep, x[None], return_dict=False)[0][0]
    return x


def fuse(
    shown: torch.Tensor,
    patches: Sequence[PlainPatch],
    predict: Callable[[PlainPatch, torch.Tensor], torch.Tensor],
) -> torch.Tensor:
    """(C, H, W): the weighted mean of what the patches say. Signed weights sum to one already."""
    total, weight = torch.zeros_like(shown), torch.zeros(shown.shape[1:])
    for patch in patches:
        rows, columns = patch.rows[:, None], patch.columns
        total[:, rows, columns] += patch.weights * predict(patch, shown[:, rows, columns])
        weight[rows, columns] += patch.weights
    return total / weight


# --- where patches lie, and how they count ---------------------------------------------------------------------------


def grid(height: int, width: int, side: int, stride: int, window: torch.Tensor) -> Iterator[PlainPatch]:
    """Overlapping patches every `stride` latents of a plane, each as its window says; the last end at the border."""
    for top in starts(height, side, stride):
        for left in starts(width, side, stride):
            yield PlainPatch(np.arange(top, top + side), np.arange(left, left + side), window)


def starts(length: int, side: int, stride: int) -> list[int]:
    """Where patches along a line begin."""
    count = 1 - (side - length) // stride
    return [min(index * stride, length - side) for index in range(count)]


def owners(
    boxes: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], height: int, width: int
) -> Iterator[PlainPatch]:
    """Patches in an order: a latent belongs to the first that covers it (Aversa et al. 2023, "DiffInfinite")."""
    free = torch.ones(height, width)
    for rows, columns in boxes:
        yield PlainPatch(rows, columns, free[rows[:, None], columns])
        free[rows[:, None], columns] = 0


def hann(side: int) -> torch.Tensor:
    """(side, side): sin^2(pi (i + 1/2) / side) along both axes, sampled at the latents' centres."""
    ramp = torch.sin(torch.pi * (torch.arange(side) + 0.5) / side) ** 2
    return torch.outer(ramp, ramp)
