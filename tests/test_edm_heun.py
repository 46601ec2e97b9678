"""EDM Heun: beside the paper's algorithm and diffusers' deterministic one, and where the answer is known."""

from dataclasses import replace
from math import sqrt

import diffusers
import numpy as np
import pytest
import torch
from engine import FLOW_CONFIG

from generation import plain_solvers
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.edm_heun import EdmHeun, edm_heun, karras_levels
from generation.sampling.schedules.parametrisations import AlphasTraining, parametrisation_of

PAPER = {"s_churn": 40.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
COLLAGE = {"s_churn": 10.0, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003, "rho": 5.0, "sigma_min": 1e-3}
WHOLE = {"s_churn": 1e9}
DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EDM = {"_class_name": "EDMEulerScheduler", "sigma_data": 0.5}
FAMILIES = {
    "epsilon": DIFFUSION,
    "v": DIFFUSION | {"prediction_type": "v_prediction"},
    "v from zero SNR": DIFFUSION | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    "sample": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"},
    "flow": FLOW_CONFIG,
    "edm": EDM,
    "edm, v": EDM | {"prediction_type": "v_prediction"},
}
families = pytest.mark.parametrize("family", FAMILIES)


def noise(seed: int, shape: tuple[int, ...] = (2, 5, 7)) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([6, seed]).standard_normal(shape).astype(np.float32))


def sampled(schedule: EdmHeun, denoise, shape: tuple[int, ...] = (2, 5, 7)) -> torch.Tensor:
    """With a network that says what it has to for these clean latents."""
    x, history = schedule.start(noise(0, shape)), list[torch.Tensor]()
    for k in range(len(schedule)):
        assert len(history) == schedule.fields(k)
        prediction = schedule.predicted(k, x, denoise(x, schedule.level(k)))
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: noise(1 + (k + 1) // 2, shape))
    assert not history
    return x


# --- the algorithm


def stub(x, sigma: float):
    """A denoiser that is nobody's."""
    return 0.8 * (x / (1 + x * x) ** 0.5) + 0.01 * x / (1 + sigma)


@families
@pytest.mark.parametrize("settings", [{}, PAPER, COLLAGE, WHOLE], ids=["none", "paper", "collage", "whole"])
def test_it_is_algorithm_2(settings: dict[str, float], family: str) -> None:
    """The first churn's noise is part of `start`, so the plain x_0 is what that leaves before it."""
    schedule = edm_heun(FAMILIES[family] | settings, 9)
    usual = {"s_churn": 0.0, "s_tmin": 0.0, "s_tmax": float("inf"), "s_noise": 1.0}
    churn = {name: settings.get(name, value) for name, value in usual.items()}
    first = schedule.start(noise(0)).double().numpy()
    stirred = churn["s_noise"] * sqrt(schedule.raised[0] ** 2 - schedule.levels[0] ** 2)
    draws = [noise(1 + i).double().numpy() for i in range(9)]
    plain = plain_solvers.edm_heun(
        stub, first - stirred * draws[0], schedule.levels, lambda i: draws[i], **churn
    )
    np.testing.assert_allclose(sampled(schedule, stub).numpy(), plain, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_without_churn_it_is_diffusers_heun_on_the_same_levels(kind: str) -> None:
    """Levels, what the network is shown and told, and every step; diffusers' own loop is theirs alone."""
    theirs = diffusers.HeunDiscreteScheduler(**DIFFUSION, prediction_type=kind, use_karras_sigmas=True)
    theirs.set_timesteps(8)
    ours = build_schedule("edm_heun", DIFFUSION | {"prediction_type": kind}, 8)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps.float(), atol=2e-3, rtol=0.0)
    x = ours.start(noise(0))
    z, history = x.clone(), list[torch.Tensor]()
    for k, timestep in enumerate(theirs.timesteps):
        shown = theirs.scale_model_input(z, timestep)
        torch.testing.assert_close(ours.model_input(k, x), shown, atol=1e-5, rtol=1e-5)
        z = theirs.step(torch.tanh(shown), timestep, z).prev_sample
        x, history = ours.step(k, x, history, torch.tanh(ours.model_input(k, x)), noise)
        torch.testing.assert_close(x, z, atol=3e-5, rtol=1e-4)


def test_what_the_levels_are() -> None:
    levels = karras_levels(0.002, 80.0, 7.0, 18)
    assert (levels[0], levels[-1]) == (pytest.approx(80), pytest.approx(0.002)) and len(levels) == 18
    assert levels[1] == pytest.approx(57.586, abs=1e-3), "the second level of the paper's 18"
    assert edm_heun(EDM, 1).levels == (pytest.approx(80), 0.0)


def test_churn_is_within_its_limits() -> None:
    schedule = edm_heun(EDM | PAPER, 40)
    raised = [raised / level for raised, level in zip(schedule.raised, schedule.levels, strict=False)]
    stirred = [0.05 <= level <= 50 for level in schedule.levels[:-1]]
    assert raised == [pytest.approx(sqrt(2) if inside else 1) for inside in stirred]
    assert 0 < sum(stirred) < len(stirred)


# --- where the answer is known


def gaussian(deviation: float, mean: float):
    """E[clean | x] where clean ~ N(mean, deviation^2): Karras et al. 2022, appendix B, with one Gaussian."""

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return mean + (x - mean) * (deviation**2 / (deviation**2 + sigma**2))

    return denoise


MANY = (1, 192, 192)


@families
@pytest.mark.parametrize("settings", [{}, PAPER | {"s_noise": 1.0}], ids=["none", "churn"])
def test_what_is_sampled_has_the_datas_mean_and_variance(settings: dict[str, float], family: str) -> None:
    """The network knows the training's step alone; that and what it is shown it reads as its family does."""
    schedule = edm_heun(FAMILIES[family] | settings, 192)
    family_reads = Reader(FAMILIES[family])
    x, history = schedule.start(noise(0, MANY)), list[torch.Tensor]()
    for k in range(len(schedule)):
        prediction = family_reads.predict(schedule.model_input(k, x), float(schedule.timesteps[k]))
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: noise(1 + k, MANY))
    assert float(x.std()) == pytest.approx(0.6, rel=0.015)
    assert float(x.mean()) == pytest.approx(0.25, abs=0.012)


