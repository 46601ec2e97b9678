"""The clean latents that a prediction implies: for every scheduler and every type of prediction."""

import pytest
import torch
from scheduler_cases import Noised, cases, config_of, exact_prediction, field

from generation.sampling.schedules.addressed_noise import AddressedNoise
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.predictions import clean_of
from generation.sampling.schedules.solvers import build, scaled_input

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHOWS_ITS_OWN = (
    "ddim", "ddpm", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "edm_euler", "edm_dpmpp_2m", "unipc",
    "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2s", "sa_solver",
)  # fmt: skip
"""Schedulers that say what clean latents they take a prediction for."""


@pytest.mark.parametrize(("name", "kind"), tuple(cases()))
def test_an_exact_prediction_gives_the_clean_latents_back(name: str, kind: str) -> None:
    schedule, noised = build_schedule(name, config_of(kind), 7), Noised(name, kind, 7)
    clean, noise = field(1), field(2)
    for k in range(len(schedule)):
        if name.startswith("dpm_2") and k % 2:
            continue  # half way between two levels, which add_noise does not know: the next test has it
        prediction = exact_prediction(noised, k, kind, clean, noise)
        found = schedule.clean(k, noised.at(k, clean, noise), prediction)
        assert found.shape == clean.shape
        assert torch.allclose(found, clean, atol=1e-3), k


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SHOWS_ITS_OWN)
def test_on_its_way_it_equals_diffusers_own_conversion(name: str, kind: str) -> None:
    schedule = build_schedule(name, config_of(kind), 6)
    theirs = build(name, config_of(kind))
    theirs.set_timesteps(6)
    x = schedule.start(field(3).float())
    for k, timestep in enumerate(theirs.timesteps):
        prediction = torch.tanh(scaled_input(theirs, x, timestep)) * 0.7
        if hasattr(theirs, "convert_model_output"):
            if theirs.step_index is None:
                theirs._init_step_index(timestep)
            wanted = theirs.convert_model_output(prediction, sample=x)
        found = schedule.clean(k, x, prediction)
        with AddressedNoise(lambda n, k=k: field(10 + k).float()):
            stepped = theirs.step(prediction, timestep, x)
        if not hasattr(theirs, "convert_model_output"):
            wanted = stepped.pred_original_sample
        assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4), k
        x = stepped.prev_sample


def test_a_prediction_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="type 'score' is not understood"):
        clean_of("score", torch.ones(1), torch.ones(1), field(1), field(2))
