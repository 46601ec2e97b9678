"""How a model's noise was set up in training, where a spec says it: settings of the scheduler. Knows no network.

    prediction_type    what the network predicts: epsilon, v_prediction or sample
    rescale_zero_snr   the last of the training's noise levels is noise alone (Lin et al. 2023, arXiv 2305.08891)
    timestep_spacing   which of the training's steps are taken: leading, trailing or linspace

What a spec leaves out is as the model's files say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from cluster.spec.fields import JobSpec, SpecError

if TYPE_CHECKING:
    from generation.models.contracts import ModelInfo

OF_SCHEDULERS: Mapping[str, str] = {
    "prediction_type": "prediction_type",
    "rescale_zero_snr": "rescale_betas_zero_snr",
    "timestep_spacing": "timestep_spacing",
}
"""Field of JobSpec -> setting of diffusers' schedulers."""
ZERO_SNR = OF_SCHEDULERS["rescale_zero_snr"]


def given_in(spec: JobSpec) -> dict[str, Any]:
    """What of these fields is given, by name."""
    return {name: value for name in OF_SCHEDULERS if (value := getattr(spec, name)) is not None}


def scheduler_config(spec: JobSpec, info: ModelInfo) -> dict[str, Any]:
    """The model's scheduler configuration with what the spec says otherwise."""
    said = {OF_SCHEDULERS[name]: value for name, value in given_in(spec).items()}
    return {**info.scheduler_config, **said}


def check_prediction(spec: JobSpec, info: ModelInfo) -> None:
    """Raises SpecError where the scheduler has no such setting, and where zero SNR would leave nothing to predict.

    The second whoever says it: the spec, the model's configuration, or a file of itself.
    """
    given, config = given_in(spec), scheduler_config(spec, info)
    from_nothing = config.get(ZERO_SNR) and config.get("prediction_type", "epsilon") == "epsilon"
    if not given and not from_nothing:
        return
    from generation.sampling.schedules.names import takes

    name = spec.scheduler or info.scheduler
    for field in given:
        if not takes(name, OF_SCHEDULERS[field], info.scheduler_config):
            raise SpecError(
                f"--{field.replace('_', '-')} changes nothing with scheduler {name} of model {spec.model!r}: leave it "
                "out, or choose a --scheduler such as ddim or euler for a model that predicts no flow"
            )
    if from_nothing and takes(name, ZERO_SNR, info.scheduler_config):
        starts = (
            "--rescale-zero-snr"
            if spec.rescale_zero_snr
            else f"zero SNR, at which model {spec.model!r} starts,"
        )
        raise SpecError(
            f"{starts} leaves nothing of the picture to find where the model predicts epsilon, its noise; "
            "give --prediction-type v_prediction, if it predicts that"
        )


def correction_facts(info: ModelInfo) -> dict[str, Any]:
    """What of a model's configuration is used otherwise than its files say: it determines the pixels as well.

    LoRAs are added by this program since it counts how; before, diffusers left out some of their tensors.
    """
    corrections = {fix.setting: fix.used for fix in info.notes.get("corrections", ())}
    facts: dict[str, Any] = {"corrections": corrections} if corrections else {}
    fused = info.notes.get("loras_fused")
    return facts | ({} if fused is None else {"loras_fused": fused})


def lost_settings(spec: JobSpec, info: ModelInfo) -> Iterator[str]:
    """What the model's files say of its training that the scheduler of a resolved spec knows nothing of."""
    if not info.scheduler_config.get(ZERO_SNR):
        return
    from generation.sampling.schedules.names import takes

    name = spec.scheduler or info.scheduler
    if not takes(name, ZERO_SNR, info.scheduler_config):
        yield f"scheduler {name} does not start at zero SNR, as model {spec.model!r} was trained to; ddim and euler do"
