"""Knows how a training run is written down so that it resumes exactly. Knows no model, loss or data.

A checkpoint holds everything the next step depends on: model, moving average, optimiser, step, and the scale of
float16 losses. Random draws depend on the step alone (loop.py), so a run that is stopped and resumed gives the
same weights as one that was not.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class TrainingState:
    """What changes while training: handed to a step, changed by it, and written down whole. loss: smoothed."""

    model: nn.Module
    average: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler = field(default_factory=lambda: torch.amp.GradScaler("cpu", enabled=False))
    step: int = 0
    seconds: float = 0.0
    loss: float | None = None
    history: list[dict[str, float]] = field(default_factory=list)


def start(
    model: nn.Module, optimiser: torch.optim.Optimizer, autocast: torch.dtype = torch.float32
) -> TrainingState:
    """A fresh state: the average starts at the weights. float16 losses are scaled, others are not."""
    average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    device = next(model.parameters()).device.type
    scaler = torch.amp.GradScaler(device, enabled=autocast == torch.float16)
    return TrainingState(model, average, optimiser, scaler)


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
            "scaler": state.scaler.state_dict(),
            "step": state.step,
            "seconds": state.seconds,
            "loss": state.loss,
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
    """Bring a fresh state to where the checkpoint was; a missing file leaves it fresh.

    Raises ValueError where the checkpoint is of another network.
    """
    if not path.exists():
        return state
    fields = read(path)
    try:
        state.model.load_state_dict(fields["model"])
    except RuntimeError:
        raise ValueError(
            f"{path} holds another network than the settings describe: "
            "give the settings it was made with, or another folder as --out"
        ) from None
    state.optimiser.load_state_dict(fields["optimiser"])
    if fields.get("scaler"):
        state.scaler.load_state_dict(fields["scaler"])
    for name, tensor in fields["average"].items():
        state.average[name].copy_(tensor)
    state.step, state.seconds, state.history = fields["step"], fields["seconds"], fields["history"]
    state.loss = fields.get("loss", state.history[-1]["loss"] if state.history else None)
    return state
