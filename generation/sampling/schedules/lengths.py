"""How long a schedule is and how much it remembers, known without its scheduler. Knows a table; imports no scheduler.

A plan asks for no more than that, and diffusers takes seconds to import. It is known of settings that are usual in
every respect: `remembered` gives None for any other, and then the schedule itself is built and asked.

    fields of x[0] .. x[S], beside x itself
        DDIM, Euler             0  0  0 ...  0  0
        DPM++ 2M                0  1  1 ...  1  0  0      the last step is of first order, as it ends at no noise
        UniPC, of order 2       0  2  3 ...  3  3  0      the sample before, and one prediction, later two
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from generation.sampling.schedules.names import NATIVE_NAMES, resolve

TRAINED_STEPS = 1000
SHARES = ("beta_start", "beta_end", "dynamic_thresholding_ratio")
UNREAD = (
    *("_class_name", "_diffusers_version", "clip_sample", "clip_sample_range", "sample_max_value"),
    *("skip_prk_steps", "set_alpha_to_one"),
)
"""Settings that change no length: of other schedulers, of what is switched off, or of values alone."""
USUAL: Mapping[str, tuple[Any, ...]] = {
    "beta_schedule": ("linear", "scaled_linear", "squaredcos_cap_v2"),
    "num_train_timesteps": (TRAINED_STEPS,),
    "trained_betas": (None,),
    "prediction_type": ("epsilon", "v_prediction", "sample"),
    "timestep_spacing": ("leading", "trailing", "linspace"),
    "steps_offset": (0, 1),
    "final_sigmas_type": ("zero",),
    "interpolation_type": ("linear",),
    "timestep_type": ("discrete",),
    "flow_shift": (1.0,),
    "time_shift_type": ("exponential",),
    **dict.fromkeys(("variance_type", "shift_terminal", "sigma_max", "sigma_min"), (None,)),
    **dict.fromkeys(
        (
            *("thresholding", "rescale_betas_zero_snr", "use_karras_sigmas", "use_exponential_sigmas"),
            *("use_beta_sigmas", "use_flow_sigmas", "use_lu_lambdas", "use_dynamic_shifting"),
        ),
        (False,),
    ),
}
"""Values that a setting may have with every scheduler of FIELDS; all others are for the scheduler itself to judge."""
MULTISTEP: Mapping[str, tuple[Any, ...]] = {
    "lower_order_final": (True,),
    "euler_at_final": (False,),
    "lambda_min_clipped": (float("-inf"),),
    "solver_p": (None,),
    "disable_corrector": ([],),
    "predict_x0": (True,),
}
SOLVERS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "DPMSolverMultistepScheduler": {
        **MULTISTEP,
        "algorithm_type": ("dpmsolver++",),
        "solver_type": ("midpoint", "heun"),
        "solver_order": (1, 2),
    },
    "UniPCMultistepScheduler": {**MULTISTEP, "solver_type": ("bh1", "bh2"), "solver_order": (2,)},
}
"""Those that only such solvers read; the others leave them aside."""


def _nothing(steps: int, order: int) -> tuple[int, ...]:
    del order
    return (0,) * (steps + 1)


def _one_prediction(steps: int, order: int) -> tuple[int, ...]:
    middle = [order - 1] * (steps - 2)
    return (0, *middle, *[0] * min(steps, 2))


def _sample_and_predictions(steps: int, order: int) -> tuple[int, ...]:
    first = [order][: steps - 1]
    return (0, *first, *[order + 1] * (steps - 2), 0)


FIELDS: Mapping[str, Callable[[int, int], tuple[int, ...]]] = {
    "DDIMScheduler": _nothing,
    "EulerDiscreteScheduler": _nothing,
    "DPMSolverMultistepScheduler": _one_prediction,
    "UniPCMultistepScheduler": _sample_and_predictions,
}
"""Class -> the fields by the number of steps and the solver's order."""


def remembered(name: str, config: Mapping[str, Any], steps: int) -> tuple[int, ...] | None:
    """fields(k) for k = 0 .. S of the schedule of these arguments, as `build_schedule` takes them; None if not known.

    name: of a scheduler, which exists. config: the model's scheduler configuration.
    """
    if name in NATIVE_NAMES:
        return None
    class_name, overrides = resolve(name)
    if class_name not in FIELDS or not 1 <= steps <= TRAINED_STEPS:
        return None
    settings = {**config, **overrides}
    if not all(_is_usual(class_name, *setting) for setting in settings.items()):
        return None
    return FIELDS[class_name](steps, settings.get("solver_order", 2))


def _is_usual(class_name: str, setting: str, value: Any) -> bool:
    if setting in SHARES:
        return isinstance(value, float) and 0 < value < 1
    own = SOLVERS.get(class_name)
    if setting in UNREAD or (own is None and any(setting in others for others in SOLVERS.values())):
        return True
    usual = {**USUAL, **(own or {})}.get(setting, ())
    return any(value == one and type(value) is type(one) for one in usual)