class Reader:
    """The exact network of N(0.25, 0.6^2), written from each family's training, not from its parametrisation."""

    def __init__(self, config: dict[str, object]) -> None:
        self.kind = str(config.get("prediction_type", "epsilon"))
        self.is_flow, self.is_edm = config is FLOW_CONFIG, "sigma_data" in config
        self.kept = None
        if not (self.is_flow or self.is_edm):
            settings = {name: value for name, value in config.items() if name != "rescale_betas_zero_snr"}
            extra = {"rescale_betas_zero_snr": True} if len(settings) < len(config) else {}
            self.kept = diffusers.DDIMScheduler(**settings, **extra).alphas_cumprod.double().numpy()

    def level(self, timestep: float) -> tuple[float, float]:
        """(a, s) of what it is shown."""
        if self.is_flow:
            return 1 - timestep / 1000, timestep / 1000
        if self.is_edm:
            sigma = float(np.exp(4 * timestep))
            return 1 / sqrt(sigma**2 + 0.25), sigma / sqrt(sigma**2 + 0.25)
        odds = np.log1p(-self.kept) - np.log(np.maximum(self.kept, 2**-24))
        sigma = float(np.exp(np.interp(timestep, np.arange(len(odds)), odds) / 2))
        return 1 / sqrt(1 + sigma**2), sigma / sqrt(1 + sigma**2)

    def predict(self, shown: torch.Tensor, timestep: float) -> torch.Tensor:
        a, s = self.level(timestep)
        x, sigma = shown.double() / a, s / a
        clean = gaussian(0.6, 0.25)(x, sigma)
        noise = (x - clean) / sigma
        if self.is_edm:
            skip = 0.25 / (sigma**2 + 0.25)
            out = sigma * 0.5 / sqrt(sigma**2 + 0.25) * (1 if self.kind == "epsilon" else -1)
            return ((clean - skip * x) / out).float()
        if self.is_flow:
            return (noise - clean).float()
        return {"epsilon": noise, "v_prediction": a * noise - s * clean, "sample": clean}[self.kind].float()


def test_the_error_falls_with_the_square_of_the_steps() -> None:
    """Against the closed form of the probability flow of a Gaussian: x ~ sqrt(c^2 + sigma^2)."""
    errors = []
    for steps in (16, 32, 64):
        schedule = edm_heun(EDM | {"sigma_min": 0.01}, steps)
        x = sampled(
            replace(schedule, levels=(*schedule.levels[:-1], 1e-9)),
            lambda x, s: gaussian(0.6, 0.0)(x.double(), s),
        )
        exact = noise(0).double() * 80 * 0.6 / sqrt(0.36 + 80**2)
        errors.append(float((x - exact).abs().max()))
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.35) and errors[1] / errors[2] == pytest.approx(
        4, rel=0.35
    )


