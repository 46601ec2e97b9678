"""diffusers' schedulers as pure functions of fields. Knows schedulers; knows no canvas, no network, no storage.

A diffusers scheduler is an object with memory. Seen from a latent, that memory is of two kinds: *scalars* (step
index, solver order, ...), which depend on the step alone, and *fields* with the sample's shape (`model_outputs`,
`ets`, `last_sample`, ...), which are pointwise. So step k of any block can be taken by a scheduler whose scalars
come from a dry run of k steps on a tiny sample and whose fields come from storage:

    x[k+1], history[k+1] = step(k, x[k], history[k], fused prediction, noise)

Fields that no later step reads are found by poisoning the dry run with NaN, and are not kept. Steps are taken in
float32 on the CPU, on flat vectors padded to a multiple of 64, so that vectorised and scalar remainders of the
arithmetic cannot make a latent's bits depend on where a block's border lies.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import diffusers
import torch
from torch.overrides import TorchFunctionMode

from generation.models.turns import TURNS

Draw = Callable[[int], torch.Tensor]
"""The n-th standard normal field that one step asks for, flat, as long as the sample."""

Path = tuple[str, int]
"""Where a field lives in a scheduler: attribute, and index where the attribute is a list (else -1)."""

_PAD = 64
_LOOKAHEAD = 16
_FLOW = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler")

SHORT_NAMES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddim": ("DDIMScheduler", {}),
    "ddpm": ("DDPMScheduler", {}),
    "pndm": ("PNDMScheduler", {}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_a": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "dpm_2": ("KDPM2DiscreteScheduler", {}),
    "dpm_2_a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpmpp_2m_karras": (
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "use_karras_sigmas": True},
    ),
    "dpmpp_2m_sde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpmpp_2s": ("DPMSolverSinglestepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "lcm": ("LCMScheduler", {}),
    "tcd": ("TCDScheduler", {}),
    "sa_solver": ("SASolverScheduler", {}),
    "edm_euler": ("EDMEulerScheduler", {}),
    "edm_dpmpp_2m": ("EDMDPMSolverMultistepScheduler", {}),
    "flow_euler": ("FlowMatchEulerDiscreteScheduler", {}),
}
NO_CLIPPING = {"clip_sample": False}
"""Unless the model asks for it: diffusers' default, to clip x0 to [-1, 1], is for pixels; latents reach further."""

CLASS_NAMES = tuple(sorted({name for name, _ in SHORT_NAMES.values()}))


def resolve(name: str) -> tuple[str, dict[str, Any]]:
    """Class name and overrides of a scheduler by either of its names. Raises ValueError for others."""
    if name in SHORT_NAMES:
        return SHORT_NAMES[name]
    if name in CLASS_NAMES:
        return name, {}
    raise ValueError(
        f"unknown scheduler {name!r}; choose one of {', '.join(SHORT_NAMES)} or a class name of them"
    )


def takes_eta(name: str) -> bool:
    """Whether a scheduler, by either of its names, has noise that eta scales."""
    return "eta" in inspect.signature(getattr(diffusers, resolve(name)[0]).step).parameters


def own_eta(name: str) -> float | None:
    """The eta that a scheduler takes by itself, by either of its names; None where it takes none."""
    given = inspect.signature(getattr(diffusers, resolve(name)[0]).step).parameters.get("eta")
    return None if given is None else float(given.default)


def takes(name: str, setting: str, config: Mapping[str, Any]) -> bool:
    """Whether a setting of noise means something to a scheduler, by either of its names, of a model's configuration."""
    class_name = resolve(name)[0]
    accepted = inspect.signature(getattr(diffusers, class_name).__init__).parameters
    return setting in accepted and not _is_flow(config)


@dataclass(frozen=True)
class Snapshot:
    """A scheduler after some steps of the dry run, and the groups of paths that hold each field worth keeping."""

    scheduler: Any
    kept: tuple[tuple[Path, ...], ...]
    dropped: tuple[Path, ...]


