"""Knows how the map model learns and is exported: phases, loss, report. Knows no globe.

    loss = w_t times the cross-entropy of each known cell's class,   w_t = 1 / (1/4 + 8/5 (t/1000)^2)

(Dieleman et al. 2022, "Continuous diffusion for categorical data"). w_t is about the inverse of what the loss comes to
without it, so that coasts weigh as much as continents. As x_theta = E[x_0 | x_t, wish] (world_network.py),
v_theta = (alpha_t x_t - x_theta) / sigma_t, so a v-loss is measured too.

    map/
      model_index.json  unet/  scheduler/    as diffusers writes them, weights in fp16
      map.json                               what the channels mean, and the settings to sample with
"""

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generation.training.checkpoints import TrainingState, read, restore, start
from generation.training.classes import EARTH, Classes
from generation.training.denoiser import averaged
from generation.training.export import (
    class_rows,
    move_into_place,
    remove_local_path,
    weight_bytes,
    write_json,
)
from generation.training.loop import TrainingPace, TrainingRun, build_optimiser, stratified_steps, train
from generation.training.networks import LIBRARY, build_map_solver, build_noise_schedule
from generation.training.world_evaluation import Judged, held_out_losses, judged_views, write_report_sheet
from generation.training.world_globe import MAX_SCALE, MIN_SCALE, GlobeSource, World
from generation.training.world_network import (
    UNKNOWN,
    MapNetwork,
    MapSource,
    build_map_network,
    centred_planes,
)
from generation.training.world_samples import MapSampling

NAME = "map"
SCALE = 3.0
"""Blocks per cell of the maps that are drawn: large continents, with detail in their coasts."""
JUDGED_VIEWS = 64


@dataclass(frozen=True)
class MapPhase:
    """Steps up to `until` (a share of the whole run) use `batch` maps of side x side cells."""

    until: float
    batch: int
    side: int


PHASES = (MapPhase(0.7, 8, 64), MapPhase(1.0, 4, 96))
PACE = TrainingPace(steps=4_000, learning_rates=(1.5e-3,), average_decay=0.997, seed=12)


@dataclass(frozen=True)
class MapBatch:
    """Class ids (N, h, w), UNKNOWN where hidden; wishes (N, K + 1, h, w); noise (N, K, h, w); a timestep for each."""

    ids: Tensor
    wishes: Tensor
    noise: Tensor
    steps: Tensor

    def to(self, device: torch.device) -> "MapBatch":
        """The batch on a device."""
        return MapBatch(*(tensor.to(device) for tensor in (self.ids, self.wishes, self.noise, self.steps)))


def draw_maps(
    source: MapSource, phase: MapPhase, random: np.random.Generator, torch_random: torch.Generator
) -> MapBatch:
    """Maps and their wishes; noise of every strength."""
    views = [source.draw(random, phase.side) for _ in range(phase.batch)]
    ids = torch.from_numpy(np.stack([view.ids for view in views]))
    wishes = torch.from_numpy(np.stack([view.wish for view in views]))
    shape = (phase.batch, wishes.shape[1] - 1, phase.side, phase.side)
    noise = torch.randn(shape, generator=torch_random)
    return MapBatch(ids, wishes, noise, stratified_steps(phase.batch, torch_random))


def class_losses(network: nn.Module, batch: MapBatch, schedule: Any) -> Tensor:
    """(N, h, w) nats: cross-entropy of each cell's class; zero where unknown."""
    known = batch.ids != UNKNOWN
    planes = centred_planes(batch.ids, batch.noise.shape[1])
    noisy = schedule.add_noise(planes, batch.noise, batch.steps)
    logits = network(noisy, (~known)[:, None].float(), batch.wishes, batch.steps)
    targets = torch.where(known, batch.ids, 0).long()
    return functional.cross_entropy(logits.float(), targets, reduction="none") * known


def loss_weights(steps: Tensor) -> Tensor:
    """w_t of the equation above."""
    return 1.0 / (0.25 + 1.6 * (steps / 1000.0) ** 2)


def phase_at(step: int, steps: int, phases: tuple[MapPhase, ...]) -> MapPhase:
    """The phase that a step belongs to."""
    return next(phase for phase in phases if step < phase.until * steps)


