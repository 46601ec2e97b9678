"""The clean latents that a prediction implies: for every scheduler and every type of prediction."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from engine import FLOW_CONFIG

import generation.schedules as schedules
from generation.schedules import SHORT_NAMES, Schedule

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

KINDS = ("epsilon", "v_prediction", "sample", "flow_prediction")
NOT_IN_DIFFUSERS = {("pndm", "sample"), ("euler_a", "sample"), ("dpm_2", "sample"), ("dpm_2_a", "sample")} | {
    ("edm_euler", "sample"), ("edm_dpmpp_2m", "sample"),
}  # fmt: skip
FLOWS = {
    "dpmpp_2m",
    "dpmpp_2m_karras",
    "dpmpp_2m_sde",
    "dpmpp_2s",
    "deis",
    "unipc",
    "sa_solver",
    "flow_euler",
}
SIGMA_DATA = 0.5
SHOWS_ITS_OWN = (
    "ddim", "ddpm", "euler", "euler_a", "heun", "dpm_2", "dpm_2_a", "edm_euler", "edm_dpmpp_2m", "unipc",
    "dpmpp_2m", "dpmpp_2m_karras", "dpmpp_2m_sde", "dpmpp_2s", "sa_solver",
)  # fmt: skip
"""Schedulers that say what clean latents they take a prediction for."""


def cases() -> Iterator[tuple[str, str]]:
    for name in SHORT_NAMES:
        for kind in KINDS:
            if kind == "flow_prediction" and name in FLOWS:
                yield name, kind
            if kind != "flow_prediction" and name != "flow_euler" and (name, kind) not in NOT_IN_DIFFUSERS:
                yield name, kind


def config_of(kind: str) -> dict[str, object]:
    return FLOW_CONFIG if kind == "flow_prediction" else {"prediction_type": kind, "clip_sample": False}


def field(seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((1, 3, 5, 7)))


class Noised:
    """diffusers' own word on how noisy a sample is at step k."""

    def __init__(self, name: str, kind: str, steps: int) -> None:
        self.scheduler = schedules._build(name, config_of(kind))
        self.scheduler.set_timesteps(steps)
        self.is_sa_solver_in_a_flow = (name, kind) == ("sa_solver", "flow_prediction")

    def at(self, k: int, clean: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        if hasattr(
            self.scheduler, "set_begin_index"
        ):  # else two steps at one timestep would be taken for one
            self.scheduler.set_begin_index(0)
            self.scheduler._step_index = k
        if self.is_sa_solver_in_a_flow:  # whose add_noise knows no flow
            return (1 - self.scheduler.sigmas[k]) * clean + self.scheduler.sigmas[k] * noise
        timestep = self.scheduler.timesteps[k : k + 1]
        if hasattr(self.scheduler, "scale_noise"):
            return self.scheduler.scale_noise(clean, timestep, noise)
        return self.scheduler.add_noise(clean, noise, timestep)


def exact_prediction(
    noised: Noised, k: int, kind: str, clean: torch.Tensor, noise: torch.Tensor
) -> torch.Tensor:
    """What a network that knows everything returns."""
    one, zero = torch.ones(1, 1, 1, 1).double(), torch.zeros(1, 1, 1, 1).double()
    a, s = noised.at(k, one, zero), noised.at(k, zero, one)
    if hasattr(noised.scheduler, "precondition_outputs"):  # Karras et al. 2022, table 1; v has the other sign
        total = s**2 + SIGMA_DATA**2
        aim = clean - SIGMA_DATA**2 / total * noised.at(k, clean, noise)
        return aim / (s * SIGMA_DATA / total**0.5) * (1 if kind == "epsilon" else -1)
    return {
        "epsilon": noise,
        "v_prediction": (a * noise - s * clean) / (a**2 + s**2) ** 0.5,
        "sample": clean,
        "flow_prediction": noise - clean,
    }[kind]


@pytest.mark.parametrize(("name", "kind"), tuple(cases()))
def test_an_exact_prediction_gives_the_clean_latents_back(name: str, kind: str) -> None:
    schedule, noised = Schedule(name, config_of(kind), 7), Noised(name, kind, 7)
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
    schedule = Schedule(name, config_of(kind), 6)
    theirs = schedules._build(name, config_of(kind))
    theirs.set_timesteps(6)
    x = schedule.start(field(3).float())
    for k, timestep in enumerate(theirs.timesteps):
        prediction = torch.tanh(schedules._scale_model_input(theirs, x, timestep)) * 0.7
        if hasattr(theirs, "convert_model_output"):
            if theirs.step_index is None:
                theirs._init_step_index(timestep)
            wanted = theirs.convert_model_output(prediction, sample=x)
        found = schedule.clean(k, x, prediction)
        with schedules.AddressedNoise(lambda n, k=k: field(10 + k).float()):
            stepped = theirs.step(prediction, timestep, x)
        if not hasattr(theirs, "convert_model_output"):
            wanted = stepped.pred_original_sample
        assert torch.allclose(found, wanted, atol=1e-4, rtol=1e-4), k
        x = stepped.prev_sample


def test_a_prediction_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="type 'score' is not understood"):
        schedules._clean("score", torch.ones(1), torch.ones(1), field(1), field(2))
