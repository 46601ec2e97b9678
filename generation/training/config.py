"""What a training run is asked to do, checked once. Knows names, limits and defaults; knows no network, no picture.

    data: {folder: pictures}            earth (the default), {folder: PATH} or {parquet: PATH}
    classes: [{name: sea, colour: "#2f6fb0"}, {name: land, colour: "#2f5d34"}]        or none
    out: runs/mine
    denoiser: {steps: 20000, batch: 8}

One file serves all of `train`'s commands. Every message is one line: the value, the limit, what to change.
"""

from __future__ import annotations

import colorsys
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from generation.training.classes import EARTH, Classes
from storage.documents import DocumentError, parse_yaml, read_text

NAME = "train.yaml"
MOST_CLASSES = 200
GROUPS = 32


class ConfigError(ValueError):
    """Settings that cannot be used; the message is one line with the value, the limit and what to change."""


class Section(BaseModel):
    """Settings that never change once they are read; an unknown name is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DataConfig(Section):
    """Where pictures come from: a folder, a Parquet file or folder of them, or, with neither, the Earth."""

    folder: Path | None = None
    parquet: Path | None = None

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.folder is not None and self.parquet is not None:
            raise ValueError("data names both a folder and parquet; give one of them")
        return self


class ClassConfig(Section):
    """One class of the class maps."""

    name: str = Field(min_length=1)
    colour: str = Field(pattern=r"^#[0-9a-fA-F]{6}$")


class AutoencoderConfig(Section):
    """The decoder's and the encoder's training. crop: pixels."""

    codec: Literal["subpixel", "tiny"] = "subpixel"
    steps: int = Field(default=8_000, ge=1)
    encoder_steps: int = Field(default=3_500, ge=1)
    batch: int = Field(default=4, ge=1, le=4096)
    crop: int = Field(default=160, ge=64, le=1024, multiple_of=8)
    learning_rate: float = Field(default=1.0e-3, gt=0, le=0.1)


class DenoiserConfig(Section):
    """The denoiser's training. crop: pixels, the side of the finished model's patch; widths: channels of each level."""

    steps: int = Field(default=11_000, ge=1)
    batch: int = Field(default=8, ge=1, le=4096)
    crop: int = Field(default=256, ge=64, le=1024)
    widths: tuple[int, ...] = Field(default=(64, 96), min_length=2, max_length=6)
    learning_rate: float = Field(default=1.0e-3, gt=0, le=0.1)

    @property
    def multiple(self) -> int:
        """What a crop is a multiple of: the lowest level halves half windows once more into whole latents."""
        return int(8 * 2 ** len(self.widths))

    @model_validator(mode="after")
    def _whole_levels(self) -> Self:
        if any(width < GROUPS or width % GROUPS for width in self.widths):
            raise ValueError(
                f"denoiser.widths {list(self.widths)}: each must be a multiple of {GROUPS}, as in [64, 96, 128]"
            )
        if self.crop % self.multiple:
            raise ValueError(
                f"denoiser.crop {self.crop} is not a multiple of {self.multiple}, as {len(self.widths)} widths need; "
                f"try {max(1, round(self.crop / self.multiple)) * self.multiple}"
            )
        return self


class InpaintingConfig(Section):
    """The training of the denoiser's inpainting variant, which has the denoiser's widths and crops."""

    steps: int = Field(default=10_000, ge=1)
    batch: int = Field(default=8, ge=1, le=4096)
    learning_rate: float = Field(default=8.0e-4, gt=0, le=0.1)


class DistilledConfig(Section):
    """The training of the denoiser's student, which draws in `jumps` steps what its solver draws in `solver_steps`.

    batch: paths of a step, of which each gives `jumps` examples.
    """

    steps: int = Field(default=4_000, ge=1)
    batch: int = Field(default=2, ge=1, le=4096)
    learning_rate: float = Field(default=6.0e-4, gt=0, le=0.1)
    jumps: int = Field(default=4, ge=1, le=100)
    solver_steps: int = Field(default=12, ge=2, le=1000)

    @model_validator(mode="after")
    def _whole_jumps(self) -> Self:
        if self.solver_steps % self.jumps or self.solver_steps == self.jumps:
            raise ValueError(
                f"distilled.solver_steps {self.solver_steps} is not two or more times distilled.jumps {self.jumps}; "
                f"try {3 * self.jumps}"
            )
        return self


class ClassMapConfig(Section):
    """The class-map model's training. crop: cells of the map."""

    steps: int = Field(default=6_000, ge=1)
    batch: int = Field(default=8, ge=1, le=4096)
    crop: int = Field(default=64, ge=16, le=512, multiple_of=16)
    learning_rate: float = Field(default=1.5e-3, gt=0, le=0.1)


