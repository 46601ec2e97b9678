"""Puts a run together: settings -> pictures, latents, networks -> the loop. Knows no step and no loss.

    out/   train.yaml  latents.npz  decoder.pt  encoder.pt  denoiser.pt  *-loss.png  samples-*.png  decoder-*.png
           model/                   the finished model, once there are a decoder and a denoiser

           distilled.pt  distilled-*.png  model/fast/           the student's

           map.pt  maps-*.png  class-map/      the class-map model's

A trainer is a function (config, run) -> None that goes on from the checkpoint in run.out.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from generation.training import distillation, inpainting
from generation.training.autoencoder import (
    AVERAGE_DECAY,
    CRITIC_RATE_SHARE,
    SUBJECTS,
    half_of_codec,
)
from generation.training.checkpoints import restore, start
from generation.training.config import NAME, ConfigError, TrainConfig, read_config, write_config
from generation.training.crops import CropSets
from generation.training.data import crop_sets, load_strips
from generation.training.denoiser import HALVES, DenoiserSubject, Phase, phases_for
from generation.training.earth import BLOCK
from generation.training.export import MAP_MODEL, export
from generation.training.latents import pca_for
from generation.training.loop import Alone, Habits, Team, TrainingPace, TrainingRun, build_optimiser, train
from generation.training.networks import CHANNELS, build_unet
from generation.training.pictures import picture_sets
from generation.training.shelves import folder_shelf, parquet_shelf
from generation.training.sources import default_cache

LOG = logging.getLogger(__name__)
LATENTS = "latents.npz"
MODEL = "model"
WARMUP, CODEC_WARMUP = 200, 100
MAP_AVERAGE_DECAY = 0.998


def open_sets(config: TrainConfig, side: int) -> CropSets:
    """The pictures, for crops of at most side x side pixels. Raises ValueError where they cannot be used."""
    data = config.data
    if data.folder is not None:
        return picture_sets(folder_shelf(data.folder), config.class_list(), side)
    if data.parquet is not None:
        return picture_sets(parquet_shelf(data.parquet), config.class_list(), side)
    return crop_sets(load_strips(cache_of(config)))


def cache_of(config: TrainConfig) -> Path:
    """Where downloads and derived arrays lie."""
    return config.cache or default_cache()


def train_autoencoder(config: TrainConfig, run: TrainingRun) -> None:
    """The decoder, then the encoder."""
    settings, side = config.autoencoder, config.autoencoder.crop // BLOCK
    sets = open_sets(config, settings.crop)
    pca = pca_for(sets.training, run.out / LATENTS, side)
    for part, steps in (("decoder", settings.steps), ("encoder", settings.encoder_steps)):
        torch.manual_seed(config.seed)
        modules = half_of_codec(part, settings.codec).to(run.device)
        rates = (settings.learning_rate, CRITIC_RATE_SHARE * settings.learning_rate)[: len(modules)]
        pace = TrainingPace(steps, rates, min(CODEC_WARMUP, steps), AVERAGE_DECAY, config.seed)
        modules.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack this form
        state = start(modules, build_optimiser(list(modules.values()), pace, weight_decay=0.0), run.autocast)
        state = restore(state, run.out / f"{part}.pt")
        train(part, state, SUBJECTS[part](sets, pca, settings.codec, steps, settings.batch, side), pace, run)


def denoiser_network(config: TrainConfig, further: int = 0) -> Any:
    """A fresh network for the settings' classes, widths and patch, which reads `further` planes."""
    classes, settings = len(config.class_list()), config.denoiser
    return build_unet(
        in_channels=CHANNELS + classes + further,
        out_channels=CHANNELS,
        widths=settings.widths,
        sample_size=settings.crop // BLOCK,
    )