def test_churn_forgets_what_the_network_got_wrong_at_high_levels() -> None:
    """Section 4 of the paper. The flow keeps the mean that it arrives with; fresh noise and denoising draw it back."""

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        return gaussian(0.6, 0.0)(x, sigma) + (1.0 if sigma > 5 else 0.0)

    kept, forgotten = (
        abs(float(sampled(edm_heun(EDM | settings, 64), denoise, MANY).mean()))
        for settings in ({}, PAPER | {"s_noise": 1.0})
    )
    assert kept == pytest.approx(0.11, abs=0.02) and forgotten < 0.2 * kept


# --- its place among schedules


@families
def test_a_part_of_the_sample_takes_the_same_steps_bit_for_bit(family: str) -> None:
    schedule = edm_heun(FAMILIES[family] | PAPER, 6)
    shape, part = (3, 11, 13), (slice(None), slice(2, 9), slice(5, 12))

    def run(where: tuple[slice, ...]) -> torch.Tensor:
        x, history = schedule.start(noise(9, shape))[where].contiguous(), list[torch.Tensor]()
        for k in range(len(schedule)):
            prediction = torch.tanh(noise(99 + k, shape))[where].contiguous() + schedule.model_input(k, x) * 0
            x, history = schedule.step(
                k, x, history, prediction, lambda n, k=k: noise(k, shape)[where].contiguous()
            )
        return x

    assert torch.equal(run(part), run((slice(None),) * 3)[part])


@families
def test_what_is_stored_is_what_is_evaluated(family: str) -> None:
    """The network is told the level that x[k] has: x[k] of pure noise has its deviation."""
    schedule = edm_heun(FAMILIES[family] | PAPER | {"s_noise": 1.0}, 7)
    zero, shape = torch.zeros(()), (1, 128, 128)
    x, history = schedule.start(noise(0, shape)), list[torch.Tensor]()
    for k in range(len(schedule)):
        if k % 2 == 0:
            assert float(x.std()) == pytest.approx(schedule.level(k), rel=0.03)
            assert float(schedule.noised(k, zero, noise(1, shape)).std()) == pytest.approx(
                schedule.level(k), rel=0.03
            )
        prediction = schedule.predicted(k, x, zero.expand(shape))
        if k % 2:  # of clean latents 0 the flow is straight, and both of Heun's slopes are x over sigma
            assert float(x.std()) == pytest.approx(schedule.level(k), rel=0.03)
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: noise(k + 1, shape))


def test_settings_that_make_no_levels_are_refused() -> None:
    for settings in ({"sigma_min": 90.0}, {"sigma_min": 0.0}, {"rho": 0.0}, {"sigma_max": float("inf")}):
        with pytest.raises(ValueError, match="give 0 < sigma_min < sigma_max, rho above 0"):
            edm_heun(EDM | settings, 5)
    for settings in ({"s_churn": -1.0}, {"s_noise": 0.0}):
        with pytest.raises(ValueError, match="give 0 or more, and more than 0"):
            edm_heun(EDM | settings, 5)
    with pytest.raises(ValueError, match="does not understand a prediction of type 'score'"):
        edm_heun({"prediction_type": "score"}, 5)
    with pytest.raises(ValueError, match="does not understand a prediction of type 'sample'"):
        edm_heun(EDM | {"prediction_type": "sample"}, 5)


@pytest.mark.parametrize("value", ["many", float("nan"), True, [1.0]])
def test_settings_that_are_no_numbers_are_refused(value: object) -> None:
    for config, name in ((DIFFUSION, "s_churn"), (EDM, "sigma_data"), (FLOW_CONFIG, "num_train_timesteps")):
        with pytest.raises(ValueError, match=f"has {name} .*; give a number"):
            edm_heun({**config, name: value}, 5)


def test_what_diffusers_writes_as_null_is_left_out() -> None:
    nulls = dict.fromkeys(("sigma_min", "sigma_max", "rho", "s_churn"))
    assert edm_heun(DIFFUSION | nulls, 5).levels == edm_heun(DIFFUSION, 5).levels


def test_a_level_is_told_as_the_step_that_was_trained_on_it() -> None:
    """Whole steps for the training's own levels; between two, as diffusers and k-diffusion tell it."""
    network = parametrisation_of(DIFFUSION)
    assert isinstance(network, AlphasTraining)
    sigmas = np.exp(network.log_sigmas)
    assert [network.timestep(sigmas[t]) for t in (0, 1, 500, 999)] == pytest.approx([0, 1, 500, 999])
    theirs = diffusers.EulerDiscreteScheduler(**DIFFUSION)
    between = np.sqrt(sigmas[:-1:7] * sigmas[1::7])
    told = theirs._sigma_to_t(between, network.log_sigmas)
    assert [network.timestep(sigma) for sigma in between] == pytest.approx(list(told), abs=1e-6)
    assert network.timestep(1e-5) == 0 and network.timestep(1e5) == 999
