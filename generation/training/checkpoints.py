"""Knows how a training run is written down so that it resumes exactly. Knows no model, loss or data.

A checkpoint holds everything the next step depends on: model, moving average, optimiser, step, and the states
of both generators. A run that is stopped and resumed gives the same weights as one that was not.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class TrainingState:
    """What changes while training: handed to a step, changed by it, and written down whole."""

    model: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    random: np.random.Generator
    torch_random: torch.Generator
    step: int = 0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


def start(model: nn.Module, optimiser: torch.optim.Optimizer, seed: int) -> TrainingState:
    """A fresh state: the average starts at the weights, both generators at the seed."""
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    return TrainingState(
        model, average, optimiser, np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    )


def update_average(state: TrainingState, decay: float) -> None:
    """average <- d average + (1 - d) weights, with d rising to `decay` over the first steps."""
    rate = 1.0 - min(decay, (1.0 + state.step) / (10.0 + state.step))
    with torch.no_grad():
        for name, tensor in state.model.state_dict().items():
            state.average[name].lerp_(tensor, rate)


def save(state: TrainingState, path: Path) -> None:
    """Write the state beside `path` and rename it into place: a reader never sees half a checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(
        {
            "model": state.model.state_dict(),
            "average": state.average,
            "optimiser": state.optimiser.state_dict(),
            "random": state.random.bit_generator.state,
            "torch_random": state.torch_random.get_state(),
            "step": state.step,
            "seconds": state.seconds,
            "history": state.history,
        },
        temporary,
    )
    os.replace(temporary, path)


def read(path: Path) -> dict[str, Any]:
    """The written fields, on the CPU."""
    fields: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return fields


def restore(state: TrainingState, path: Path) -> TrainingState:
    """Bring a fresh state to where the checkpoint was; a missing file leaves it fresh."""
    if not path.exists():
        return state
    fields = read(path)
    state.model.load_state_dict(fields["model"])
    state.optimiser.load_state_dict(fields["optimiser"])
    for name, tensor in fields["average"].items():
        state.average[name].copy_(tensor)
    state.random.bit_generator.state = fields["random"]
    state.torch_random.set_state(fields["torch_random"])
    state.step, state.seconds, state.history = fields["step"], fields["seconds"], fields["history"]
    return state
