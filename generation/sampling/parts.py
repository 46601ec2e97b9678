"""A patch's prediction, made of predictions under several conditionings. Knows no region, no cover, no file.

    e(u) = sum_i w_i(u) e_i(u),    e_i = null_i + s (cond_i - null_i),    sum_i w_i(u) = 1

(Bar-Tal et al. 2023, "MultiDiffusion", section 4.2, with masks as weights; Ho & Salimans 2022 for s.) A patch has one
part for each conditioning: of regions, w_i says where they lie; of several prompts for one place, w_i are constants.
Parts whose null is the same share its evaluation.

Evaluations go through the network in the order of cells, of their patches and of the patches' parts. Each is given the
size of its batch by its cell (generation/sampling/batching.py), and batches hold patches of one shape:

    a cell of A, B (two parts), C (two parts)      conditional    A B1 B2 C1 | C2      batches of 4 at most
                                                   unconditional  A B | C
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from generation.models.contracts import Conditioner, Conditioning, Denoiser
from generation.models.turns import LOADING
from generation.sampling.batching import Batching
from generation.sampling.covers import Patch
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
    """What the patches of a canvas are told at each step, part by part."""

    def parts(self, step: int, patch: Patch) -> Sequence[Part]:
        """At least one; their weights sum to one wherever the patch counts."""

    def count(self, step: int, patch: Patch) -> tuple[int, int]:
        """How many parts `parts` would give, and how many different nulls they have."""


@dataclass(frozen=True)
class OnePrompt:
    """One part, the same for every patch. Satisfies Mixture."""

    conditioner: Conditioner

    def parts(self, step: int, patch: Patch) -> Sequence[Part]:
        del step, patch
        return (Part(self.conditioner),)

    def count(self, step: int, patch: Patch) -> tuple[int, int]:
        del step, patch
        return 1, 1


@dataclass(frozen=True)
class PatchQuery(Generic[Subject]):
    """A patch to be evaluated. latents: (C, h, w) as the network is shown them. scale: of guidance."""

    subject: Subject
    box: Box
    latents: torch.Tensor
    parts: Sequence[Part]
    scale: float


@dataclass(frozen=True)
class Cell(Generic[Subject]):
    """The patches of one cell of a canvas, which fill batches together, and how they do."""

    queries: Sequence[PatchQuery[Subject]]
    batching: Batching


@dataclass(frozen=True)
class Network:
    """The network at one step. guided: whether the unconditional end is evaluated too."""

    denoiser: Denoiser
    timestep: torch.Tensor
    guided: bool
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class BatchEntry:
    """What one evaluation is shown and told, and where its prediction goes."""

    box: Box
    latents: torch.Tensor
    conditioner: Conditioner
    conditional: bool
    key: int
    store: dict[int, torch.Tensor]


Batch: TypeAlias = tuple[bool, tuple[int, ...], int]
"""Conditional or not, the shape of the latents, how many a batch holds: what goes through the network together."""


class Evaluations(Generic[Subject]):
    """Predictions of patches at one step.

    conditional: evaluations of parts so far; batches: those that they took. seats: places in batches of both ends of
    guidance, with those that padding filled.
    """

    def __init__(self, network: Network) -> None:
        self.conditional = self.batches = self.seats = 0
        self._network = network
        self._queues: dict[Batch, list[BatchEntry]] = defaultdict(list)

    def of(self, cells: Iterable[Cell[Subject]]) -> Iterator[tuple[PatchQuery[Subject], NDArray[np.float32]]]:
        """(query, (C, h, w) prediction) of each, in order. Few cells are under way at once, however many there are."""
        waiting: deque[_Open[Subject]] = deque()
        for cell in cells:
            begun = [_Open(query, self._network.guided) for query in cell.queries]
            waiting += begun
            self._take([entry for each in begun for entry in each.entries()], cell.batching)
            yield from _complete(waiting)
        for batch in list(self._queues):
            self._evaluate(batch)
        yield from _complete(waiting)

    def _take(self, entries: Sequence[BatchEntry], batching: Batching) -> None:
        """The entries of a cell. Those that are alike but for their batch's size are counted together."""
        alike: dict[tuple[bool, tuple[int, ...]], list[BatchEntry]] = defaultdict(list)
        for entry in entries:
            alike[entry.conditional, tuple(entry.latents.shape)].append(entry)
        for (conditional, shape), members in alike.items():
            for entry, size in zip(members, batching.sizes(len(members)), strict=True):
                batch = conditional, shape, size
                self._queues[batch].append(entry)
                if len(self._queues[batch]) == size:
                    self._evaluate(batch)

    def _evaluate(self, batch: Batch) -> None:
        entries, (conditional, _, size) = self._queues.pop(batch), batch
        for entry, prediction in zip(entries, predicted(self._network, entries, size), strict=False):
            entry.store[entry.key] = prediction
        self.seats += size
        if conditional:
            self.conditional += len(entries)
            self.batches += 1


