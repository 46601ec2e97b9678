"""The fields of JobSpec as keyword arguments of the functions that people call. Knows names and types alone.

Type checkers read no program that would make this of JobSpec, so it is written out; a test compares the two. Paths may
be text here, and regions whatever `region_fields` reads.
"""

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
    width: int
    height: int
    negative_prompt: str
    method: methods.Name
    overlap: float
    blend_last: int | None
    decode: Decode
    scheduler: str | None
    num_inference_steps: int | None
    guidance_scale: float | None
    cond_scale: float | None
    eta: float | None
    seed: int
    classes: Path | str | None
    class_labels: Path | str | None
    clean_map: int
    regions: Path | str | None
    region: Mapping[int | str, Any] | Sequence[Any]
    region_box: Mapping[str, Any] | Sequence[Any]
    region_feather: float
    topology: TopologyName
    model: str
    loras: tuple[str, ...]
    allow_pickle: bool
    config_from: str | None
    vae: str | None
    commits: Mapping[str, str]
    prediction_type: PredictionType | None
    rescale_zero_snr: bool | None
    timestep_spacing: Spacing | None
    dtype: DType | None
    device: Device | None
    out: Path | str
    executor: ExecutorName
    workers: int | None
    threads: int
    batch_size: int | None
    block: int | None
    preview_every: int | None
    outputs: tuple[Output, ...]
    tile: int
    tile_format: TileFormat
