"""Puts an evaluation together: model, pictures, figures. Knows what is judged by what; each figure has its own file.

real crops  --+--> features --> KID, memorisation
samples     --+--> classifier --> class fidelity
canvas      -----> gradients --> seams
real crops  --> codec --> decibels;   --> noise --> network --> v-loss
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generation.models.contracts import Model
from generation.seams import lattices
from generation.seams import ratios as seams
from generation.seams.ratios import GATE, Seam, verdict
from generation.training.autoencoder import decibels
from generation.training.config import ConfigError
from generation.training.crops import CropSets
from generation.training.denoiser import held_out_loss
from generation.training.evaluation import fidelity
from generation.training.evaluation.drawing import (
    DECODED,
    Drawn,
    Painter,
    drawn_crops,
    middle,
    paint_canvas,
    quarters,
)
from generation.training.evaluation.fidelity import Effort, Fidelity, classifier_for, labelled, seen
from generation.training.evaluation.kid import Features, kid
from generation.training.evaluation.memorisation import Memorisation, memorised
from generation.training.latents import load_pca
from storage.geometry import Canvas

LOG = logging.getLogger(__name__)
PATCH = 128
LAST_STEPS = 3
"""Whose patches' borders count; those of earlier steps have been painted over."""
MIRRORED = 32
FORMAT_VERSION = 2


@dataclass(frozen=True)
class Scope:
    """How much is drawn and looked at."""

    patches: int = 256
    training_crops: int = 2000
    asked: int = 8
    canvas: int = 256
    codec_crops: int = 64
    effort: Effort = field(default_factory=Effort)


FULL = Scope()
QUICK = Scope(patches=64, training_crops=256, asked=2, canvas=96, codec_crops=16, effort=fidelity.QUICK)


@dataclass(frozen=True)
class JudgedSubject:
    """A model and the pictures that it learned from. about: names them in the cache. run: the training run's folder,
    which holds the exact latents, if it is there."""

    model: Model
    sets: CropSets
    about: str
    cache: Path
    run: Path | None = None


@dataclass(frozen=True)
class Distances:
    """KID x 1000 against one set of held-out crops."""

    samples: float
    decoded_held_out: float
    training_crops: float
    other_held_out_crops: float


@dataclass(frozen=True)
class SeamScores:
    """Gradients across lattices over those beside them."""

    latents: Seam | None
    patches: Seam | None
    decode_tiles: Seam | None


@dataclass(frozen=True)
class Evaluation:
    """Every figure; None where it does not apply."""

    model: str
    data: str
    quick: bool
    seconds: float
    patches: int
    kid: Distances
    memorisation: Memorisation
    fidelity: Fidelity | None
    seams: SeamScores
    codec_decibels: float
    held_out_v_loss: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}


def check(model: Model, sets: CropSets, name: str) -> None:
    """Refuse a model that cannot be judged by these pictures."""
    if model.info.family != "class_map":
        raise ConfigError(
            f"model {name!r} is of the family {model.info.family}; evaluate judges class-map models only"
        )
    ours, theirs = model.info.class_names, sets.held_out.classes.names
    if ours and theirs and ours != theirs:
        raise ConfigError(
            f"model {name!r} has the classes {', '.join(ours)}, the data {', '.join(theirs)}: give --data that has them"
        )