@dataclass
class _Open(Generic[Subject]):
    """A patch under way. conditional: its parts' predictions, by place; unconditional: those of its nulls, by number.

    nulls: the first conditioner that has each.
    """

    query: PatchQuery[Subject]
    guided: bool
    conditional: dict[int, torch.Tensor] = field(default_factory=dict)
    unconditional: dict[int, torch.Tensor] = field(default_factory=dict)
    nulls: dict[int, Conditioner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in self.query.parts if self.guided else ():
            self.nulls.setdefault(part.null, part.conditioner)

    def entries(self) -> Iterator[BatchEntry]:
        box, latents = self.query.box, self.query.latents
        for place, part in enumerate(self.query.parts):
            yield BatchEntry(box, latents, part.conditioner, True, place, self.conditional)
        for null, conditioner in self.nulls.items():
            yield BatchEntry(box, latents, conditioner, False, null, self.unconditional)

    def is_complete(self) -> bool:
        return len(self.conditional) == len(self.query.parts) and len(self.unconditional) == len(self.nulls)

    @torch.inference_mode()
    def prediction(self) -> NDArray[np.float32]:
        """(C, h, w), summed in the order of the parts."""
        first, *others = (self._guided(place) for place in range(len(self.query.parts)))
        return np.asarray(sum(others, first).cpu().numpy())

    def _guided(self, place: int) -> torch.Tensor:
        """One part's term."""
        part, prediction = self.query.parts[place], self.conditional[place]
        if self.guided:  # classifier-free guidance, in diffusers' convention
            null = self.unconditional[part.null]
            prediction = null + self.query.scale * (prediction - null)
        if part.weights is None:
            return prediction
        return prediction * torch.from_numpy(part.weights).to(prediction.device)


def _complete(
    waiting: deque[_Open[Subject]],
) -> Iterator[tuple[PatchQuery[Subject], NDArray[np.float32]]]:
    """What has all its predictions, from the front."""
    while waiting and waiting[0].is_complete():
        done = waiting.popleft()
        yield done.query, done.prediction()


# --- one batch -------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def predicted(network: Network, entries: Sequence[BatchEntry], size: int) -> torch.Tensor:
    """(size, C, h, w) float32 predictions of up to so many entries; the last entry fills what is left of the batch."""
    with LOADING.together():
        return _predicted(network, [*entries, *[entries[-1]] * (size - len(entries))])


def _predicted(network: Network, padded: Sequence[BatchEntry]) -> torch.Tensor:
    inputs = torch.stack([entry.latents for entry in padded]).to(network.device, network.dtype)
    conditioning = {
        name: value.to(network.device, network.dtype if value.is_floating_point() else value.dtype)
        for name, value in _conditioning(padded).items()
    }
    return network.denoiser.predict(inputs, network.timestep.to(network.device), conditioning).float()


def _conditioning(entries: Sequence[BatchEntry]) -> Conditioning:
    """What the entries are told, side by side; neighbours of one conditioner are asked for together."""
    told: list[Conditioning] = []
    for _, run in groupby(entries, key=lambda entry: id(entry.conditioner)):
        members = list(run)
        one, boxes = members[0], [member.box for member in members]
        ask = one.conditioner.conditional if one.conditional else one.conditioner.unconditional
        told.append(ask(boxes))
    if len(told) == 1:
        return told[0]
    return {name: torch.cat([part[name] for part in told]) for name in told[0]}
