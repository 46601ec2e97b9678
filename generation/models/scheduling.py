"""The configuration of a model's scheduler as its pipeline in diffusers uses it. Knows JSON files of a source."""

from __future__ import annotations

from typing import Any

from generation.models.corrections import CLASSIC, Config, Correction, class_in, completed
from generation.models.sources import Source

SCHEDULER = "scheduler/scheduler_config.json"

WITHOUT_OFFSET = (
    "DPMSolverSinglestepScheduler",
    "EDMEulerScheduler",
    "EDMDPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
)
"""Schedulers that know no steps_offset; all others take 0 unless their file says otherwise."""


def scheduler_settings(source: Source) -> tuple[dict[str, Any], tuple[Correction, ...]]:
    """The scheduler's configuration as the source's pipeline uses it, and what of it was changed.

    What a single file says of itself counts more than the configuration that it is read with. Raises KeyError where
    nothing names the scheduler's class.
    """
    config = source.read(SCHEDULER)
    name = class_in(source.index, "scheduler") or config["_class_name"]
    used = completed(name, config)
    found = [("_class_name", name, "model_index.json names that class")] if "_class_name" in config else []
    if source.kind == CLASSIC:
        found += [
            (setting, value, f"as {CLASSIC} sets it") for setting, value in _classic(name, used).items()
        ]
    found += [(setting, value, f"as {source.single} says") for setting, value in source.said.items()]
    fixes = [
        Correction(SCHEDULER, setting, config.get(setting), value, why)
        for setting, value, why in found
        if config.get(setting) != value
    ]
    return used | {fix.setting: fix.used for fix in fixes}, tuple(fixes)


def _classic(name: str, used: Config) -> dict[str, Any]:
    """Settings of a scheduler that StableDiffusionPipeline insists on, where its class has them."""
    insisted: dict[str, Any] = {}
    if name not in WITHOUT_OFFSET or "steps_offset" in used:
        insisted["steps_offset"] = 1
    if used.get("clip_sample") is True:
        insisted["clip_sample"] = False
    return insisted
