"""The schedules beside the solvers as their papers write them: the same latents, from the same noise."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scheduler_cases import config_of

from generation import plain_solvers
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.contract import Schedule
from generation.sampling.schedules.predictions import clean_of

SHAPE = (2, 5, 7)
CLOSE = {"atol": 2e-5, "rtol": 2e-5}


def noise(seed: int) -> np.ndarray:
    return np.random.default_rng([4, seed]).standard_normal(SHAPE)


def network(shown: torch.Tensor, timestep: float) -> torch.Tensor:
    """Pointwise, and another at every step."""
    return torch.tanh(shown * (0.5 + timestep / 1500)) * 0.7


def drawn(schedule: Schedule) -> np.ndarray:
    x, history = schedule.start(torch.from_numpy(noise(0)).float()), list[torch.Tensor]()
    for k in range(len(schedule)):
        prediction = network(schedule.model_input(k, x), float(schedule.timesteps[k]))
        x, history = schedule.step(
            k, x, history, prediction, lambda n, k=k: torch.from_numpy(noise(100 + k)).float()
        )
    return x.numpy()


def levels(schedule: Schedule) -> list[tuple[float, float]]:
    one, zero = torch.ones(1).double(), torch.zeros(1).double()
    at = range(len(schedule))
    return [(float(schedule.noised(k, one, zero)), float(schedule.noised(k, zero, one))) for k in at]


def denoiser(schedule: Schedule, kind: str) -> Callable[[np.ndarray, int], np.ndarray]:
    """What the network sees in x[k], in float64."""

    def denoise(x: np.ndarray, k: int) -> np.ndarray:
        prediction = network(torch.from_numpy(x), float(schedule.timesteps[k]))
        return clean_of(kind, *levels(schedule)[k], torch.from_numpy(x), prediction).numpy()

    return denoise


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim(eta: float, kind: str) -> None:
    schedule = build_schedule("ddim", config_of(kind), 7, eta=eta)
    kept = [*(signal**2 for signal, _ in levels(schedule)), 1.0]
    plain = plain_solvers.ddim(denoiser(schedule, kind), noise(0), kept, eta, lambda k: noise(100 + k))
    np.testing.assert_allclose(drawn(schedule), plain, **CLOSE)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_karras"])
def test_dpmpp_2m(name: str, kind: str) -> None:
    schedule = build_schedule(name, config_of(kind), 7)
    plain = plain_solvers.dpmpp_2m(denoiser(schedule, kind), noise(0), [*levels(schedule), (1.0, 0.0)])
    np.testing.assert_allclose(drawn(schedule), plain, **CLOSE)


def test_dpmpp_2m_along_a_flow() -> None:
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
    schedule = build_schedule("dpmpp_2m", config, 7)
    plain = plain_solvers.dpmpp_2m(
        denoiser(schedule, "flow_prediction"), noise(0), [*levels(schedule), (1.0, 0.0)]
    )
    np.testing.assert_allclose(drawn(schedule), plain, **CLOSE)
