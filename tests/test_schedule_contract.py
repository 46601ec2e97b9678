"""What every schedule must do, with every prediction that it takes: inverses, and a beginning at any step."""

import subprocess
import sys
from types import SimpleNamespace

import diffusers
import pytest
import torch
from scheduler_cases import Noised, cases, config_of, exact_prediction, field

from generation.sampling.schedules.addressed_noise import AddressedNoise
from generation.sampling.schedules.building import NATIVE, build_schedule
from generation.sampling.schedules.contract import Schedule
from generation.sampling.schedules.names import NATIVE_NAMES, SHORT_NAMES, check_name
from generation.sampling.schedules.solvers import build, scaled_input
from generation.sampling.schedules.strength import from_strength

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

DIFFUSERS = tuple(cases())
OURS = tuple(
    (name, kind) for name in NATIVE_NAMES for kind in ("epsilon", "v_prediction", "sample", "flow_prediction")
)
every_case = pytest.mark.parametrize(("name", "kind"), [*DIFFUSERS, *OURS])
END_IN_NOISE = {("deis", "flow_prediction"), ("sa_solver", "flow_prediction"), ("pndm", "v_prediction")}
"""diffusers' own loops do not reach clean latents there: two leave out a flow's last level, PNDM takes few steps."""
EPSILON = 2.0**-23


def levels(schedule: Schedule, k: int) -> tuple[float, float]:
    """(a, s) of x[k] = a clean + s noise."""
    one, zero = torch.ones(1), torch.zeros(1)
    return float(schedule.noised(k, one, zero)), float(schedule.noised(k, zero, one))


@every_case
def test_noised_predicted_and_clean_undo_each_other(name: str, kind: str) -> None:
    """To float32: where little is left of them, or of noise, the rounding of x counts so much more."""
    schedule, clean, noise = build_schedule(name, config_of(kind), 7), field(1).float(), field(2).float()
    for k in range(len(schedule)):
        (a, s), x = levels(schedule, k), schedule.noised(k, clean, noise)
        prediction = schedule.predicted(k, x, clean)
        assert x.shape == prediction.shape == clean.shape and prediction.dtype == x.dtype == torch.float32
        again = schedule.clean(k, x, prediction)
        close = 16 * EPSILON * (a + s) / (1 if kind == "flow_prediction" else a)
        torch.testing.assert_close(again, clean, atol=close, rtol=close)
        torch.testing.assert_close(
            schedule.predicted(k, x, again), prediction, atol=close * (1 + 1 / s), rtol=0.0
        )


@pytest.mark.parametrize(("name", "kind"), DIFFUSERS)
def test_noised_is_what_diffusers_adds_and_predicted_what_a_network_that_knows_says(
    name: str, kind: str
) -> None:
    schedule, theirs = build_schedule(name, config_of(kind), 7), Noised(name, kind, 7)
    clean, noise = field(1), field(2)
    for k in range(len(schedule)):
        if name.startswith("dpm_2") and k % 2:
            continue  # half way between two levels, which add_noise does not know
        x = theirs.at(k, clean, noise)
        torch.testing.assert_close(schedule.noised(k, clean, noise), x, atol=1e-5, rtol=1e-5)
        wanted = exact_prediction(theirs, k, kind, clean, noise)
        torch.testing.assert_close(schedule.predicted(k, x, clean), wanted, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("name", "kind"), [case for case in (*DIFFUSERS, *OURS) if case not in END_IN_NOISE])
def test_a_network_that_knows_the_answer_is_believed(name: str, kind: str) -> None:
    """From noised latents at any step on, it leads back to them; but for what a solver's last level leaves."""
    clean = field(1).float()
    whole = build_schedule(name, config_of(kind), 6)
    for begin in range(0, len(whole), whole.order):
        if name == "pndm" and begin:
            break
        schedule = whole.begin(begin)
        x, history = schedule.noised(0, clean, field(2).float()), list[torch.Tensor]()
        for k in range(len(schedule)):
            prediction = schedule.predicted(k, x, clean)
            x, history = schedule.step(k, x, history, prediction, lambda n, k=k: field(10 * k + n).float())
        assert float((x - clean).abs().max()) < 0.12, begin


def test_every_native_name_has_its_line() -> None:
    assert tuple(NATIVE) == NATIVE_NAMES


def test_a_name_is_known_without_loading_a_library() -> None:
    """A wrong flag is refused at once."""
    asked = "import sys; from generation.sampling.schedules.names import check_name, takes; check_name('edm_heun')"
    found = (
        "takes('edm_heun', 'prediction_type', {}); print({'torch', 'diffusers', 'numpy'} & set(sys.modules))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", f"{asked}; {found}"], capture_output=True, check=True, text=True
    )
    assert printed.stdout.strip() == "set()"
    with pytest.raises(
        ValueError,
        match="unknown scheduler 'edm_huen'; did you mean edm_heun[?] There are ddim, .*, or a class",
    ):
        check_name("edm_huen")


# --- beginning


def strengths_of(kind: str) -> tuple[type, ...]:
    """diffusers' pipelines of such models."""
    if kind == "flow_prediction":
        return diffusers.StableDiffusion3Img2ImgPipeline, diffusers.FluxImg2ImgPipeline
    return diffusers.StableDiffusionImg2ImgPipeline, diffusers.StableDiffusionXLImg2ImgPipeline


