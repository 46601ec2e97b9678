"""What a schedule remembers, known without its scheduler, against what the scheduler itself is found to remember."""

from __future__ import annotations

from typing import Any

import pytest

from generation.models.loading import describe
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.lengths import FIELDS, remembered
from generation.sampling.schedules.names import SHORT_NAMES

STEPS = (1, 2, 3, 4, 14, 15, 31)
MODELS = ("embedded", "embedded/fast", "embedded/map")
OWN = [(describe(model).scheduler, dict(describe(model).scheduler_config)) for model in MODELS]
PLAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
"""As Stable Diffusion's."""


def found(name: str, config: dict[str, Any], steps: int) -> tuple[int, ...]:
    schedule = build_schedule(name, config, steps)
    return tuple(schedule.fields(k) for k in range(len(schedule) + 1))


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", ["ddim", "euler", "dpmpp_2m", "unipc"])
def test_what_is_known_is_what_the_scheduler_does(name: str, spacing: str) -> None:
    config = {**PLAIN, "timestep_spacing": spacing}
    for steps in STEPS:
        assert remembered(name, config, steps) == found(name, config, steps), steps


@pytest.mark.parametrize(("name", "config"), OWN, ids=MODELS)
def test_of_the_embedded_models_it_is_known(name: str, config: dict[str, Any]) -> None:
    for steps in STEPS:
        assert remembered(name, config, steps) == found(name, config, steps), steps
    assert remembered("ddim", config, 12) == found("ddim", config, 12)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("dpmpp_2m", {"solver_order": 3}),
        ("dpmpp_2m", {"lower_order_final": False}),
        ("dpmpp_2m", {"final_sigmas_type": "sigma_min"}),
        ("dpmpp_2m", {"use_karras_sigmas": True}),
        ("dpmpp_2m_sde", {}),
        ("unipc", {"disable_corrector": [0]}),
        ("ddim", {"thresholding": True}),
        ("ddim", {"beta_start": "small"}),
        ("ddim", {"num_train_timesteps": True}),
        ("ddim", {"prediction_type": "flow_prediction"}),
        ("euler", {"timestep_type": "continuous"}),
        ("euler", {"a setting of tomorrow": 1}),
        ("edm_heun", {}),
    ],
)
def test_of_unusual_settings_nothing_is_known(name: str, setting: dict[str, Any]) -> None:
    assert remembered(name, PLAIN | setting, 12) is None


def test_more_steps_than_were_trained_are_the_schedulers_to_judge() -> None:
    assert remembered("ddim", PLAIN, 1001) is None


def test_the_table_names_schedulers_that_there_are() -> None:
    assert set(FIELDS) <= {name for name, _ in SHORT_NAMES.values()}
