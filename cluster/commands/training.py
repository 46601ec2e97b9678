"""`train`: flags over a YAML file over defaults, then a run. Knows flags; knows no network and no picture."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.commands.helping import Command, CommandGroup
from cluster.commands.making import NeverAsks

if TYPE_CHECKING:
    from generation.training.config import TrainConfig

app = typer.Typer(
    name="train",
    cls=CommandGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Train a model on the Earth or on your own pictures (docs/training.md).",
)


def _option(help: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, show_default=False)


Config = Annotated[Path | None, _option("YAML file of settings; flags override it.", metavar="FILE")]
Out = Annotated[Path | None, _option("Folder of the run; goes on where there is one.", metavar="DIR")]
Data = Annotated[
    str | None, _option("earth (default), a folder of pictures, or Parquet.", metavar="earth|PATH")
]
Steps = Annotated[int | None, _option("Steps of the optimiser in all.", metavar="N")]
Batch = Annotated[int | None, _option("Crops of a step and worker.", metavar="N")]
Crop = Annotated[int | None, _option("Side of a crop: pixels (class maps: cells).", metavar="N")]
Rate = Annotated[float | None, _option("Peak of the learning rate.", metavar="X")]
Seed = Annotated[int | None, _option("Whole number that decides every draw.", metavar="N")]
Threads = Annotated[int | None, _option("CPU threads of a worker (default: 1).", metavar="N")]
Device = Annotated[str | None, _option("cpu or cuda (default: cuda where there is one).")]
Precision = Annotated[str | None, _option("float32 (default), bfloat16 or float16; the last two on GPUs.")]
Workers = Annotated[int | None, _option("Processes (default: one, or one for each GPU).", metavar="N")]
CheckpointSeconds = Annotated[float | None, _option("Time between checkpoints (default: 600).", metavar="S")]
ReportSeconds = Annotated[float | None, _option("Time between reports (default: 1200).", metavar="S")]
Cache = Annotated[Path | None, _option("Folder of the Earth's sources.", metavar="DIR")]


def trainer(model: str, summary: str) -> Callable[..., None]:
    """The command that trains one model."""

    def command(
        config: Config = None,
        out: Out = None,
        data: Data = None,
        steps: Steps = None,
        batch: Batch = None,
        crop: Crop = None,
        learning_rate: Rate = None,
        seed: Seed = None,
        threads: Threads = None,
        device: Device = None,
        precision: Precision = None,
        workers: Workers = None,
        checkpoint_seconds: CheckpointSeconds = None,
        report_seconds: ReportSeconds = None,
        cache: Cache = None,
        yes: NeverAsks = False,
    ) -> None:
        del yes
        section = {"steps": steps, "batch": batch, "crop": crop, "learning_rate": learning_rate}
        if model == "autoencoder":
            section["encoder_steps"] = steps
        common = {
            "out": out, "data": data, "seed": seed, "threads": threads, "device": device,
            "precision": precision, "workers": workers, "checkpoint_seconds": checkpoint_seconds,
            "report_seconds": report_seconds, "cache": cache,
        }  # fmt: skip
        settings = settled(config or kept(out), given(common), model, given(section))
        from cluster import training

        logging.getLogger("generation.training").setLevel(logging.INFO)
        training.train(settings, model)
        print(settings.out)

    command.__doc__ = summary
    return command


def given(values: dict[str, Any]) -> dict[str, Any]:
    """The flags that were given."""
    return {name: value for name, value in values.items() if value is not None}


def kept(run: Path | None) -> Path | None:
    """The settings that a run's folder keeps."""
    from generation.training.config import NAME

    return run / NAME if run is not None and (run / NAME).is_file() else None


def settled(
    path: Path | None, common: dict[str, Any], model: str = "", section: dict[str, Any] | None = None
) -> TrainConfig:
    """The settings: flags over the file, if there is one, over the defaults."""
    from generation.training.config import ConfigError, TrainConfig, read_config

    fields = ({} if path is None else read_config(path)) | common
    if section:
        before = fields.get(model) or {}
        if not isinstance(before, dict):
            raise ConfigError(
                f"{model} {before!r} cannot be used: write the settings below it, one `name: value` a line"
            )
        fields[model] = before | section
    return TrainConfig(**fields)


def export(
    out: Annotated[Path, typer.Option(help="Folder of the run.", metavar="DIR", show_default=False)],
    folder: Annotated[
        Path | None, _option("Where the model goes (default: model/ in the run's folder).", metavar="DIR")
    ] = None,
    card: Annotated[Path | None, _option("A model card to copy as README.md.", metavar="FILE")] = None,
) -> None:
    """Write a run's averaged weights as a model folder, which --model takes."""
    settings = settled(kept(out), {"out": out})
    from generation.training.trainers import MODEL, export_from

    target = folder or out / MODEL
    export_from(settings, target, card)
    print(target)


MODELS = {
    "autoencoder": "Train the codec: pixels to latents and back.",
    "denoiser": "Train the network that draws, after or beside the autoencoder.",
    "inpainting": "Train the denoiser's variant that goes on from what is there, after the denoiser.",
    "distilled": "Train the denoiser's student, which draws in 4 steps instead of 12, after the denoiser.",
    "class-map": "Train the model that invents class maps, on the Earth's.",
}
for name, summary in MODELS.items():
    app.command(name, cls=Command)(trainer(name, summary))
app.command(cls=Command)(export)
