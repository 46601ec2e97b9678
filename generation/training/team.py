"""Knows how workers that train the same weights agree, over torch.distributed. Knows not who started them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class ProcessGroup:
    """A Team of the processes of the default group, which has been set up."""

    rank: int
    size: int
    device: torch.device

    def average(self, gradients: Sequence[Tensor]) -> None:
        """Sum over the group, in one message, and divide."""
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))

    def agree(self, decisions: tuple[bool, ...]) -> tuple[bool, ...]:
        """The first process's decisions."""
        message = torch.tensor(decisions, dtype=torch.uint8, device=self.device)
        distributed.broadcast(message, src=0)
        return tuple(bool(value) for value in message.tolist())