def train_denoiser(config: TrainConfig, run: TrainingRun) -> None:
    """The denoiser."""
    settings, side = config.denoiser, config.denoiser.crop // BLOCK
    sets = open_sets(config, settings.crop)
    pca = pca_for(sets.training, run.out / LATENTS, side)
    torch.manual_seed(config.seed)
    network = denoiser_network(config).to(run.device, memory_format=torch.channels_last)
    pace = TrainingPace(
        settings.steps, (settings.learning_rate,), min(WARMUP, settings.steps), seed=config.seed
    )
    state = start(network, build_optimiser([network], pace), run.autocast)
    state = restore(state, run.out / "denoiser.pt")
    phases = phases_for(settings.batch, side)
    build = partial(denoiser_network, config)
    train("denoiser", state, DenoiserSubject(sets, pca, settings.steps, phases, build), pace, run)


def require_denoiser(run: TrainingRun) -> Path:
    """The denoiser's checkpoint. Raises ConfigError where there is none."""
    path = run.out / "denoiser.pt"
    if not path.exists():
        raise ConfigError(
            f"{run.out} holds no trained denoiser; first: hypermosaic train denoiser --out {run.out}"
        )
    return path


def train_inpainting(config: TrainConfig, run: TrainingRun) -> None:
    """The inpainting variant of the run's denoiser, from its weights on."""
    denoiser = require_denoiser(run)
    settings, side = config.inpainting, config.denoiser.crop // BLOCK
    sets = open_sets(config, config.denoiser.crop)
    pca = pca_for(sets.training, run.out / LATENTS, side)
    build = partial(denoiser_network, config, inpainting.extra_planes(CHANNELS))
    network = build()
    inpainting.warm_start(network, denoiser)
    network.to(run.device, memory_format=torch.channels_last)
    pace = TrainingPace(
        settings.steps, (settings.learning_rate,), min(WARMUP, settings.steps), seed=config.seed
    )
    state = start(network, build_optimiser([network], pace), run.autocast)
    state = restore(state, run.out / f"{inpainting.NAME}.pt")
    subject = inpainting.InpaintingSubject(sets, pca, Phase(1.0, settings.batch, side, side, HALVES), build)
    train(inpainting.NAME, state, subject, pace, run)


def train_distilled(config: TrainConfig, run: TrainingRun) -> None:
    """The student of the run's denoiser, from its weights on."""
    denoiser = require_denoiser(run)
    settings, side = config.distilled, config.denoiser.crop // BLOCK
    sets = open_sets(config, config.denoiser.crop)
    pca = pca_for(sets.training, run.out / LATENTS, side)
    build = partial(denoiser_network, config)
    teacher, network = distillation.teacher_of(build(), denoiser), build()
    network.load_state_dict(teacher.state_dict())
    for module in (teacher, network):
        module.to(run.device, memory_format=torch.channels_last)
    warmup, decay = min(WARMUP, settings.steps), distillation.AVERAGE_DECAY
    pace = TrainingPace(settings.steps, (settings.learning_rate,), warmup, decay, config.seed)
    state = start(network, build_optimiser([network], pace), run.autocast)
    state = restore(state, run.out / f"{distillation.NAME}.pt")
    phase = Phase(1.0, settings.batch, side, side, HALVES)
    subject = distillation.DistillationSubject(
        sets, pca, phase, build, teacher, settings.solver_steps, settings.jumps
    )
    train(distillation.NAME, state, subject, pace, run)


