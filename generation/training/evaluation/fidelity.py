"""Whether samples show the class they were asked for: a small classifier of real crops is asked. Knows no denoiser.

    crops of one class (70 % of their blocks and more)  ->  classifier  ->  accuracy on held-out crops, on samples

Accuracies are means over classes, so that common classes count no more than rare ones.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from generation.training.crops import MARGIN, NO_CLASS, Crop, CropSource
from generation.training.latents import to_unit

LOG = logging.getLogger(__name__)
PURE = 0.7
SEEN = 64
WIDTHS = (24, 48, 96)


@dataclass(frozen=True)
class Effort:
    """How many crops are looked through for the classifier's training and for its test, and how long it learns."""

    crops: int = 6000
    tests: int = 2000
    steps: int = 1200
    batch: int = 48


QUICK = Effort(crops=1500, tests=500, steps=300)


@dataclass(frozen=True)
class Labelled:
    """Pictures (N, 3, 64, 64) in [-1, 1] of one class each."""

    pictures: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Fidelity:
    """Mean accuracies over classes, and that of samples by class."""

    held_out: float
    samples: float
    by_class: Mapping[str, float]


def label_of(crop: Crop) -> int:
    """The class of most of a crop's blocks, or NO_CLASS."""
    if crop.classes is None:
        return NO_CLASS
    inside = crop.classes[MARGIN:-MARGIN, MARGIN:-MARGIN]
    ids, counts = np.unique(inside, return_counts=True)
    return int(ids[counts.argmax()]) if counts.max() >= PURE * inside.size else NO_CLASS


def seen(pictures: Tensor) -> Tensor:
    """What the classifier looks at: 64 x 64 pixels."""
    return functional.adaptive_avg_pool2d(pictures.clamp(-1, 1), SEEN)


def labelled(source: CropSource, number: int, side: int, seed: int) -> Labelled:
    """The crops of one class among `number` crops of side x side latents."""
    random, pictures, labels = np.random.default_rng(seed), [], []
    for _ in range(number):
        crop = source.draw(random, side, side)
        label = label_of(crop)
        if label < len(source.classes):
            pictures.append(seen(to_unit([crop.pixels])))
            labels.append(label)
    if not pictures:
        raise ValueError(
            "no crop is of one class: class maps with larger regions are needed to judge classes"
        )
    return Labelled(torch.cat(pictures), torch.tensor(labels))


def build_classifier(classes: int) -> nn.Module:
    """Three strided convolutions, a mean over space, a linear layer."""
    layers: list[nn.Module] = []
    for inputs, outputs in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True):
        layers += [nn.Conv2d(inputs, outputs, 5, 2, padding=2), nn.GroupNorm(8, outputs), nn.SiLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes))


def fit_classifier(data: Labelled, classes: int, effort: Effort) -> nn.Module:
    """A classifier; every class that occurs is drawn as often as the others."""
    torch.manual_seed(1)
    random = np.random.default_rng(1)
    network = build_classifier(classes)
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, effort.steps)
    places = [np.flatnonzero(data.labels.numpy() == index) for index in range(classes)]
    places = [place for place in places if len(place)]
    for _ in range(effort.steps):
        rows = [int(random.choice(places[int(random.integers(len(places)))])) for _ in range(effort.batch)]
        loss = functional.cross_entropy(network(data.pictures[rows]), data.labels[rows])
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # PyTorch's is not annotated
        optimiser.step()
        schedule.step()
    return network.eval().requires_grad_(False)


def classifier_for(source: CropSource, side: int, cache: Path, about: str, effort: Effort) -> nn.Module:
    """The classifier of some data, kept in the cache folder under a hash of what it was fitted to."""
    facts = json.dumps([about, source.classes.names, side, effort.crops, effort.steps])
    path = cache / f"classifier-{hashlib.sha256(facts.encode()).hexdigest()[:12]}.pt"
    network = build_classifier(len(source.classes))
    if path.exists():
        network.load_state_dict(torch.load(path, weights_only=True))
        return network.eval().requires_grad_(False)
    LOG.info("training a classifier of %d classes", len(source.classes))
    data = labelled(source, effort.crops, side, seed=11)
    network = fit_classifier(data, len(source.classes), effort)
    cache.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), path)
    return network


def accuracy_by_class(classifier: nn.Module, data: Labelled) -> dict[int, float]:
    """The share that is recognised, for every class that occurs."""
    found = torch.cat([classifier(part).argmax(dim=1) for part in torch.split(data.pictures, 256)])
    return {
        int(label): float((found[data.labels == label] == label).double().mean())
        for label in set(data.labels.tolist())
    }


def mean(values: Mapping[int, float]) -> float:
    """Over classes."""
    return sum(values.values()) / len(values)


def fidelity(
    classifier: nn.Module, held_out: Labelled, samples: Labelled, names: tuple[str, ...]
) -> Fidelity:
    """The figures."""
    ours = accuracy_by_class(classifier, samples)
    by_class = {names[index]: share for index, share in ours.items()}
    return Fidelity(mean(accuracy_by_class(classifier, held_out)), mean(ours), by_class)
