"""Noise by address for code that draws with `torch.randn`. Knows PyTorch's modes; knows no scheduler."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from generation.sampling.schedules.contract import Draw


class AddressedNoise(TorchFunctionMode):
    """While a step runs in this thread, `torch.randn` hands out our addressed noise instead.

    diffusers' schedulers draw through it (`randn_tensor`). A mode of PyTorch is a thread's own: no module is changed,
    so other threads draw what they draw.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self._draw = draw
        self._numbers = count()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        return self._draw(next(self._numbers)) if func is torch.randn else func(*args, **(kwargs or {}))
