"""The model of a spec: described once, by whoever plans, and loaded by workers, who compare. Computes nothing."""

from __future__ import annotations

from typing import Any

from cluster.spec.fields import JobSpec
from cluster.spec.identity import check_model, identified
from generation.models import loading
from generation.models.contracts import Model, ModelInfo


def described(spec: JobSpec) -> ModelInfo:
    """The facts, its files read and its commits on the hub settled; raises ModelError."""
    return identified(facts_of(spec))


def facts_of(spec: JobSpec) -> ModelInfo:
    """The facts alone, for whom it does not matter whether the files are what they were; raises ModelError."""
    return loading.describe(spec.model, **_how(spec))


def loaded(spec: JobSpec, began: ModelInfo) -> Model:
    """The networks of a resolved spec, from here. began: what the job began with.

    Raises ModelError, also where what was loaded differs from that.
    """
    model = loading.load(spec.model, dtype=spec.dtype or "float32", device=spec.device or "cpu", **_how(spec))
    check_model(spec.model, began, identified(model.info))
    return model


def _how(spec: JobSpec) -> dict[str, Any]:
    return {
        "config": spec.config_from,
        "vae": spec.vae,
        "loras": spec.loras,
        "allow_pickle": spec.allow_pickle,
        "commits": spec.commits,
    }