class Schedule:
    """All steps of one scheduler.

    name: short or class name. config: the model's own scheduler configuration. num_inference_steps: as in
    diffusers; some schedulers take more than one evaluation a step, so `len(schedule)` may be larger.
    eta: as in DDIM and TCD; None is the scheduler's own default. mu, linear_sigmas: what a flow model's pipeline
    passes to `set_timesteps` (the shift for the native patch; sigmas from 1 to 1/n).
    """

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        num_inference_steps: int,
        eta: float | None = None,
        mu: float | None = None,
        linear_sigmas: bool = False,
    ) -> None:
        self._eta = eta
        with TURNS.together():
            scheduler = _build(name, config)
            _set_timesteps(scheduler, num_inference_steps, mu, linear_sigmas)
        self.timesteps: torch.Tensor = scheduler.timesteps
        self.init_noise_sigma = float(getattr(scheduler, "init_noise_sigma", 1.0))
        self._snapshots = self._dry_run(scheduler)

    def __len__(self) -> int:
        """Evaluations of the network for each latent."""
        return len(self.timesteps)

    def fields(self, k: int) -> int:
        """How many history fields are kept beside x after k steps."""
        return len(self._snapshots[k].kept)

    def start(self, noise: torch.Tensor) -> torch.Tensor:
        """x[0] of standard normal noise."""
        return noise * self.init_noise_sigma

    def model_input(self, k: int, x: torch.Tensor) -> torch.Tensor:
        """What the network is shown of x[k]: same shape, pointwise."""
        flat = _flatten(x)
        with TURNS.together():
            scaled = _scale_model_input(_copied(self._snapshots[k].scheduler), flat, self.timesteps[k])
        return _unflatten(scaled, x)

    def step(
        self, k: int, x: torch.Tensor, history: Sequence[torch.Tensor], prediction: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """x[k] and its history, the fused prediction at x[k] -> x[k+1] and its history; all of x's shape, float32."""
        snapshot = self._snapshots[k]
        scheduler = _copied(snapshot.scheduler)
        flat = _flatten(x)
        for path in snapshot.dropped:
            _put(scheduler, path, torch.zeros_like(flat))
        for paths, field in zip(snapshot.kept, history, strict=True):
            loaded = _flatten(field).clone()
            for path in paths:
                _put(scheduler, path, loaded)
        stepped = self._advance(scheduler, k, flat, _flatten(prediction), lambda n: _flatten(draw(n)))
        kept = [_unflatten(_get(scheduler, paths[0]), x) for paths in self._snapshots[k + 1].kept]
        return _unflatten(stepped, x), kept

    def clean(self, k: int, x: torch.Tensor, prediction: torch.Tensor) -> torch.Tensor:
        """The clean latents that the prediction at x[k] implies, not clipped; pointwise, x's shape."""
        scheduler = self._snapshots[k].scheduler
        if hasattr(scheduler, "precondition_outputs"):  # Karras et al. 2022, equation 7
            denoised: torch.Tensor = scheduler.precondition_outputs(x, prediction, scheduler.sigmas[k])
            return denoised
        kind = scheduler.config.get("prediction_type", "flow_prediction")
        return _clean(kind, *_levels(scheduler, k, self.timesteps[k]), x, prediction)

    def _advance(
        self, scheduler: Any, k: int, x: torch.Tensor, prediction: torch.Tensor, draw: Draw
    ) -> torch.Tensor:
        timestep = self.timesteps[k]
        _scale_model_input(scheduler, x, timestep)
        takes_eta = self._eta is not None and "eta" in inspect.signature(scheduler.step).parameters
        extra = {"eta": self._eta} if takes_eta else {}
        with TURNS.together(), AddressedNoise(draw):
            result: torch.Tensor = scheduler.step(prediction, timestep, x, return_dict=False, **extra)[0]
        return result

    def _dry_run(self, scheduler: Any) -> list[Snapshot]:
        """States before every step and after the last, on a sample of one padded row."""
        states = [_copied(scheduler)]
        probe = torch.linspace(0.1, 0.9, _PAD).reshape(1, 1, 1, _PAD)
        for k in range(len(self.timesteps)):
            following = _copied(states[-1])
            probe = self._advance(
                following, k, probe, probe * 0.5, lambda n: torch.full((1, 1, 1, _PAD), 0.3)
            )
            states.append(following)
        return [self._snapshot(state, k) for k, state in enumerate(states)]

    def _snapshot(self, scheduler: Any, k: int) -> Snapshot:
        groups: dict[int, list[Path]] = {}
        for path in _field_paths(scheduler):
            groups.setdefault(id(_get(scheduler, path)), []).append(path)
        alive = {key for key, paths in groups.items() if self._is_read(scheduler, k, paths)}
        kept = tuple(tuple(paths) for key, paths in groups.items() if key in alive)
        dropped = tuple(path for key, paths in groups.items() if key not in alive for path in paths)
        return Snapshot(scheduler, kept, dropped)

    def _is_read(self, scheduler: Any, k: int, paths: Sequence[Path]) -> bool:
        """Whether NaN in a field reaches x within the longest memory that a solver has."""
        poisoned = _copied(scheduler)
        x = torch.ones(1, 1, 1, _PAD)
        for path in paths:
            _put(poisoned, path, torch.full_like(x, torch.nan))
        for later in range(k, min(k + _LOOKAHEAD, len(self.timesteps))):
            x = self._advance(poisoned, later, x, torch.ones_like(x), lambda n: torch.ones(1, 1, 1, _PAD))
            if bool(torch.isnan(x).any()):
                return True
        return False


def _build(name: str, config: Mapping[str, Any]) -> Any:
    class_name, overrides = resolve(name)
    scheduler_class = getattr(diffusers, class_name)
    settings = NO_CLIPPING | dict(config) | _flow_overrides(class_name, scheduler_class, config) | overrides
    accepted = inspect.signature(scheduler_class.__init__).parameters
    settings = {key: value for key, value in settings.items() if key in accepted}
    scheduler = scheduler_class.from_config(settings)
    _refuse_what_is_not_pointwise(scheduler, class_name)
    return scheduler


def _is_flow(config: Mapping[str, Any]) -> bool:
    """Whether a model's configuration is that of a flow."""
    return str(config.get("_class_name", "")) in _FLOW or config.get("prediction_type") == "flow_prediction"


def _flow_overrides(class_name: str, scheduler_class: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that let a solver written for diffusion integrate a flow; an error where it cannot."""
    model_flows = _is_flow(config)
    if model_flows == (class_name in _FLOW):
        return {}
    if not model_flows:
        raise ValueError(
            f"scheduler {class_name} needs a flow-matching model; this model predicts noise, choose another"
        )
    if "use_flow_sigmas" not in inspect.signature(scheduler_class.__init__).parameters:
        raise ValueError(
            f"scheduler {class_name} cannot integrate a flow-matching model; choose flow_euler or dpmpp_2m"
        )
    shift = float(config.get("shift", 1.0))
    return {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": shift}


def _refuse_what_is_not_pointwise(scheduler: Any, class_name: str) -> None:
    config = scheduler.config
    if config.get("thresholding"):
        raise ValueError(
            f"{class_name} with thresholding looks at the whole sample; set thresholding to false"
        )
    if "learned" in str(config.get("variance_type", "")):
        raise ValueError(f"{class_name} with a learned variance is not supported; choose another scheduler")
    if config.get("stochastic_sampling"):
        raise ValueError(f"{class_name} with stochastic_sampling is not supported; set it to false")


def _set_timesteps(scheduler: Any, steps: int, mu: float | None, linear_sigmas: bool) -> None:
    takes = inspect.signature(scheduler.set_timesteps).parameters
    shift = {"mu": mu} if mu is not None and "mu" in takes else {}
    if linear_sigmas and "sigmas" in takes and not scheduler.config.get("use_flow_sigmas"):
        scheduler.set_timesteps(sigmas=[1 - index / steps for index in range(steps)], **shift)
    else:
        scheduler.set_timesteps(steps, **shift)


def _scale_model_input(scheduler: Any, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    """diffusers' method of that name, which flow schedulers do without."""
    if not hasattr(scheduler, "scale_model_input"):
        return x
    scaled: torch.Tensor = scheduler.scale_model_input(x, timestep)
    return scaled


def _levels(scheduler: Any, k: int, timestep: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(a, s) of x[k] = a clean + s noise, in the scheduler's own convention."""
    if hasattr(scheduler, "alphas_cumprod") and not hasattr(scheduler, "sigmas"):  # DDIM and its like
        variance = scheduler.alphas_cumprod[int(timestep)]
        return variance**0.5, (1 - variance) ** 0.5
    if hasattr(scheduler, "_sigma_to_alpha_sigma_t"):  # solvers whose samples keep their variance, or flow
        signal, noise = scheduler._sigma_to_alpha_sigma_t(scheduler.sigmas[k])
        return signal, noise
    if type(scheduler).__name__ in _FLOW:
        return 1 - scheduler.sigmas[k], scheduler.sigmas[k]
    return torch.tensor(1.0), _karras_sigma(scheduler, k)


def _karras_sigma(scheduler: Any, k: int) -> torch.Tensor:
    """The noise level of x[k] where its signal is not scaled; the KDPM2 pair evaluates half way between two levels."""
    half_way = hasattr(scheduler, "sigmas_interpol") and not scheduler.state_in_first_order
    index = k - 1 if type(scheduler).__name__ == "KDPM2AncestralDiscreteScheduler" else k
    sigma: torch.Tensor = scheduler.sigmas_interpol[index] if half_way else scheduler.sigmas[k]
    return sigma


def _clean(
    kind: str, a: torch.Tensor, s: torch.Tensor, x: torch.Tensor, prediction: torch.Tensor
) -> torch.Tensor:
    """Solve x = a clean + s noise for the clean latents, with the noise, or a mixture of both, as predicted.

    epsilon   noise                      Ho et al. 2020, equation 15
    v         (a noise - s clean) / r    Salimans & Ho 2022, appendix D, where r^2 = a^2 + s^2 is 1
    flow      noise - clean              Lipman et al. 2023, with a = 1 - s
    """
    if kind == "epsilon":
        return (x - s * prediction) / a
    if kind == "v_prediction":
        r = (a**2 + s**2) ** 0.5
        return (a * x / r - s * prediction) / r
    if kind == "flow_prediction":
        return x - s * prediction
    if kind in ("sample", "original_sample"):
        return prediction
    raise ValueError(f"a prediction of type {kind!r} is not understood; epsilon, v_prediction and sample are")


def _flatten(x: torch.Tensor) -> torch.Tensor:
    """Any tensor -> (1, 1, 1, n), zero-padded to a multiple of 64; a view of it where nothing is padded."""
    flat = x.reshape(1, 1, 1, -1)
    missing = -flat.shape[-1] % _PAD
    return torch.nn.functional.pad(flat, (0, missing)) if missing else flat


def _unflatten(flat: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return flat.reshape(-1)[: like.numel()].reshape(like.shape).to(torch.float32)


def _copied(scheduler: Any) -> Any:
    """A scheduler whose attributes, lists and fields can be changed without touching the original.

    Fields are cloned because PNDM adds to one in place; what is one tensor stays one tensor.
    """
    twin = copy.copy(scheduler)
    for name, value in vars(twin).items():
        if isinstance(value, list):
            setattr(twin, name, list(value))
    clones: dict[int, torch.Tensor] = {}
    for path in list(_field_paths(twin)):
        field = _get(twin, path)
        _put(twin, path, clones.setdefault(id(field), field.clone()))
    return twin


def _field_paths(scheduler: Any) -> Iterator[Path]:
    for name, value in sorted(vars(scheduler).items()):
        for index, item in enumerate(value) if isinstance(value, list) else [(-1, value)]:
            if isinstance(item, torch.Tensor) and item.shape == (1, 1, 1, _PAD):
                yield name, index


def _get(scheduler: Any, path: Path) -> torch.Tensor:
    name, index = path
    value = getattr(scheduler, name)
    tensor: torch.Tensor = value if index < 0 else value[index]
    return tensor


def _put(scheduler: Any, path: Path, field: torch.Tensor) -> None:
    name, index = path
    if index < 0:
        setattr(scheduler, name, field)
    else:
        getattr(scheduler, name)[index] = field


class AddressedNoise(TorchFunctionMode):
    """While a step runs in this thread, `torch.randn` hands out our addressed noise instead.

    diffusers' schedulers draw through it (`randn_tensor`). A mode of PyTorch is a thread's own: no module is changed,
    so other threads draw what they draw.
    """

    def __init__(self, draw: Draw) -> None:
        super().__init__()
        self._draw = draw
        self._numbers = count()

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        del types
        return self._draw(next(self._numbers)) if func is torch.randn else func(*args, **(kwargs or {}))
