"""The model of a spec: described by whoever plans, loaded by workers. Computes nothing."""

from __future__ import annotations

from typing import Any

from cluster.spec import JobSpec
from generation.models import loading
from generation.models.contracts import Model, ModelInfo


def described(spec: JobSpec) -> ModelInfo:
    """The facts; raises ModelError."""
    return loading.describe(spec.model, **_how(spec))


def loaded(spec: JobSpec) -> Model:
    """The networks of a resolved spec; raises ModelError."""
    return loading.load(spec.model, dtype=spec.dtype or "float32", device=spec.device or "cpu", **_how(spec))


def _how(spec: JobSpec) -> dict[str, Any]:
    return {
        "config": spec.config_from,
        "vae": spec.vae,
        "loras": spec.loras,
        "allow_pickle": spec.allow_pickle,
    }
