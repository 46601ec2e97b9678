"""What a schedule is to everybody else: pure functions of fields. Knows no scheduler, no network, no storage.

A field is any tensor in which latents stand apart from each other: the steps of a schedule are pointwise, so they may
be taken on a block, on a patch or on a whole canvas, and every latent gets the same bits.

    x[0] = start(noise)                                  or noised(0, clean, noise), of a schedule that begins later
    prediction = network(model_input(k, x[k]), timesteps[k])
    x[k+1], history[k+1] = step(k, x[k], history[k], prediction, draw)

A step here is one evaluation of the network: a solver that evaluates twice a step takes two of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch

Draw = Callable[[int], torch.Tensor]
"""The n-th standard normal field that one step asks for, of x's shape."""


class Schedule(Protocol):
    """All steps from noise to latents. Fields are float32 and of one shape; k counts from 0."""

    @property
    def timesteps(self) -> torch.Tensor:
        """(length,) what the network is told of the noise in x[k], in the units that it was trained with."""

    @property
    def order(self) -> int:
        """Evaluations that a step of the solver takes; it can begin at multiples of them only."""

    def __len__(self) -> int:
        """Evaluations of the network for each latent."""

    def fields(self, k: int) -> int:
        """How many history fields are kept beside x[k]; none beside the last."""

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """Standard normal noise -> x[0]. Raises ValueError where the schedule begins at a later step."""

    def model_input(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """What the network is shown of x[k]."""

    def step(
        self, k: int, x: torch.Tensor, history: Sequence[torch.Tensor], prediction: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """x[k], its history and the fused prediction at x[k] -> x[k+1] and its history."""

    def clean(self, k: int, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents that the prediction at x[k] implies, not clipped."""

    def noised(self, k: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The x[k] of clean latents and standard normal noise: what img2img begins with."""

    def predicted(self, k: int, x: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        """The prediction at x[k] that implies these clean latents: the inverse of `clean`."""

    def begin(self, k: int) -> Schedule:
        """The steps from k on, with no history: the first is taken as a fresh solver takes its first.

        Raises ValueError for a step that does not exist, or that this schedule cannot begin at.
        """
