"""What a scheduler of diffusers remembers, as fields to take out and put back. Knows attributes; knows no solver."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch

Path = tuple[str, int]
"""Where a field lives in a scheduler: attribute, and index where the attribute is a list (else -1)."""

PAD = 64
"""Samples are flat and a multiple of it long: no step has a remainder that is computed otherwise than the rest."""


def flatten(x: torch.Tensor) -> torch.Tensor:
    """Any tensor -> (1, 1, 1, n), zero-padded to a multiple of 64; a view of it where nothing is padded."""
    flat = x.reshape(1, 1, 1, -1)
    missing = -flat.shape[-1] % PAD
    return torch.nn.functional.pad(flat, (0, missing)) if missing else flat


def unflatten(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """(1, 1, 1, n) -> the shape of `like`, float32, without the padding."""
    return flat.reshape(-1)[: like.numel()].reshape(like.shape).to(torch.float32)


def copied(scheduler: Any) -> Any:
    """A scheduler whose attributes, lists and fields can be changed without touching the original.

    Fields are cloned because PNDM adds to one in place; what is one tensor stays one tensor.
    """
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, list):
            setattr(twin, name, list(value))
    clones: dict[int, torch.Tensor] = {}
    for path in list(field_paths(twin)):
        field = get_field(twin, path)
        put_field(twin, path, clones.setdefault(id(field), field.clone()))
    return twin


def field_paths(scheduler: Any) -> Iterator[Path]:
    """Where fields of one padded row, as a dry run's sample has it, lie in a scheduler."""
    for name, value in sorted(vars(scheduler).items()):
        for index, item in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if isinstance(item, torch.Tensor) and item.shape == (1, 1, 1, PAD):
                yield name, index


def get_field(scheduler: Any, path: Path) -> torch.Tensor:
    """The field at a path."""
    name, index = path
    value = getattr(scheduler, name)
    tensor: torch.Tensor = value if index < 0 else value[index]
    return tensor


def put_field(scheduler: Any, path: Path, field: torch.Tensor) -> None:
    """Set the field at a path."""
    name, index = path
    if index < 0:
        setattr(scheduler, name, field)
    else:
        getattr(scheduler, name)[index] = field
