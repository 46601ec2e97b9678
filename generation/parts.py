"""A patch's prediction, made of predictions under several conditionings. Knows no region, no cover, no file.

    e(u) = sum_i w_i(u) e_i(u),    e_i = null_i + s (cond_i - null_i),    sum_i w_i(u) = 1

(Bar-Tal et al. 2023, "MultiDiffusion", section 4.2, with masks as weights; Ho & Salimans 2022 for s.) A patch has one
part for each conditioning: of regions, w_i says where they lie; of several prompts for one place, w_i are constants.
Parts whose null is the same share its evaluation.

Evaluations go through the network in batches of one fixed, padded size, in the order of patches and of their parts:

    patches  A, B (two parts), C, D (three parts)       told    A B1 B2 C | D1 D2 D3 D3
    batches of 4                                        untold  A B C D

So where every patch has one part, batches are what they would be if there were no parts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from generation.covers import Patch
from generation.models.contracts import Conditioner, Conditioning, Denoiser
from generation.models.turns import TURNS
from storage.geometry import Box

Subject = TypeVar("Subject")


@dataclass(frozen=True)
class Part:
    """What a patch is told, and how much that counts at each latent.

    weights: (h, w) over the patch's box, or None: one everywhere. null: parts of the same number have the same
    unconditional end.
    """

    conditioner: Conditioner
    weights: NDArray[np.float32] | None = None
    null: int = 0


class Mixture(Protocol):
    """What the patches of a canvas are told, part by part."""

    def parts(self, patch: Patch) -> Sequence[Part]:
        """At least one; their weights sum to one wherever the patch counts."""

    def count(self, patch: Patch) -> tuple[int, int]:
        """How many parts `parts` would give, and how many different nulls they have."""


@dataclass(frozen=True)
class Alike:
    """One part, the same for every patch. Satisfies Mixture."""

    conditioner: Conditioner

    def parts(self, patch: Patch) -> Sequence[Part]:
        del patch
        return (Part(self.conditioner),)

    def count(self, patch: Patch) -> tuple[int, int]:
        del patch
        return 1, 1


@dataclass(frozen=True)
class Ask(Generic[Subject]):
    """A patch to be evaluated. latents: (C, h, w) as the network is shown them. scale: of guidance."""

    subject: Subject
    box: Box
    latents: torch.Tensor
    parts: Sequence[Part]
    scale: float


@dataclass(frozen=True)
class Network:
    """The network at one step. guided: whether the unconditional end is evaluated too."""

    denoiser: Denoiser
    timestep: torch.Tensor
    batch_size: int
    guided: bool
    device: torch.device
    dtype: torch.dtype


class Evaluations(Generic[Subject]):
    """Predictions of patches at one step. told: evaluations of parts so far; batches: those that they took.

    The unconditional end, where there is one, is not counted.
    """

    def __init__(self, network: Network) -> None:
        self.told = self.batches = 0
        self._network = network
        self._queues: dict[bool, list[_Seat]] = {True: [], False: []}

    def of(self, asks: Iterable[Ask[Subject]]) -> Iterator[tuple[Ask[Subject], NDArray[np.float32]]]:
        """(ask, (C, h, w) prediction) of each, in order. Few are under way at once, however many there are."""
        waiting: deque[_Open[Subject]] = deque()
        for ask in asks:
            waiting.append(_Open(ask, self._network.guided))
            for seat in waiting[-1].seats():
                self._take(seat)
            yield from _complete(waiting)
        for conditional in (True, False):
            self._evaluate(conditional)
        yield from _complete(waiting)

    def _take(self, seat: _Seat) -> None:
        queue = self._queues[seat.conditional]
        queue.append(seat)
        if len(queue) == self._network.batch_size:
            self._evaluate(seat.conditional)

    def _evaluate(self, conditional: bool) -> None:
        seats = self._queues[conditional]
        if not seats:
            return
        self._queues[conditional] = []
        for seat, prediction in zip(seats, predicted(self._network, seats), strict=False):
            seat.store[seat.key] = prediction
        if conditional:
            self.told += len(seats)
            self.batches += 1


@dataclass(frozen=True)
class _Seat:
    """A place in a batch, and where its prediction goes."""

    box: Box
    latents: torch.Tensor
    conditioner: Conditioner
    conditional: bool
    key: int
    store: dict[int, torch.Tensor]


@dataclass
class _Open(Generic[Subject]):
    """A patch under way. told: its parts' predictions, by place; untold: those of its nulls, by their numbers.

    nulls: the first conditioner that has each.
    """

    ask: Ask[Subject]
    guided: bool
    told: dict[int, torch.Tensor] = field(default_factory=dict)
    untold: dict[int, torch.Tensor] = field(default_factory=dict)
    nulls: dict[int, Conditioner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.ask.parts if self.guided else ():
            self.nulls.setdefault(part.null, part.conditioner)

    def seats(self) -> Iterator[_Seat]:
        box, latents = self.ask.box, self.ask.latents
        for place, part in enumerate(self.ask.parts):
            yield _Seat(box, latents, part.conditioner, True, place, self.told)
        for null, conditioner in self.nulls.items():
            yield _Seat(box, latents, conditioner, False, null, self.untold)

    def is_complete(self) -> bool:
        return len(self.told) == len(self.ask.parts) and len(self.untold) == len(self.nulls)

    @torch.inference_mode()
    def prediction(self) -> NDArray[np.float32]:
        """(C, h, w), summed in the order of the parts."""
        first, *others = (self._guided(place) for place in range(len(self.ask.parts)))
        return np.asarray(sum(others, first).cpu().numpy())

    def _guided(self, place: int) -> torch.Tensor:
        """One part's term."""
        part, told = self.ask.parts[place], self.told[place]
        if self.guided:  # classifier-free guidance, in diffusers' convention
            untold = self.untold[part.null]
            told = untold + self.ask.scale * (told - untold)
        if part.weights is None:
            return told
        return told * torch.from_numpy(part.weights).to(told.device)


def _complete(waiting: deque[_Open[Subject]]) -> Iterator[tuple[Ask[Subject], NDArray[np.float32]]]:
    """What has all its predictions, from the front."""
    while waiting and waiting[0].is_complete():
        done = waiting.popleft()
        yield done.ask, done.prediction()


# --- one batch -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predicted(network: Network, seats: Sequence[_Seat]) -> torch.Tensor:
    """(batch_size, C, h, w) float32 predictions of up to a batch; the last seat fills what is left of it."""
    with TURNS.together():
        return _predicted(network, [*seats, *[seats[-1]] * (network.batch_size - len(seats))])


def _predicted(network: Network, padded: Sequence[_Seat]) -> torch.Tensor:
    inputs = torch.stack([seat.latents for seat in padded]).to(network.device, network.dtype)
    conditioning = {
        name: value.to(network.device, network.dtype if value.is_floating_point() else value.dtype)
        for name, value in _conditioning(padded).items()
    }
    return network.denoiser.predict(inputs, network.timestep.to(network.device), conditioning).float()


def _conditioning(seats: Sequence[_Seat]) -> Conditioning:
    """What the seats are told, side by side; neighbours of one conditioner are asked for together."""
    told: list[Conditioning] = []
    for _, run in groupby(seats, key=lambda seat: id(seat.conditioner)):
        members = list(run)
        one, boxes = members[0], [seat.box for seat in members]
        ask = one.conditioner.conditional if one.conditional else one.conditioner.unconditional
        told.append(ask(boxes))
    if len(told) == 1:
        return told[0]
    return {name: torch.cat([part[name] for part in told]) for name in told[0]}