class TrainConfig(Section):
    """A training run. out: checkpoints, sheets, curves, and the finished model in out/model.

    device: None is a GPU where there is one. precision: of the network's arithmetic; the weights are float32.
    workers: processes that share the work, each with its own batches; None is one, or one for each GPU.
    cache: where the Earth's sources lie. Raises ConfigError, on construction, for the first field that is wrong.
    """

    data: DataConfig = DataConfig()
    classes: tuple[ClassConfig, ...] = Field(default=(), max_length=MOST_CLASSES)
    out: Path
    seed: int = Field(default=7, ge=0, lt=2**32)
    threads: int = Field(default=1, ge=1, le=1024)
    device: Literal["cpu", "cuda"] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    workers: int | None = Field(default=None, ge=1, le=1024)
    checkpoint_seconds: float = Field(default=600, gt=0)
    report_seconds: float = Field(default=1200, gt=0)
    cache: Path | None = None
    autoencoder: AutoencoderConfig = AutoencoderConfig()
    denoiser: DenoiserConfig = DenoiserConfig()
    inpainting: InpaintingConfig = InpaintingConfig()
    distilled: DistilledConfig = DistilledConfig()
    class_map: ClassMapConfig = Field(default=ClassMapConfig(), alias="class-map")

    if not TYPE_CHECKING:  # type checkers see the fields as the arguments

        def __init__(self, /, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise ConfigError(_one_line(error)) from None

    @property
    def is_earth(self) -> bool:
        """Whether the pictures are the Earth's."""
        return self.data == DataConfig()

    def class_list(self) -> Classes:
        """The classes of the pictures' maps."""
        if self.is_earth:
            return EARTH
        return Classes(tuple(row.name for row in self.classes), tuple(row.colour for row in self.classes))

    @field_validator("data", mode="before")
    @classmethod
    def _earth(cls, value: object) -> object:
        return {} if value in ("earth", None) else data_at(Path(value)) if isinstance(value, str) else value

    @field_validator("classes", mode="before")
    @classmethod
    def _colours(cls, value: object) -> object:
        """Names alone get colours round the wheel."""
        if value is None or value == "none":
            return ()
        if not isinstance(value, (list, tuple)):
            return value
        return tuple(
            {"name": row, "colour": wheel_colour(index, len(value))} if isinstance(row, str) else row
            for index, row in enumerate(value)
        )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.is_earth and self.classes:
            raise ValueError(
                "classes are the Earth's own twelve for data: earth; name classes for other data only"
            )
        for what in ("name", "colour"):
            values = [getattr(row, what).lower() for row in self.classes]
            twice = [value for value in values if values.count(value) > 1]
            if twice:
                raise ValueError(f"two classes have the {what} {twice[0]!r}; give each its own")
        if self.precision != "float32" and self.device == "cpu":
            raise ValueError(f"precision {self.precision} is for GPUs; use float32, or device: cuda")
        return self


def wheel_colour(index: int, number: int) -> str:
    """A colour for each of a number of classes."""
    red, green, blue = colorsys.hsv_to_rgb(index / max(1, number), 0.55, 0.8)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def data_at(path: Path) -> dict[str, Path]:
    """What lies at a path: Parquet, or pictures."""
    if path.suffix == ".parquet" or (path.is_dir() and any(path.glob("*.parquet"))):
        return {"parquet": path}
    return {"folder": path}


def read_config(path: Path) -> dict[str, Any]:
    """The settings of a YAML file, not checked yet. Raises ConfigError."""
    try:
        document = parse_yaml(read_text(path))
    except DocumentError as error:
        what = "write one `name: value` a line" if path.is_file() else "give a YAML file of settings"
        raise ConfigError(f"{path} {error}; {what}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no `name: value` lines; see docs/training.md")
    return document


def write_config(config: TrainConfig) -> Path:
    """Keep the settings as out/train.yaml, where later commands find them."""
    path = config.out / NAME
    path.parent.mkdir(parents=True, exist_ok=True)
    document = config.model_dump(mode="json", by_alias=True, exclude={"out"})
    document["data"] = {name: value for name, value in document["data"].items() if value} or "earth"
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return path


HINTS: Mapping[str, str] = {
    "steps": "10000 and more are usual",
    "batch": "4 to 16 are usual on a CPU",
    "learning_rate": "0.001 is usual",
    "out": "name the folder to write to",
    "colour": 'write it as "#rrggbb", in quotes',
    "crop": "pixels, as in 256",
    "widths": "as in [64, 96, 128]",
    "data": "write earth, {folder: PATH} or {parquet: PATH}",
    "classes": "write a list of names, or of {name: ..., colour: ...}",
}
SECTIONS: Mapping[str, type[BaseModel]] = {
    "data": DataConfig,
    "classes": ClassConfig,
    "autoencoder": AutoencoderConfig,
    "denoiser": DenoiserConfig,
    "inpainting": InpaintingConfig,
    "distilled": DistilledConfig,
    "class-map": ClassMapConfig,
}


def _one_line(invalid: ValidationError) -> str:
    """The first thing that is wrong, with the value, the limit and what to change."""
    error = invalid.errors(include_url=False)[0]
    path = [str(part) for part in error["loc"]] or ["settings"]
    name, value, limits = ".".join(path), error["input"], error.get("ctx", {})
    key = next((part for part in reversed(path) if part in HINTS), "")
    hint = f"; {HINTS[key]}" if key else ""
    match error["type"]:
        case "value_error":
            return str(limits["error"])
        case "extra_forbidden":
            known = _names(path[:-1])
            near = difflib.get_close_matches(path[-1], known, n=1)
            return f"unknown setting {name}; " + (
                f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            )
        case "literal_error":
            return f"unknown {name} {value!r}; choose {str(limits['expected']).replace(chr(39), '')}"
        case "missing":
            return f"{name} is missing{hint}"
        case "greater_than_equal" | "greater_than" | "less_than" | "less_than_equal" | "multiple_of":
            return f"{name} {value!r:.60} is out of range: it {_lower(error['msg'])}{hint}"
    return f"{name} {value!r:.60} cannot be used: {_lower(error['msg'])}{hint}"


def _names(path: list[str]) -> list[str]:
    """The settings that a section has."""
    section = SECTIONS[path[0]] if path and path[0] in SECTIONS else TrainConfig
    return [field.alias or name for name, field in section.model_fields.items()]


def _lower(message: str) -> str:
    """pydantic's sentence as a part of ours."""
    text = re.sub(r"^Input ", "", message)
    return text[:1].lower() + text[1:]
