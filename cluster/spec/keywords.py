"""The fields of JobSpec as keyword arguments of the functions that people call. Knows names and types alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from cluster.spec.fields import (
    Decode,
    Device,
    DType,
    ExecutorName,
    Output,
    PredictionType,
    Spacing,
    TileFormat,
    TopologyName,
)
from generation.sampling import methods


class SpecFields(TypedDict, total=False):
    """The fields of JobSpec as keyword arguments; `prompt`, `width`, `height` and `out` are required."""

    prompt: str
    negative_prompt: str
    width: int
    height: int
    model: str
    config_from: str | None
    vae: str | None
    loras: tuple[str, ...]
    allow_pickle: bool
    commits: Mapping[str, str]
    method: methods.Name
    overlap: float
    blend_last: int | None
    decode: Decode
    scheduler: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    cond_scale: float | None
    eta: float | None
    prediction_type: PredictionType | None
    rescale_zero_snr: bool | None
    timestep_spacing: Spacing | None
    seed: int
    classes: Path | str | None
    class_labels: Path | str | None
    clean_map: int
    regions: Path | str | None
    region: Mapping[int | str, Any] | Sequence[Any]
    region_box: Mapping[str, Any] | Sequence[Any]
    region_feather: float
    topology: TopologyName
    dtype: DType | None
    device: Device | None
    batch_size: int | None
    block: int | None
    threads: int
    outputs: tuple[Output, ...]
    tile: int
    tile_format: TileFormat
    executor: ExecutorName
    workers: int | None
    preview_every: int | None
    out: Path | str
