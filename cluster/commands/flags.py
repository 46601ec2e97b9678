"""The flags that describe a picture, for every command that takes one. Knows flags and YAML; checks no value.

A command takes one parameter `flags: SpecFlags`; `with_spec_flags` shows typer the single flags in its place.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from cluster.spec.defaults import with_defaults
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.job_file import canonical, read_fields, with_seed_drawn

PICTURE, PLACE, RUN = "Picture", "Model", "Run"


def _flag(help: str, panel: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


@dataclass(frozen=True)
class SpecFlags:
    """None, or an empty list, where a flag was not given: then the YAML file's value counts, then the default."""

    prompt: Annotated[
        str | None, typer.Argument(help="What the picture shows.", metavar="PROMPT", show_default=False)
    ] = None
    size: Annotated[
        str | None, _flag("Size in pixels; one number is a square (default: 2048).", PICTURE, metavar="SIZE")
    ] = None
    width: Annotated[str | None, _flag("The sides apart, in pixels.", PICTURE, metavar="N")] = None
    height: Annotated[str | None, _flag("The other one.", PICTURE, metavar="N")] = None
    model: Annotated[
        str | None,
        _flag(
            "embedded (the default), a folder, a .safetensors file or a hub id.",
            PLACE,
            metavar="ID|PATH|embedded",
        ),
    ] = None
    loras: Annotated[
        list[str] | None, _flag("LoRA to fuse; repeat for more.", PLACE, "--lora", metavar="ID|PATH[:WEIGHT]")
    ] = None
    allow_pickle: Annotated[
        bool | None,
        _flag("Load weights that are not safetensors; that can run code.", PLACE, "--allow-pickle"),
    ] = None
    config_from: Annotated[
        str | None,
        _flag(
            "Configuration of a single file, and the parts it lacks: diffusers' layout.",
            PLACE,
            metavar="ID|DIR",
        ),
    ] = None
    vae: Annotated[
        str | None, _flag("Autoencoder in place of the model's own.", PLACE, metavar="ID|PATH")
    ] = None
    prediction_type: Annotated[
        str | None,
        _flag("What it predicts: epsilon, v_prediction or sample (default: as its files say).", PLACE),
    ] = None
    rescale_zero_snr: Annotated[
        bool | None,
        _flag(
            "It was trained down to pure noise (default: as its files say).",
            PLACE,
            "--rescale-zero-snr",
        ),
    ] = None
    timestep_spacing: Annotated[
        str | None,
        _flag("Training steps to take: leading, trailing or linspace (default: as its files say).", PLACE),
    ] = None
    negative_prompt: Annotated[str | None, _flag("What it should not show.", PICTURE)] = None
    method: Annotated[
        str | None,
        _flag(
            "How patches join: shifted (the usual default), hann, uniform, gaussian, random-patch, random-grid.",
            PICTURE,
        ),
    ] = None
    overlap: Annotated[
        str | None,
        _flag("Share of a patch that the next one covers, below 1 (default: 0.5).", PICTURE, metavar="SHARE"),
    ] = None
    blend_last: Annotated[
        str | None,
        _flag(
            "Last steps in which patches that never blend else do (default: a quarter; random-patch: 0).",
            PICTURE,
            metavar="N",
        ),
    ] = None
    decode: Annotated[
        str | None,
        _flag(
            "How decoded tiles join: hann (default), or four-shift, slower, for comparison (docs/seams.md).",
            PICTURE,
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        _flag(
            "ddim, euler, dpmpp_2m, edm_heun, ... or a diffusers class (default: the model's).",
            PICTURE,
            "--scheduler",
            "--sampler",
        ),
    ] = None
    num_inference_steps: Annotated[
        str | None,
        _flag(
            "Denoising steps (default: the model's).",
            PICTURE,
            "--num-inference-steps",
            "--steps",
            metavar="N",
        ),
    ] = None
    guidance_scale: Annotated[
        str | None,
        _flag(
            "Classifier-free guidance; 1 is none (default: the model's).",
            PICTURE,
            "--guidance-scale",
            "--cfg-scale",
            metavar="X",
        ),
    ] = None
    cond_scale: Annotated[
        str | None,
        _flag("Guidance counted from 0: 1 + X in its place; 0 ignores the prompt.", PICTURE, metavar="X"),
    ] = None
    eta: Annotated[str | None, _flag("Noise of DDIM-like schedulers, 0 to 1.", PICTURE, metavar="X")] = None
    seed: Annotated[
        str | None,
        _flag("Whole number that picks the picture, or random (default: 0).", PICTURE, metavar="N"),
    ] = None
    classes: Annotated[
        Path | None,
        _flag(
            "Map of class ids or colours, of any size: PNG, TIFF or Zarr (docs/masks.md).",
            PICTURE,
            metavar="MAP",
        ),
    ] = None
    class_labels: Annotated[
        Path | None,
        _flag("What the map's labels mean: YAML, JSON or CSV of label and class.", PICTURE, metavar="FILE"),
    ] = None
    clean_map: Annotated[
        str | None,
        _flag("Remove specks of fewer cells from the class map (default: 0, none).", PICTURE, metavar="N"),
    ] = None
    regions: Annotated[
        Path | None,
        _flag(
            "Map of labels, or GeoJSON shapes, whose places have prompts of their own.",
            PICTURE,
            metavar="MAP",
        ),
    ] = None
    region: Annotated[
        list[str] | None,
        _flag("What a label of the map shows; repeat for more.", PICTURE, metavar="LABEL=PROMPT"),
    ] = None
    region_box: Annotated[
        list[str] | None,
        _flag(
            "What a box shows, in pixels or percent; repeat for more, the last on top.",
            PICTURE,
            metavar="X,Y,W,H=PROMPT",
        ),
    ] = None
    region_feather: Annotated[
        str | None, _flag("Pixels over which neighbours blend (default: 0).", PICTURE, metavar="PIXELS")
    ] = None
    topology: Annotated[
        str | None, _flag("plane (default), ring (left joins right) or torus (all sides join).", PICTURE)
    ] = None
    dtype: Annotated[str | None, _flag("float32, float16 or bfloat16 (default: by device).", PLACE)] = None
    device: Annotated[str | None, _flag("cpu or cuda (default: cuda where there is one).", PLACE)] = None
    out: Annotated[
        Path | None, _flag("Folder of the result (default: out/PROMPT).", RUN, "--out", "-o", metavar="DIR")
    ] = None
    config: Annotated[
        Path | None, _flag("YAML file of settings; flags override it.", RUN, metavar="FILE")
    ] = None
    executor: Annotated[str | None, _flag("ray (default; local, or on RAY_ADDRESS) or in-process.", RUN)] = (
        None
    )
    workers: Annotated[
        str | None, _flag("Workers (default: every core or GPU, as memory allows).", RUN, metavar="N")
    ] = None
    threads: Annotated[str | None, _flag("CPU threads of a worker (default: 1).", RUN, metavar="N")] = None
    batch_size: Annotated[
        str | None, _flag("Patches of one evaluation (default: 4, on GPUs 16).", RUN, metavar="N")
    ] = None
    block: Annotated[
        str | None, _flag("Side of a task's square, in latents (default: 128 or more).", RUN, metavar="N")
    ] = None
    preview_every: Annotated[
        str | None,
        _flag(
            "Steps between previews of what a block becomes; 0: none (default: a quarter of the steps).",
            RUN,
            metavar="N",
        ),
    ] = None
    outputs: Annotated[
        str | None,
        _flag("What to write, by commas (default: ome-zarr,deep-zoom).", RUN, "--output", metavar="NAMES"),
    ] = None
    tile: Annotated[str | None, _flag("Side of a tile in pixels (default: 512).", RUN, metavar="N")] = None
    tile_format: Annotated[
        str | None, _flag("Encoding of Deep Zoom tiles: jpg, png or webp (default: jpg).", RUN)
    ] = None

    def spec(self) -> JobSpec:
        """Defaults, then the YAML file, then the flags; a random seed is drawn, and said. Raises SpecError."""
        given = {} if self.config is None else read_fields(self.config, bool(self.allow_pickle))
        flags = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "config"}
        given |= canonical(
            {name: value for name, value in flags.items() if value is not None and value != []}
        )
        given = seeded(given)
        if "prompt" not in given:
            raise SpecError(
                "the prompt is missing; say what the picture shows, as in: hypermosaic generate archipelago"
            )
        return JobSpec(**with_defaults(str(given["prompt"]), given))


def seeded(given: dict[str, Any]) -> dict[str, Any]:
    """Settings whose seed is a number; one that is drawn is said, for the picture can be made again with it."""
    given, drawn = with_seed_drawn(given)
    if drawn is not None:
        print(f"seed {drawn}", file=sys.stderr)
    return given


def with_spec_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the parameter `flags` of a command by the fields of SpecFlags, as typer reads them."""
    hints = get_type_hints(SpecFlags, include_extras=True)
    shown = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=hints[field.name]
        )
        for field in fields(SpecFlags)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=own_hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "flags"
    ]

    @wraps(command)
    def called(**values: Any) -> None:
        flags = SpecFlags(**{field.name: values.pop(field.name) for field in fields(SpecFlags)})
        command(flags=flags, **values)

    vars(called)["__signature__"] = inspect.Signature([*shown, *own])
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in [*shown, *own]}
    del vars(called)["__wrapped__"]
    return called
