"""Every scheduler, taken step by step from fields, against diffusers' own loop; and on parts of the sample."""

import numpy as np
import pytest
import torch

from generation.models.loading import describe
from generation.sampling.schedules.addressed_noise import AddressedNoise
from generation.sampling.schedules.building import build_schedule
from generation.sampling.schedules.names import NATIVE_NAMES, SHORT_NAMES
from generation.sampling.schedules.solvers import build, scaled_input

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def config_of(name: str) -> dict[str, object]:
    return dict(FLOW) if name.startswith("flow") else {}


def stub(x: torch.Tensor) -> torch.Tensor:
    """A pointwise 'network'."""
    return torch.tanh(x) * 0.7


def field(seed: int, index: int, shape: tuple[int, ...]) -> torch.Tensor:
    values = np.random.default_rng([seed, index]).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(values)


@pytest.mark.parametrize("name", SHORT_NAMES)
def test_a_schedule_equals_diffusers_own_loop(name: str) -> None:
    shape = (4, 7, 9)
    schedule = build_schedule(name, config_of(name), 7)
    theirs = build(name, config_of(name))
    theirs.set_timesteps(7)
    assert len(schedule) == len(theirs.timesteps)
    x = schedule.start(field(1, 0, shape))
    z = x[None].clone()
    history: list[torch.Tensor] = []
    for k, timestep in enumerate(theirs.timesteps):
        shown = scaled_input(theirs, z, timestep)
        assert torch.allclose(shown[0], schedule.model_input(k, x), atol=1e-5)
        with AddressedNoise(lambda n, k=k: field(k, 1 + n, shape)[None]):
            z = theirs.step(stub(shown), timestep, z, return_dict=False)[0]
        prediction = stub(schedule.model_input(k, x))
        assert len(history) == schedule.fields(k)
        x, history = schedule.step(k, x, history, prediction, lambda n, k=k: field(k, 1 + n, shape))
        assert torch.allclose(x, z[0], atol=2e-5, rtol=1e-4), k
    assert schedule.fields(len(schedule)) == 0


@pytest.mark.parametrize("name", [*SHORT_NAMES, *NATIVE_NAMES])
def test_a_part_of_the_sample_takes_the_same_steps_bit_for_bit(name: str) -> None:
    """Odd sizes and offsets, so that vector remainders would show."""
    schedule = build_schedule(name, config_of(name), 6)
    shape, part = (3, 11, 13), (slice(None), slice(2, 9), slice(5, 12))

    def run(where: tuple[slice, ...]) -> torch.Tensor:
        x = schedule.start(field(9, 0, shape))[where].contiguous()
        history: list[torch.Tensor] = []
        for k in range(len(schedule)):
            prediction = (field(k, 99, shape) * 0.5)[where].contiguous()
            x, history = schedule.step(
                k, x, history, prediction, lambda n, k=k: field(k, n, shape)[where].contiguous()
            )
        return x

    whole = run((slice(None), slice(None), slice(None)))
    assert torch.equal(run(part), whole[part])


@pytest.mark.parametrize("name", [*SHORT_NAMES, *NATIVE_NAMES])
def test_a_step_leaves_what_it_was_given_as_it_was(name: str) -> None:
    """Fields that need no padding are handed to the scheduler as they are; some schedulers add to theirs in place."""
    schedule = build_schedule(name, config_of(name), 6)
    x, history = schedule.start(field(5, 0, (2, 8, 8))), list[torch.Tensor]()
    for k in range(len(schedule)):
        given = [x, *history, field(k, 99, (2, 8, 8)) * 0.5]
        before = [each.clone() for each in given]
        schedule.model_input(k, x)
        stepped = schedule.step(k, x, history, given[-1], lambda n, k=k: field(k, n, (2, 8, 8)))
        assert all(map(torch.equal, given, before)), k
        x, history = stepped


def test_history_that_no_later_step_reads_is_not_kept() -> None:
    assert [build_schedule("dpmpp_2m", {}, 5).fields(k) for k in range(6)] == [0, 1, 1, 1, 0, 0]
    assert [build_schedule("ddim", {}, 3).fields(k) for k in range(4)] == [0, 0, 0, 0]


def test_unknown_and_unsuitable_schedulers_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'eulr'; did you mean euler[?] There are ddim"):
        build_schedule("eulr", {}, 5)
    with pytest.raises(ValueError, match="needs a flow-matching model"):
        build_schedule("flow_euler", {}, 5)
    with pytest.raises(ValueError, match="cannot integrate a flow-matching model"):
        build_schedule("ddim", FLOW, 5)
    with pytest.raises(ValueError, match="with use_karras_sigmas cannot integrate a flow-matching model"):
        build_schedule("dpmpp_2m_karras", FLOW, 5)
    with pytest.raises(ValueError, match="thresholding"):
        build_schedule("ddim", {"thresholding": True}, 5)


def test_a_solver_written_for_diffusion_integrates_a_flow() -> None:
    schedule = build_schedule("dpmpp_2m", FLOW, 8)
    target = field(3, 3, (1, 8, 8))
    noise = field(4, 4, (1, 8, 8))
    x, history = schedule.start(noise), []
    for k in range(len(schedule)):
        x, history = schedule.step(k, x, history, noise - target, lambda n: noise)
    assert torch.allclose(x, target, atol=5e-3), (
        "a straight flow ends at its end, but for the last sigma of 1e-3"
    )


@pytest.mark.parametrize("name", ["ddim", "ddpm", "lcm"])
def test_latents_beyond_one_are_not_clipped_unless_the_model_asks(name: str) -> None:
    clean = torch.full((1, 8, 8), 3.0)
    for asked, reached in ((None, 3.0), (True, 1.0)):
        config = {"prediction_type": "sample", "thresholding": False}
        schedule = build_schedule(name, config if asked is None else config | {"clip_sample": asked}, 4)
        x, _ = schedule.step(3, clean * 0, [], clean, lambda n: torch.zeros(64))
        assert float(x.max()) == pytest.approx(reached, rel=0.05)


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("pndm", 3, "PNDMScheduler takes 4 steps or more, not 3"),
        (
            "euler_a",
            3,
            "EulerAncestralDiscreteScheduler leads to no numbers in 3 evaluations at this model's",
        ),
        (
            "dpm_2_a",
            2,
            "KDPM2AncestralDiscreteScheduler leads to no numbers in 3 evaluations at this model's",
        ),
    ],
)
def test_too_few_steps_are_refused_before_anything_runs(name: str, steps: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_schedule(name, describe("embedded").scheduler_config, steps)
