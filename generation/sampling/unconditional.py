"""A conditioner that tells every patch what it is told without the prompt. Knows no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from generation.models.contracts import Conditioner, Conditioning
from storage.geometry import Box


@dataclass(frozen=True)
class Unconditional:
    """cond_scale 0 of tiled random-patch sampling: the null class, or the negative prompt, everywhere."""

    conditioner: Conditioner

    def conditional(self, boxes: Sequence[Box]) -> Conditioning:
        return self.conditioner.unconditional(boxes)

    def unconditional(self, boxes: Sequence[Box]) -> Conditioning:
        return self.conditioner.unconditional(boxes)
