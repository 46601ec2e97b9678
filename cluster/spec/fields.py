"""What a job is asked to do, checked once. Knows names, limits and defaults; knows no plan, no network, no array.

    flags, YAML, fields  ->  JobSpec  ->  resolve(spec, model facts)  ->  JobSpec without a None that matters

Paths are absolute and normal from JobSpec on, so that workers in other folders, and later runs, find them.

Every message is one line: the value, the limit, what to change.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cluster.spec.paths import absolute, absolute_lora, absolute_model, address_of
from cluster.spec.region_fields import MOST_FEATHER, BoxRegion, LabelRegion, box_regions, label_regions
from generation.sampling import methods

if TYPE_CHECKING:
    pass

TopologyName = Literal["plane", "ring", "torus"]
Decode = Literal["hann", "four-shift"]
DType = Literal["float32", "float16", "bfloat16"]
Device = Literal["cpu", "cuda"]
Output = Literal["ome-zarr", "deep-zoom"]
TileFormat = Literal["jpg", "png", "webp"]
ExecutorName = Literal["ray", "in-process"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
Spacing = Literal["leading", "trailing", "linspace"]

LONGEST_SIDE = 10_000_000
FLATTEST = 8
"""Width of a ring for each of its height; flatter ones are little to look around in."""
EMBEDDED = "embedded"
QUOTES = "'\""
MOST_CLEANED = 64


class SpecError(ValueError):
    """Something asked for cannot be; the message is one line with the value, the limit and what to change."""


class JobSpec(BaseModel):
    """One picture to make, and where and how to make it. Sizes are in pixels unless said otherwise.

    prompt, negative_prompt: words; a class-map model knows a few only. width, height: of the picture.
    model: "embedded", a folder in diffusers' layout, a .safetensors file, or a hub id[@revision].
    config_from: a folder or hub id in diffusers' layout that configures a single file, and has the parts it lacks.
    vae: the autoencoder to use in place of the model's own: a file, a folder or a hub id.
    loras: path_or_id[:weight] each. allow_pickle: load weights that are not safetensors, which can run code.
    commits: name on the hub, of the model or a LoRA -> the commit to take it at; of others it is settled when they are
    described.
    method: how patches become one picture (docs/methods.md). overlap: share of a patch, in [0, 1), that it has in
    common with the next; read by hann, uniform and gaussian only. Not given, both are the model's own, if it has some.
    blend_last: last steps in which the patches of the other methods overlap by a quarter, and blend; None is a quarter
    of the steps, none of random-patch. decode: how decoded tiles become one picture.
    scheduler, num_inference_steps, guidance_scale, eta: as in diffusers; None is the model's default.
    prediction_type, rescale_zero_snr, timestep_spacing: how the model's noise was set up in training; None is as the
    model's files say.
    cond_scale: guidance as null + (1 + cond_scale) (conditional - null), in place of guidance_scale; 0 is null alone.
    seed: in [0, 2**64). topology: which sides join.
    classes: labels of any size, for class-map models: PNG, TIFF or Zarr. class_labels: what they mean (docs/masks.md).
    clean_map: cells below which specks of a class map go; 0 keeps all.
    regions: a map of labels of any size, stretched over the picture, or shapes as GeoJSON; region: what labels are
    told; region_box: what boxes are told; region_feather: pixels over which neighbours blend (docs/regions.md).
    dtype, device: of the network; None is float16 on a GPU (bfloat16 of flow models), where there is one, else float32
    on the CPU.
    batch_size: patches in one evaluation. block: side, in latents, of the square that one task works on.
    threads: CPU threads of a worker. outputs, tile, tile_format: what is written, the side of its tiles, the
    encoding of Deep Zoom's. executor, workers: what runs the tasks; None is every core or GPU of this machine, or of
    the cluster that RAY_ADDRESS names.
    preview_every: steps between two previews of a block while it is denoised; 0 is none, None a quarter of the steps.
    out: the folder of the job. Raises SpecError, on construction, for the first field that is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompt: str
    negative_prompt: str = ""
    width: int = Field(ge=1, le=LONGEST_SIDE)
    height: int = Field(ge=1, le=LONGEST_SIDE)
    model: str = Field("embedded", min_length=1)
    config_from: str | None = Field(None, min_length=1)
    vae: str | None = Field(None, min_length=1)
    loras: tuple[str, ...] = ()
    allow_pickle: bool = False
    commits: Mapping[str, str] = Field(default_factory=dict)
    method: methods.Name = "shifted"
    overlap: float = Field(0.5, ge=0, lt=1)
    blend_last: int | None = Field(None, ge=0, le=1000)
    decode: Decode = "hann"
    scheduler: str | None = None
    num_inference_steps: int | None = Field(None, ge=1, le=1000)
    guidance_scale: float | None = Field(None, ge=0)
    cond_scale: float | None = Field(None, ge=0)
    eta: float | None = Field(None, ge=0, le=1)
    prediction_type: PredictionType | None = None
    rescale_zero_snr: bool | None = None
    timestep_spacing: Spacing | None = None
    seed: int = Field(0, ge=0, lt=2**64)
    classes: Path | None = None
    class_labels: Path | None = None
    clean_map: int = Field(0, ge=0, le=MOST_CLEANED)
    regions: Path | None = None
    region: tuple[LabelRegion, ...] = ()
    region_box: tuple[BoxRegion, ...] = ()
    region_feather: float = Field(0.0, ge=0, le=MOST_FEATHER)
    topology: TopologyName = "plane"
    dtype: DType | None = None
    device: Device | None = None
    batch_size: int | None = Field(None, ge=1, le=4096)
    block: int | None = Field(None, ge=1, le=8192)
    threads: int = Field(1, ge=1, le=1024)
    outputs: tuple[Output, ...] = Field(("ome-zarr", "deep-zoom"), min_length=1)
    tile: int = Field(512, ge=16, le=4096)
    tile_format: TileFormat = "jpg"
    executor: ExecutorName = "ray"
    workers: int | None = Field(None, ge=1, le=100_000)
    preview_every: int | None = Field(None, ge=0, le=1000)
    out: Path

    if not TYPE_CHECKING:  # type checkers see the fields as the arguments

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise SpecError(_one_line(error, str(fields.get("model", EMBEDDED)))) from None

    @field_validator("prompt")
    @classmethod
    def _has_words(cls, prompt: str) -> str:
        if not prompt.strip():
            raise ValueError("the prompt is empty; say in words what the picture shows")
        return prompt

    @field_validator("outputs", "loras", mode="before")
    @classmethod
    def _split_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("model")
    @classmethod
    def _model_from_anywhere(cls, model: str) -> str:
        return absolute_model(model)

    @field_validator("config_from", "vae")
    @classmethod
    def _place_from_anywhere(cls, name: str | None) -> str | None:
        return None if name is None else absolute_model(name)

    @field_validator("loras")
    @classmethod
    def _loras_from_anywhere(cls, loras: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(absolute_lora(lora) for lora in loras)

    @field_validator("out", "classes", "class_labels", "regions")
    @classmethod
    def _path_from_anywhere(cls, path: Path | None, field: ValidationInfo) -> Path | None:
        if path is None:
            return None
        if address := address_of(path):
            what = (
                "pictures are written to folders"
                if field.field_name == "out"
                else "files are read from disks"
            )
            raise ValueError(
                f"{field.field_name} {address} is an address, and {what}: mount that storage and give the path there"
            )
        if field.field_name == "out" and "\\" in str(path):  # TensorStore takes it for a slash
            raise ValueError(f"out {path} has a backslash, which names other folders elsewhere; leave it out")
        return absolute(path)

    @field_validator("region", mode="before")
    @classmethod
    def _labels_told(cls, given: object) -> object:
        return label_regions(given)

    @field_validator("region_box", mode="before")
    @classmethod
    def _boxes_told(cls, given: object) -> object:
        return box_regions(given)

    @field_validator("outputs")
    @classmethod
    def _in_one_order(cls, outputs: tuple[Output, ...]) -> tuple[Output, ...]:
        return tuple(name for name in get_args(Output) if name in outputs)


HINTS: Mapping[str, str] = {
    "width": "give pixels, as in --size 4096x4096",
    "height": "give pixels, as in --size 4096x4096",
    "overlap": "give a share of the patch, such as 0.5",
    "blend_last": "a quarter of the steps is usual, 0 leaves the borders of the last steps",
    "guidance_scale": "1 switches guidance off, 7.5 is usual for text models",
    "cond_scale": "3 is usual, 0 ignores the prompt",
    "seed": "any whole number from 0 on will do",
    "clean_map": "give a number of cells, 0 for none; 4 to 8 are usual",
    "region_feather": "give pixels, 0 for hard borders; 64 is a good start",
    "tile": "512 is usual",
    "preview_every": "give a number of steps, or 0 for no preview",
    "outputs": f"name one or both of {', '.join(get_args(Output))}",
    "prompt": "say in words what the picture shows",
    "out": "name the folder to write to",
}


def _one_line(invalid: ValidationError, model: str) -> str:
    """The first thing that is wrong, with the value, the limit and what to change. model: that is asked for."""
    error = invalid.errors(include_url=False)[0]
    name, value, limits = str(error["loc"][0]), error["input"], error.get("ctx", {})
    hint = f"; {HINTS[name]}" if name in HINTS else ""
    if name == "num_inference_steps":
        hint = f"; leave it out for {_own_steps(model)}"
    match error["type"]:
        case "value_error":
            return str(limits["error"])
        case "extra_forbidden":
            near = difflib.get_close_matches(name, JobSpec.model_fields, n=1)
            meant = f"did you mean {near[0]}?" if near else "hypermosaic generate --help names them all"
            return f"unknown setting {_short(name).strip(QUOTES)}; {meant}"
        case "literal_error":
            return f"unknown {name.removesuffix('s')} {value!r}; choose {str(limits['expected']).replace(chr(39), '')}"
        case "missing":
            return f"{name} is missing{hint}"
        case "greater_than_equal" | "greater_than" | "less_than" | "less_than_equal":
            return f"{name} {_short(value).strip(QUOTES)} is out of range: it {_lower(error['msg'])}{hint}"
        case "too_short":
            return f"{name} is empty{hint}"
    return f"{name} {_short(value)} cannot be used: {_lower(error['msg'])}{hint}"


def _own_steps(model: str) -> str:
    """ "the model's own 12", of a model that is here: to ask the hub would take long."""
    from generation.models import loading
    from generation.models.errors import ModelError

    if model.partition("/")[0] == EMBEDDED or Path(model).is_dir():
        with suppress(ModelError):
            return f"the model's own {loading.describe(model).num_inference_steps}"
    return "the model's own number"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lower(message: str) -> str:
    """pydantic's sentence as a part of ours."""
    text = message.removeprefix("Input ")
    return text[:1].lower() + text[1:]


# --- what the model and the machine settle ---------------------------------------------------------------------------


def is_panorama(spec: JobSpec) -> bool:
    """Whether a picture is one to look around in: equirectangular, 360 degrees wide and 180 to 45 high."""
    return spec.topology == "ring" and 2 * spec.height <= spec.width <= FLATTEST * spec.height