STRENGTHS = (0.29, 0.35, 0.6, 0.85, 1.0)
BEGIN = tuple((name, kind) for name, kind in DIFFUSERS if name != "pndm")


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize(("name", "kind"), BEGIN)
def test_it_begins_as_diffusers_img2img_does(name: str, kind: str, strength: float) -> None:
    """Which steps are left, what they start from, and every step."""
    schedule = from_strength(build_schedule(name, config_of(kind), 7), strength, kind == "flow_prediction")
    theirs = build(name, config_of(kind))
    theirs.set_timesteps(7)
    for pipeline in strengths_of(kind):
        timesteps, _ = pipeline.get_timesteps(SimpleNamespace(scheduler=theirs), 7, strength, "cpu")
        torch.testing.assert_close(schedule.timesteps, timesteps, atol=0.0, rtol=0.0)
    clean, noise = field(1).float(), field(2).float()
    z = added(theirs, name, kind, clean, noise, timesteps[:1])
    x, history = schedule.noised(0, clean, noise), list[torch.Tensor]()
    torch.testing.assert_close(x, z, atol=1e-6, rtol=1e-6)
    for k, timestep in enumerate(timesteps):
        shown = scaled_input(theirs, z, timestep)
        torch.testing.assert_close(schedule.model_input(k, x), shown, atol=2e-5, rtol=1e-4)
        with AddressedNoise(lambda n, k=k: field(10 * k + n).float()):
            z = theirs.step(torch.tanh(shown) * 0.7, timestep, z, return_dict=False)[0]
        assert len(history) == schedule.fields(k)
        prediction = torch.tanh(schedule.model_input(k, x)) * 0.7
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: field(10 * k + n).float())
        torch.testing.assert_close(x, z, atol=2e-5, rtol=1e-4)
    assert schedule.fields(len(schedule)) == 0


def added(
    theirs, name: str, kind: str, clean: torch.Tensor, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """As the pipelines' `prepare_latents` has it."""
    if (name, kind) == ("sa_solver", "flow_prediction"):  # whose add_noise knows no flow
        sigma = theirs.sigmas[theirs.begin_index]
        return (1 - sigma) * clean + sigma * noise
    if hasattr(theirs, "scale_noise"):
        return theirs.scale_noise(clean, timestep, noise)
    return theirs.add_noise(clean, noise, timestep)


@pytest.mark.parametrize("name", [name for name in (*SHORT_NAMES, *NATIVE_NAMES) if name != "pndm"])
def test_the_first_step_of_a_beginning_knows_no_history(name: str) -> None:
    """And what is begun at 0 is the whole; what is begun twice, begun once."""
    kind = "flow_prediction" if name.startswith("flow") else "epsilon"
    whole = build_schedule(name, config_of(kind), 6)
    once, twice = whole.begin(2 * whole.order), whole.begin(whole.order).begin(whole.order)
    assert once.fields(0) == 0 and len(once) == len(whole) - 2 * whole.order
    torch.testing.assert_close(once.timesteps, whole.timesteps[2 * whole.order :], atol=0.0, rtol=0.0)
    for one, other in ((whole, whole.begin(0)), (once, twice)):
        assert torch.equal(walked(one), walked(other))
    with pytest.raises(ValueError, match="starts from noised latents, not from noise"):
        once.start(field(1))


def walked(schedule: Schedule) -> torch.Tensor:
    x, history = schedule.noised(0, field(1).float(), field(2).float()), list[torch.Tensor]()
    for k in range(len(schedule)):
        prediction = torch.tanh(schedule.model_input(k, x)) * 0.7
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: field(10 * k + n).float())
    return x


def test_where_a_schedule_cannot_begin() -> None:
    with pytest.raises(
        ValueError, match="PNDMScheduler cannot begin at step 2: it takes its first step twice"
    ):
        build_schedule("pndm", {"skip_prk_steps": True}, 6).begin(2)
    for name in ("heun", "dpm_2", "dpm_2_a"):
        with pytest.raises(ValueError, match="cannot begin at evaluation 3, amid a step of 2"):
            build_schedule(name, {}, 6).begin(3)
    for k in (-2, 6):
        with pytest.raises(ValueError, match=f"no step {k} to begin at; its steps are 0 to 5"):
            build_schedule("ddim", {}, 6).begin(k)
    for k in (-2, 3, 12):
        with pytest.raises(
            ValueError, match=f"cannot begin at evaluation {k}; give an even number from 0 to 10"
        ):
            build_schedule("edm_heun", {}, 6).begin(k)


def test_strengths_that_leave_nothing_or_are_none() -> None:
    schedule = build_schedule("ddim", {}, 20)
    with pytest.raises(ValueError, match=r"strength 0\.04 leaves none of 20 steps; give at least 0\.05"):
        from_strength(schedule, 0.04, is_flow=False)
    for strength in (-0.1, 1.1):
        with pytest.raises(ValueError, match="is not a share; give a number from 0 to 1"):
            from_strength(schedule, strength, is_flow=False)
    assert len(from_strength(schedule, 0.05, is_flow=False)) == 1
    assert len(from_strength(build_schedule("edm_heun", {}, 10), 0.4, is_flow=False)) == 7