@dataclass(frozen=True)
class MapSubject:
    """The map model as the loop sees it. judged: held-out maps; build: a network to hold the averaged weights."""

    source: MapSource
    judged: Judged
    classes: Classes
    steps: int
    phases: tuple[MapPhase, ...]
    build: Callable[[], MapNetwork]

    @cached_property
    def schedule(self) -> Any:
        """The noise schedule of training."""
        return build_noise_schedule()

    def draw(self, step: int, random: np.random.Generator, torch_random: torch.Generator) -> MapBatch:
        """Maps of the step's phase."""
        return draw_maps(self.source, phase_at(step, self.steps, self.phases), random, torch_random)

    def loss(self, state: TrainingState, batch: MapBatch) -> Tensor:
        """Weighted nats per known cell."""
        batch = batch.to(next(state.model.parameters()).device)
        known = (batch.ids != UNKNOWN).sum().clamp(min=1)
        return class_losses(state.model, batch, self.schedule).sum() / known

    def report(self, state: TrainingState, out: Path) -> dict[str, float]:
        """Held-out losses, and a sheet of maps to look at."""
        network = averaged(self.build(), state.average).to(next(state.model.parameters()).device)
        write_report_sheet(network, self.judged, self.classes, out / f"maps-{state.step:06d}.png")
        return held_out_losses(network, self.judged)


def train_world(
    world: World, run: TrainingRun, pace: TrainingPace = PACE, phases: tuple[MapPhase, ...] = PHASES
) -> TrainingState:
    """Train on the globe until the last step, from run.out/map.pt where there is one."""
    torch.manual_seed(pace.seed)
    network: Any = build_map_network()
    network.to(run.device, memory_format=torch.channels_last)
    state = start(network, build_optimiser([network], pace), run.autocast)
    judged = judged_views(world, JUDGED_VIEWS, phases[-1].side)
    subject = MapSubject(GlobeSource(world), judged, EARTH, pace.steps, phases, build_map_network)
    return train(NAME, restore(state, run.out / f"{NAME}.pt"), subject, pace, run)


def map_index() -> dict[str, Any]:
    """The parts, as diffusers lists them."""
    parts = {"scheduler": type(build_map_solver()).__name__, "unet": "UNet2DModel"}
    return {"_class_name": "DiffusionPipeline", **{part: ["diffusers", name] for part, name in parts.items()}}


def map_table(sampling: MapSampling, classes: Classes) -> dict[str, Any]:
    """map.json: the order of the input's planes, and how maps are best sampled."""
    return {
        "format_version": 1,
        "classes": class_rows(classes),
        "planes": ["noisy: one for each class", "hidden: 0", "wish: share of each class", "wish: scale"],
        "output": "x_0 = softmax(alpha / sigma^2 noisy + output / temperature) - 1/classes",
        "scale": {"default": SCALE, "minimum": MIN_SCALE, "maximum": MAX_SCALE, "feature": "log2(scale) - 1"},
        "patch": sampling.patch,
        "method": sampling.method,
        "overlap": sampling.overlap,
        "num_inference_steps": sampling.steps,
        "guidance_scale": sampling.guidance_scale,
        "temperature": asdict(sampling.calm),
        "filter": {"kind": "majority of 3 x 3 cells", "votes": sampling.filter_votes},
    }


def export_world(checkpoint: Path, folder: Path, sampling: MapSampling, classes: Classes = EARTH) -> int:
    """Export the checkpoint's averaged weights to `folder`; returns their bytes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        network = averaged(build_map_network(len(classes)), read(checkpoint)["average"])
        network.unet.to(torch.float16).save_pretrained(fresh / "unet")
        remove_local_path(fresh / "unet" / "config.json")
        build_map_solver().save_pretrained(fresh / "scheduler")
        write_json(map_index(), fresh / "model_index.json")
        write_json(map_table(sampling, classes), fresh / "map.json")
        move_into_place(fresh, folder)
    finally:
        shutil.rmtree(fresh)
    return weight_bytes(folder)


def load_exported(folder: Path) -> MapNetwork:
    """The network of an exported folder, in float32."""
    unet = LIBRARY.UNet2DModel.from_pretrained(folder / "unet").float()
    return MapNetwork(unet).eval().requires_grad_(False)