def evaluate(subject: JudgedSubject, features: Features, name: str, scope: Scope) -> Evaluation:
    """All figures of a model."""
    check(subject.model, subject.sets, name)
    began = time.monotonic()
    painter = Painter(subject.model, torch.device("cpu"))
    side = min(PATCH, painter.side)
    crops = real_crops(subject, painter, scope, side)
    LOG.info("drawing %d samples", scope.patches)
    samples = middle(painter.paint(crops["held out"].maps, seed=1000), side)
    LOG.info(
        "features of %d pictures", sum(len(drawn.pictures) for drawn in crops.values()) + 2 * len(samples)
    )
    seen_by = {what: features(drawn.pictures) for what, drawn in crops.items()}
    ours = features(samples)
    decoded, ratio = through_codec(subject, crops["other held out"].pictures, scope)
    reference = seen_by["held out"]
    return Evaluation(
        model=name,
        data=subject.about,
        quick=scope == QUICK,
        patches=scope.patches,
        kid=Distances(
            samples=1000 * kid(ours, reference),
            decoded_held_out=1000 * kid(features(decoded), reference),
            training_crops=1000 * kid(seen_by["training"][: scope.patches], reference),
            other_held_out_crops=1000 * kid(seen_by["other held out"], reference),
        ),
        memorisation=memorised(ours, seen_by["other held out"], seen_by["training"]),
        fidelity=judged_fidelity(subject, painter, scope, side),
        seams=judged_seams(painter, scope),
        codec_decibels=ratio,
        held_out_v_loss=v_loss(subject),
        seconds=time.monotonic() - began,
    )  # fmt: skip


def real_crops(subject: JudgedSubject, painter: Painter, scope: Scope, side: int) -> dict[str, Drawn]:
    """Crops of side x side pixels; class maps of those that samples are compared with."""
    latents, patch = side // painter.model.info.scale, painter.model.info.patch
    held_out = subject.sets.held_out
    return {
        "held out": drawn_crops(held_out, painter.classes, scope.patches, latents, patch, seed=1),
        "other held out": drawn_crops(held_out, 0, scope.patches, latents, patch, seed=2),
        "training": drawn_crops(subject.sets.training, 0, scope.training_crops, latents, patch, seed=3),
    }


def through_codec(subject: JudgedSubject, pictures: Tensor, scope: Scope) -> tuple[Tensor, float]:
    """(decoded latents of pictures, PSNR); latents are exact where the run's are there, else the encoder's.

    Pictures are mirrored at their borders, so that the codec sees no border that whole pictures do not have.
    """
    codec, pca = subject.model.codec, None
    if subject.run is not None and (subject.run / "latents.npz").exists():
        pca = load_pca(subject.run / "latents.npz")
    made = []
    for part in torch.split(pictures, DECODED):
        wide = nn.functional.pad(part, (MIRRORED,) * 4, mode="reflect")
        with torch.inference_mode():
            shown = codec.decode(codec.encode(wide) if pca is None else pca.encode(wide)).cpu()
        made.append(shown[:, :, MIRRORED:-MIRRORED, MIRRORED:-MIRRORED])
    decoded = torch.cat(made)
    return decoded, decibels(decoded[: scope.codec_crops], pictures[: scope.codec_crops])


def judged_fidelity(subject: JudgedSubject, painter: Painter, scope: Scope, side: int) -> Fidelity | None:
    """How well classes are recognised; None where there are none."""
    names, scale = painter.model.info.class_names, painter.model.info.scale
    if not len(subject.sets.training.classes) or not names:
        return None
    latents = side // scale
    training = subject.sets.training
    classifier = classifier_for(training, latents, subject.cache, subject.about, scope.effort)
    held_out = labelled(subject.sets.held_out, scope.effort.tests, latents, seed=12)
    LOG.info("drawing %d samples of each of %d classes", scope.asked, len(names))
    asked = torch.arange(len(names)).repeat_interleave(scope.asked)
    maps = nn.functional.one_hot(asked, len(names)).float()[:, :, None, None]
    patch = painter.model.info.patch
    drawn = painter.paint(maps.expand(-1, -1, patch, patch).contiguous(), seed=2000)
    pictures = quarters(drawn, side)
    labels = asked.repeat(len(pictures) // len(asked))
    return fidelity.fidelity(classifier, held_out, fidelity.Labelled(seen(pictures), labels), names)


def judged_seams(painter: Painter, scope: Scope) -> SeamScores:
    """The lattices of one canvas."""
    info = painter.model.info
    side = max(scope.canvas, 2 * info.patch)
    LOG.info("drawing a canvas of %d x %d pixels", side * info.scale, side * info.scale)
    painted = paint_canvas(painter, side, seed=5)
    canvas = Canvas(side * info.scale, side * info.scale)
    last = range(max(0, painted.steps - LAST_STEPS), painted.steps)
    tallies = seams.measure(
        lambda box: painted.pixels[box.slices_in(canvas.box)],
        canvas,
        info.scale,
        {
            "latents": [lattices.latent_lines(canvas, info.scale)],
            "patches": [lattices.PatchBorders(painted.cover, step, info.scale) for step in last],
            "decode tiles": [lattices.decode_borders(painted.tiling, canvas)],
        },
    )
    found = {name: tally.seam() for name, tally in tallies.items()}
    return SeamScores(*(found[name] if found[name].pixels else None for name in found))


class Velocity(nn.Module):
    """A loaded denoiser with the signature that training uses."""

    def __init__(self, painter: Painter) -> None:
        super().__init__()
        self.painter = painter
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, seen: Tensor, steps: Tensor) -> Prediction:
        """Latents and classes on one axis, as the network reads them."""
        channels = self.painter.model.info.latent_channels
        conditioning = {"classes": seen[:, channels:]}
        return Prediction(self.painter.model.denoiser.predict(seen[:, :channels], steps, conditioning))


