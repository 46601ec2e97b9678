"""What a job is asked to do, checked once. Knows names, limits and defaults; knows no plan, no network, no array.

    flags, YAML, fields  ->  JobSpec  ->  resolve(spec, model facts)  ->  JobSpec without a None that matters

Paths are absolute and normal from JobSpec on, so that workers in other folders, and later runs, find them.

Every message is one line: the value, the limit, what to change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from cluster.spec import facts
from cluster.spec.messages import one_line
from cluster.spec.paths import EMBEDDED, absolute, absolute_lora, absolute_model, address_of
from cluster.spec.region_fields import MOST_FEATHER, BoxRegion, LabelRegion, box_regions, label_regions
from cluster.spec.settings import MODEL, RUN, Input, Setting, aliases_of, described, settings_of
from generation.sampling import methods

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
MOST_CLEANED = 64


class SpecError(ValueError):
    """Something asked for cannot be; the message is one line with the value, the limit and what to change."""


class JobSpec(BaseModel):
    """One picture to make, and where and how to make it. Sizes are in pixels unless said otherwise.

    None leaves a choice to the model's files, the method or the machine. Raises SpecError, on construction, for the
    first field that is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # A setting is a paragraph; with an argument a line, each would take a third of a page.
    # fmt: off
    prompt: Annotated[str, Setting(
        "What the picture shows.", aliases=("label",), metavar="PROMPT", hint="say in words what the picture shows",
        fact=facts.always, column="string", batch="What pictures show, where a row does not say it.", page="prompt",
    )]
    width: Annotated[int, Field(ge=1, le=LONGEST_SIDE), Setting(
        "Width in pixels.", metavar="N", hint="give pixels, as in --size 4096x4096", fact=facts.size,
        column="int32",
    )]
    height: Annotated[int, Field(ge=1, le=LONGEST_SIDE), Setting(
        "Height in pixels.", metavar="N", hint="give pixels, as in --size 4096x4096", fact=facts.elsewhere,
        column="int32",
    )]
    negative_prompt: Annotated[str, Setting(
        "What it should not show.", fact=facts.always, column="string", page="negativePrompt",
    )] = ""
    method: Annotated[methods.Name, Setting(
        "How patches join: shifted (the usual default), hann, uniform, gaussian, random-patch, random-grid.",
        fact=facts.always, page="method",
    )] = "shifted"
    overlap: Annotated[float, Field(ge=0, lt=1), Setting(
        "Share of a patch that the next one covers, below 1 (default: {default}).", metavar="SHARE",
        hint="give a share of the patch, such as 0.5", fact=facts.where_read,
    )] = 0.5
    blend_last: Annotated[int | None, Field(ge=0, le=1000), Setting(
        "Last steps in which patches that never blend else do (default: a quarter; random-patch: 0).", metavar="N",
        hint="a quarter of the steps is usual, 0 leaves the borders of the last steps", fact=facts.always,
    )] = None
    decode: Annotated[Decode, Setting(
        "How decoded tiles join: {default} (default), or four-shift, slower, for comparison (docs/seams.md).",
    )] = "hann"
    scheduler: Annotated[str | None, Setting(
        "ddim, euler, dpmpp_2m, edm_heun, ... or a diffusers class (default: the model's).", aliases=("sampler",),
        fact=facts.always, page="scheduler",
    )] = None
    num_inference_steps: Annotated[int | None, Field(ge=1, le=1000), Setting(
        "Denoising steps (default: the model's).", aliases=("steps", "sampling_steps"), metavar="N",
        fact=facts.always, column="int32", page="steps",
    )] = None
    guidance_scale: Annotated[float | None, Field(ge=0), Setting(
        "Classifier-free guidance; 1 is none (default: the model's).", aliases=("cfg_scale",), metavar="X",
        hint="1 switches guidance off, 7.5 is usual for text models", fact=facts.always, column="double",
        page="guidanceScale",
    )] = None
    cond_scale: Annotated[float | None, Field(ge=0), Setting(
        "Guidance counted from 0: 1 + X in its place; 0 ignores the prompt.", metavar="X",
        hint="3 is usual, 0 ignores the prompt", fact=facts.null_alone,
    )] = None
    eta: Annotated[float | None, Field(ge=0, le=1), Setting(
        "Noise of DDIM-like schedulers, 0 to 1.", metavar="X", fact=facts.always,
    )] = None
    seed: Annotated[int, Field(ge=0, lt=2**64), Setting(
        "Whole number that picks the picture, or random (default: {default}).", metavar="N",
        hint="any whole number from 0 on will do", fact=facts.always, column="uint64",
        batch="Seed of row 0, where rows have none, or random (default: {default}).", page="seed",
    )] = 0
    classes: Annotated[Path | None, Setting(
        "Map of class ids or colours, of any size: PNG, TIFF or Zarr (docs/masks.md).", metavar="MAP",
        fact=facts.always, input=Input("class map", "give the path of an image"), column="string", batch=None,
    )] = None
    class_labels: Annotated[Path | None, Setting(
        "What the map's labels mean: YAML, JSON or CSV of label and class.", metavar="FILE",
        input=Input("class labels", "give the path of a YAML, JSON or CSV file"),
        batch="What the labels of rows' class maps mean: YAML, JSON or CSV of label and class.",
    )] = None
    clean_map: Annotated[int, Field(ge=0, le=MOST_CLEANED), Setting(
        "Remove specks of fewer cells from the class map (default: {default}, none).", metavar="N",
        hint="give a number of cells, 0 for none; 4 to 8 are usual",
    )] = 0
    regions: Annotated[Path | None, Setting(
        "Map of labels, or GeoJSON shapes, whose places have prompts of their own.", metavar="MAP",
        fact=facts.of_regions, input=Input("regions", "--regions takes a picture of labels or a GeoJSON file"),
        batch="Map of labels, or GeoJSON shapes, stretched over every picture.",
    )] = None
    region: Annotated[tuple[LabelRegion, ...], Setting(
        "What a label of the map shows; repeat for more.", metavar="LABEL=PROMPT", repeats=True, fact=facts.elsewhere,
    )] = ()
    region_box: Annotated[tuple[BoxRegion, ...], Setting(
        "What a box shows, in pixels or percent; repeat for more, the last on top.", metavar="X,Y,W,H=PROMPT",
        repeats=True, fact=facts.elsewhere,
    )] = ()
    region_feather: Annotated[float, Field(ge=0, le=MOST_FEATHER), Setting(
        "Pixels over which neighbours blend (default: {default}).", metavar="PIXELS", fact=facts.elsewhere,
        hint="give pixels, 0 for hard borders; 64 is a good start",
    )] = 0.0
    topology: Annotated[TopologyName, Setting(
        "{default} (default), ring (left joins right) or torus (all sides join).", fact=facts.always, page="topology",
    )] = "plane"
    model: Annotated[str, Field(min_length=1), Setting(
        "embedded (the default), a folder, a .safetensors file or a hub id.", MODEL, metavar="ID|PATH|embedded",
        fact=facts.elsewhere, page="model",
    )] = EMBEDDED
    loras: Annotated[tuple[str, ...], Setting(
        "LoRA to fuse; repeat for more.", MODEL, ("--lora",), metavar="ID|PATH[:WEIGHT]", repeats=True,
        fact=facts.file_names,
    )] = ()
    allow_pickle: Annotated[bool, Setting(
        "Load weights that are not safetensors; that can run code.", MODEL, fact=facts.never,
    )] = False
    config_from: Annotated[str | None, Field(min_length=1), Setting(
        "Configuration of a single file, and the parts it lacks: diffusers' layout.", MODEL, metavar="ID|DIR",
        fact=facts.elsewhere,
    )] = None
    vae: Annotated[str | None, Field(min_length=1), Setting(
        "Autoencoder in place of the model's own.", MODEL, metavar="ID|PATH", fact=facts.elsewhere,
    )] = None
    commits: Annotated[Mapping[str, str], Setting(
        "Name on the hub -> the commit to take it at; of others it is settled when they are described.", None,
        fact=facts.never,
    )] = Field(default_factory=dict)
    prediction_type: Annotated[PredictionType | None, Setting(
        "What it predicts: epsilon, v_prediction or sample (default: as its files say).", MODEL,
    )] = None
    rescale_zero_snr: Annotated[bool | None, Setting(
        "It was trained down to pure noise (default: as its files say).", MODEL,
    )] = None
    timestep_spacing: Annotated[Spacing | None, Setting(
        "Training steps to take: leading, trailing or linspace (default: as its files say).", MODEL,
    )] = None
    dtype: Annotated[DType | None, Setting(
        "float32, float16 or bfloat16 (default: by device).", MODEL, fact=facts.always,
    )] = None
    device: Annotated[Device | None, Setting(
        "cpu or cuda (default: cuda where there is one).", MODEL, fact=facts.always,
    )] = None
    out: Annotated[Path, Setting(
        "Folder of the result (default: out/PROMPT).", RUN, ("--out", "-o"), metavar="DIR",
        hint="name the folder to write to", fact=facts.never,
        batch="Folder of the dataset (default: out/TABLE or LABEL).",
    )]
    executor: Annotated[ExecutorName, Setting(
        "{default} (default; local, or on RAY_ADDRESS) or in-process.", RUN, fact=facts.never,
    )] = "ray"
    workers: Annotated[int | None, Field(ge=1, le=100_000), Setting(
        "Workers (default: every core or GPU, as memory allows).", RUN, metavar="N", fact=facts.never,
        batch="Workers (default: every core, or every GPU).",
    )] = None
    threads: Annotated[int, Field(ge=1, le=1024), Setting(
        "CPU threads of a worker (default: {default}).", RUN, metavar="N", fact=facts.always,
    )] = 1
    batch_size: Annotated[int | None, Field(ge=1, le=4096), Setting(
        "Patches of one evaluation (default: 4, on GPUs 16).", RUN, metavar="N", fact=facts.always,
    )] = None
    block: Annotated[int | None, Field(ge=1, le=8192), Setting(
        "Side of a task's square, in latents (default: 128 or more).", RUN, metavar="N", fact=facts.never, batch=None,
    )] = None
    preview_every: Annotated[int | None, Field(ge=0, le=1000), Setting(
        "Steps between previews of what a block becomes; 0: none (default: a quarter of the steps).", RUN,
        metavar="N", hint="give a number of steps, or 0 for no preview", fact=facts.never, batch=None,
    )] = None
    outputs: Annotated[tuple[Output, ...], Field(min_length=1), Setting(
        "What to write, by commas (default: {default}).", RUN, ("--output",), metavar="NAMES",
        hint=f"name one or both of {', '.join(get_args(Output))}", fact=facts.always, batch=None,
    )] = ("ome-zarr", "deep-zoom")
    tile: Annotated[int, Field(ge=16, le=4096), Setting(
        "Side of a tile in pixels (default: {default}).", RUN, metavar="N", hint="512 is usual", fact=facts.always,
        batch=None,
    )] = 512
    tile_format: Annotated[TileFormat, Setting(
        "Encoding of Deep Zoom tiles: jpg, png or webp (default: {default}).", RUN, fact=facts.always, batch=None,
    )] = "jpg"
    # fmt: on

    if not TYPE_CHECKING:  # type checkers see the fields as the arguments

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise SpecError(one_line(error, SETTINGS, str(fields.get("model", EMBEDDED)))) from None

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


SETTINGS: Mapping[str, Setting] = settings_of(JobSpec)
JobSpec.__doc__ = f"{JobSpec.__doc__}\n{described(JobSpec)}\n"
INPUTS: Mapping[str, Input] = {
    name: about.input for name, about in SETTINGS.items() if about.input is not None
}
"""Fields that name files of the user's."""
SIZE = Setting(
    "Size in pixels; one number is a square (default: 2048).", aliases=("image_size",), metavar="SIZE",
    batch="Size in pixels, where a row does not say it; one number is a square.",
)  # fmt: skip
"""Of `size`, which stands for width and height in flags and YAML."""
ALIASES: Mapping[str, str] = aliases_of({**SETTINGS, "size": SIZE})
"""What settings are called elsewhere."""


def is_panorama(spec: JobSpec) -> bool:
    """Whether a picture is one to look around in: equirectangular, 360 degrees wide and 180 to 45 high."""
    return spec.topology == "ring" and 2 * spec.height <= spec.width <= FLATTEST * spec.height