def train_class_map(config: TrainConfig, run: TrainingRun) -> None:
    """The class-map model, of the Earth only."""
    if not config.is_earth:
        raise ConfigError("the class-map model learns from data: earth only; leave out data")
    from generation.training import world
    from generation.training.world_globe import load_world
    from generation.training.world_samples import MapSampling

    settings = config.class_map
    phases = (
        world.MapPhase(0.65, settings.batch, settings.crop),
        world.MapPhase(1.0, max(1, settings.batch // 2), settings.crop * 3 // 2),
    )
    rates = (settings.learning_rate,)
    pace = TrainingPace(settings.steps, rates, min(WARMUP, settings.steps), MAP_AVERAGE_DECAY, config.seed)
    world.train_world(load_world(cache_of(config)), run, pace, phases)
    if run.team.rank == 0:
        sampling = MapSampling(patch=settings.crop)
        world.export_world(run.out / f"{world.NAME}.pt", run.out / MAP_MODEL, sampling)


TRAINERS: Mapping[str, Callable[[TrainConfig, TrainingRun], None]] = {
    "autoencoder": train_autoencoder,
    "denoiser": train_denoiser,
    "inpainting": train_inpainting,
    "distilled": train_distilled,
    "class-map": train_class_map,
}


def device_of(config: TrainConfig) -> torch.device:
    """The device that is asked for, or a GPU where there is one. Raises ConfigError."""
    found = torch.cuda.is_available()
    if config.device == "cuda" and not found:
        raise ConfigError("device cuda needs a GPU, and PyTorch finds none here; use device: cpu")
    if config.precision != "float32" and not found:
        raise ConfigError(f"precision {config.precision} needs a GPU, and PyTorch finds none; use float32")
    return torch.device("cuda" if found and config.device != "cpu" else "cpu")


def run_of(config: TrainConfig, team: Team, stop: Callable[[], bool]) -> TrainingRun:
    """The run that the settings describe."""
    torch.set_num_threads(config.threads)
    habits = Habits(config.checkpoint_seconds, config.report_seconds)
    return TrainingRun(config.out, device_of(config), getattr(torch, config.precision), habits, team, stop)


def check_folder(config: TrainConfig) -> None:
    """Refuse a folder whose run was begun with another kind of network or other data."""
    path = config.out / NAME
    if not path.exists():
        return
    before = TrainConfig(**{**read_config(path), "out": config.out})
    rows: list[tuple[str, object, object]] = [
        ("data", before.data, config.data),
        ("classes", before.classes, config.classes),
        ("denoiser.widths", before.denoiser.widths, config.denoiser.widths),
        ("denoiser.crop", before.denoiser.crop, config.denoiser.crop),
        ("autoencoder.codec", before.autoencoder.codec, config.autoencoder.codec),
    ]
    if (config.out / f"{distillation.NAME}.pt").exists():
        old_settings, settings = before.distilled, config.distilled
        rows += [
            ("distilled.jumps", old_settings.jumps, settings.jumps),
            ("distilled.solver_steps", old_settings.solver_steps, settings.solver_steps),
        ]
    for name, old, new in rows:
        if old != new:
            raise ConfigError(
                f"{config.out} was begun with another {name}; give the same, or another folder as --out"
            )


def train_from(
    config: TrainConfig, model: str, team: Team | None = None, stop: Callable[[], bool] = lambda: False
) -> None:
    """Train one of TRAINERS; where that completes a model, export it to out/model."""
    run = run_of(config, team or Alone(), stop)
    TRAINERS[model](config, run)
    if run.team.rank == 0 and is_complete(config.out):
        export_from(config, config.out / MODEL)


def is_complete(out: Path) -> bool:
    """Whether both of a model's networks have been trained."""
    return (out / "decoder.pt").exists() and (out / "denoiser.pt").exists()


def export_from(config: TrainConfig, folder: Path, card: Path | None = None) -> int:
    """Export the checkpoints of a run; returns the bytes of the weights. Raises ConfigError where one is missing."""
    if not is_complete(config.out):
        missing = "autoencoder" if (config.out / "denoiser.pt").exists() else "denoiser"
        raise ConfigError(
            f"{config.out} holds no trained {missing}; first: hypermosaic train {missing} --out {config.out}"
        )
    networks = {
        "denoiser": denoiser_network(config),
        inpainting.NAME: denoiser_network(config, inpainting.extra_planes(CHANNELS)),
    }
    codec, classes = config.autoencoder.codec, config.class_list()
    return export(config.out, folder, networks, codec, classes, config.distilled.jumps, card)


def begin(config: TrainConfig) -> None:
    """Check and write down the settings, once, before any worker starts."""
    check_folder(config)
    device_of(config)
    write_config(config)


def prepare(config: TrainConfig, model: str) -> None:
    """Make what several workers would make at once: the Earth's picture, the latents; and try the pictures."""
    section = config.autoencoder if model == "autoencoder" else config.denoiser
    sets = open_sets(config, section.crop)
    if model != "class-map":
        pca_for(sets.training, config.out / LATENTS, section.crop // BLOCK)