@dataclass(frozen=True)
class Prediction:
    """What diffusers' networks return."""

    sample: Tensor


def v_loss(subject: JudgedSubject) -> float | None:
    """The unweighted v-loss on held-out crops; only where the run's latents are there and v is predicted."""
    if subject.run is None or not (subject.run / "latents.npz").exists():
        return None
    if subject.model.info.scheduler_config.get("prediction_type") != "v_prediction":
        return None
    network = Velocity(Painter(subject.model, torch.device("cpu")))
    pca = load_pca(subject.run / "latents.npz")
    return held_out_loss(network, subject.sets.held_out, pca, subject.model.info.patch)


def rows_of(found: Evaluation) -> Iterator[tuple[str, str, str]]:
    """(figure, value, what it means)."""
    near = found.kid
    yield (
        "KID x 1000 of samples",
        f"{near.samples:.1f}",
        f"{found.patches} patches against held-out crops; lower is better",
    )
    yield "  of decoded held-out crops", f"{near.decoded_held_out:.1f}", "what the codec alone costs"
    yield "  of training crops", f"{near.training_crops:.1f}", "how far the two sets are apart"
    yield "  of other held-out crops", f"{near.other_held_out_crops:.1f}", "zero but for chance"
    if (fidelity := found.fidelity) is not None:
        yield "class fidelity of samples", f"{100 * fidelity.samples:.0f} %", "recognised by a classifier"
        yield "  of held-out crops", f"{100 * fidelity.held_out:.0f} %", "what the classifier can do"
        worst, share = min(fidelity.by_class.items(), key=lambda row: row[1])
        yield "  of the worst class", f"{100 * share:.0f} %", worst
    for name, seam in (
        ("latents", found.seams.latents),
        ("patch borders", found.seams.patches),
        ("decode tiles", found.seams.decode_tiles),
    ):
        if seam is not None:
            yield (
                f"seam ratio, {name}",
                f"{seam.ratio:.3f} +- {seam.error:.3f}",
                f"{verdict(seam)}; 1 +- {GATE:g} is none",
            )
    memory = found.memorisation
    yield (
        "nearest training crop",
        f"{memory.ratio:.2f}",
        "distance over that of held-out crops; near 0 is copying",
    )
    yield "  closest sample", f"{memory.closest:.2f}", f"copies: {100 * memory.copies:.0f} %"
    yield "codec", f"{found.codec_decibels:.1f} dB", "PSNR of held-out crops"
    if found.held_out_v_loss is not None:
        yield "held-out v-loss", f"{found.held_out_v_loss:.4f}", "unweighted, evenly spread timesteps"
    yield "time", f"{found.seconds:.0f} s", "quick: fewer samples" if found.quick else ""


def write_evaluation(found: Evaluation, path: Path) -> None:
    """evaluation.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found.as_json(), indent=2) + "\n", encoding="utf-8")
