"""The regions of a job: where its map, shapes and boxes lie on the canvas, and what each is told. Loads no model.

Layers, from below: the map of labels, or the shapes of a GeoJSON file in their order; the boxes in theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.region_fields import BoxRegion, LabelRegion, Told
from cluster.words.legend import distinct_colours
from cluster.words.region_shapes import Ring, Shape, is_shapes, read_shapes
from generation.places.regions import MOST_REGIONS, Ids, Layer, Region, RegionalWords, RegionMap, Regions
from generation.places.shapes import Polygon, ShapeLayer
from generation.sampling.covers import Patch
from generation.sampling.unconditional import Unconditional
from storage.fingerprint import stamp
from storage.formats.labels import Legend
from storage.geometry import Box, Canvas
from storage.label_files import NONE, LabelFile, LabelFileError, open_labels

if TYPE_CHECKING:
    import torch

    from generation.models.contracts import Conditioner, Model, ModelInfo, Request

EXAMPLES = 13
"""Labels of a map that are remembered to be told; one less is."""
SEARCHED_PIXELS = 2**30
"""Maps of more are not searched for labels that no pixel has."""


def has_regions(spec: JobSpec) -> bool:
    """Whether a spec names a map of regions, or boxes."""
    return spec.regions is not None or bool(spec.region_box)


def regions_of(spec: JobSpec, info: ModelInfo, canvas: Canvas) -> JobRegions | None:
    """None where a spec asks for none. Raises SpecError, in one line, for regions that cannot be drawn."""
    if not has_regions(spec):
        if spec.region:
            raise SpecError(f"region {spec.region[0].label} needs a map of labels; give one with --regions")
        if spec.region_feather:
            raise SpecError("region-feather needs regions; give some with --regions or --region-box")
        return None
    if info.class_names or info.family == "map":
        raise SpecError(
            f"model {spec.model!r} draws classes, not prompts, so it takes no regions; "
            "paint a map of its classes and give it with --classes"
        )
    guided = (spec.guidance_scale or 0) > 1 and not info.notes.get("distilled_guidance")
    regions = JobRegions(spec, canvas, info.scale, guided)
    regions.check()
    return regions


@dataclass(frozen=True)
class LabelLayer:
    """A picture of labels under the latents' centres, stretched over the picture. Satisfies Layer.

    width, height: of the picture in pixels. regions: label -> region; other labels are region 0.
    """

    file: LabelFile
    canvas: Canvas
    scale: int
    width: int
    height: int
    regions: Mapping[int, int]

    def paint(self, ids: Ids, box: Box) -> None:
        for piece, home in self.canvas.split_at_edges(box):
            rows = self._under(home.y0, home.y1, self.height, self.file.height)
            columns = self._under(home.x0, home.x1, self.width, self.file.width)
            labels = self.file.sample(rows, columns)
            target = ids[piece.slices_in(box)]
            for label, region in self.regions.items():
                target[labels == label] = region

    def _under(self, low: int, high: int, pixels: int, cells: int) -> NDArray[np.int64]:
        """The rows or columns of the file under latents low .. high - 1; the last where they leave the picture."""
        centres = (2 * np.arange(low, high, dtype=np.int64) + 1) * self.scale
        return np.minimum(centres * cells // (2 * pixels), cells - 1)


@dataclass(frozen=True)
class Wording:
    """What a region is told, all of it definite. feather: pixels."""

    prompt: str
    negative_prompt: str
    weight: float
    feather: float


@dataclass(frozen=True)
class JobRegions:
    """The regions of a job; small until it is asked for places, when it reads its files. Satisfies Counts.

    guided: whether negative prompts matter.
    """

    spec: JobSpec
    canvas: Canvas
    scale: int
    guided: bool

    def __getstate__(self) -> dict[str, Any]:
        """What was read stays here."""
        return {name: self.__dict__[name] for name in ("spec", "canvas", "scale", "guided")}

    # --- what there is

    @cached_property
    def shapes(self) -> tuple[Shape, ...]:
        path = self.spec.regions
        return read_shapes(path) if path is not None and is_shapes(path) else ()

    @cached_property
    def labels(self) -> LabelFile | None:
        path = self.spec.regions
        if path is None or is_shapes(path):
            return None
        try:
            return open_labels(path)
        except LabelFileError as error:
            raise SpecError(f"regions map {error}") from None

    @cached_property
    def wordings(self) -> tuple[Wording, ...]:
        """What the regions are told, by their numbers; 0 is the picture, regions told alike are one."""
        picture = Wording(self.spec.prompt, self.spec.negative_prompt, 1.0, self.spec.region_feather)
        told = [*self.spec.region, *(shape.told for shape in self.shapes), *self.spec.region_box]
        return tuple(dict.fromkeys([picture, *map(self._wording, told)]))

    def _wording(self, told: Told) -> Wording:
        return Wording(
            told.prompt,
            self.spec.negative_prompt if told.negative_prompt is None else told.negative_prompt,
            told.weight,
            self.spec.region_feather if told.feather is None else told.feather,
        )

    def _number(self, told: Told) -> int:
        return self.wordings.index(self._wording(told))

    # --- where it lies

    @cached_property
    def map(self) -> RegionMap:
        layers: list[Layer] = []
        if self.labels is not None:
            table = {self._label(region, self.labels): self._number(region) for region in self.spec.region}
            layers.append(
                LabelLayer(self.labels, self.canvas, self.scale, self.spec.width, self.spec.height, table)
            )
        drawn = [(self._number(shape.told), shape.polygons) for shape in self.shapes]
        drawn += [(self._number(box), (_rings(*self._pixels(box)),)) for box in self.spec.region_box]
        for region, group in groupby(drawn, key=lambda one: one[0]):
            polygons = tuple(Polygon.of(rings, self.scale) for _, members in group for rings in members)
            layers.append(ShapeLayer(self.canvas, polygons, region))
        rows, columns = (centres_within(side, self.scale) for side in (self.spec.height, self.spec.width))
        return RegionMap(self.canvas, rows, columns, tuple(layers))

    @cached_property
    def regions(self) -> Regions:
        keys = [self._key(wording) for wording in self.wordings]
        nulls = [wording.negative_prompt for wording in self.wordings]
        return Regions(
            self.map,
            tuple(
                Region(
                    words=keys.index(key),
                    null=nulls.index(wording.negative_prompt),
                    strength=wording.weight,
                    blend=1 + int(wording.feather / self.scale // 2),
                )
                for key, wording in zip(keys, self.wordings, strict=True)
            ),
        )

    def _key(self, wording: Wording) -> tuple[str, str]:
        """What is evaluated: regions of the same key share it."""
        if self.spec.cond_scale == 0:
            return "", wording.negative_prompt
        return wording.prompt, wording.negative_prompt if self.guided else ""

    def count(self, step: int, patch: Patch) -> tuple[int, int]:
        """Evaluations that a patch takes: of its words, and of its nulls."""
        del step
        return self.regions.count(patch)

    def classes(self) -> RegionClasses:
        return RegionClasses(self.map)

    def legend(self) -> Legend:
        """Each region's prompt and a colour."""
        names = [wording.prompt for wording in self.wordings]
        return tuple(zip(names, distinct_colours(len(names)), strict=True))

    def mixture(self, model: Model, request: Request) -> RegionalWords:
        """The regions with their words encoded, once each. request: what the whole picture is asked for."""
        used = {region.words for region in self.regions.regions}
        conditioners: dict[int, Conditioner] = {}
        for number in sorted(used):
            wording = self.wordings[number]
            own = replace(request, prompt=wording.prompt, negative_prompt=wording.negative_prompt)
            conditioner = model.conditioner_for(own)
            conditioners[number] = Unconditional(conditioner) if self.spec.cond_scale == 0 else conditioner
        return RegionalWords(self.regions, conditioners)

    # --- what cannot be

    def check(self) -> None:
        """Raises SpecError, in one line, for the first thing that is wrong."""
        path, labels = self.spec.regions, self.spec.region
        if labels and path is None:
            raise SpecError(f"region {labels[0].label} needs a map of labels; give one with --regions")
        if labels and path is not None and is_shapes(path):
            raise SpecError(
                f"region {labels[0].label} names a label, and {path} has shapes; a shape's prompt is its property "
                '"prompt", leave --region out or give a map of labels'
            )
        for box in self.spec.region_box:
            self._check_place(f"region-box {box.box}", _bounds(*self._pixels(box)), whole=True)
        for shape in self.shapes:
            self._check_place(shape.name, shape.bounds, whole=False)
        if self.labels is not None:
            self._check_labels(self.labels)
        if len(self.wordings) - 1 > MOST_REGIONS:
            raise SpecError(
                f"{len(self.wordings) - 1} regions with different prompts or settings; at most {MOST_REGIONS} can be "
                "told apart, let some share a prompt"
            )

    def _check_place(self, name: str, bounds: tuple[float, float, float, float], whole: bool) -> None:
        """Whether some of a place, or all of it, lies in the picture; where it wraps, places may go on."""
        x0, y0, x1, y1 = bounds
        width, height = self.spec.width, self.spec.height
        wraps = self.canvas.topology
        for low, high, side, turns, axis in (
            (x0, x1, width, wraps.wraps_x, "x"), (y0, y1, height, wraps.wraps_y, "y")
        ):  # fmt: skip
            starts_outside = low < 0 or low >= side if whole else False
            if turns and not starts_outside and high - low <= side:
                continue
            outside = (low < 0 or high > side + 1e-6) if whole else (high <= 0 or low >= side)
            if outside:
                raise SpecError(
                    f"{name} lies outside the picture: it reaches from {axis} {low:g} to {high:g}, and the picture of "
                    f"{width}x{height} pixels from 0 to {side}"
                )

    def _check_labels(self, labels: LabelFile) -> None:
        if not self.spec.region:
            raise SpecError(
                f"regions map {labels.path} has no region with a prompt; give them as in --region "
                '3="dense pine forest"'
            )
        wanted = {self._label(region, labels): region.label for region in self.spec.region}
        if labels.height * labels.width > SEARCHED_PIXELS:
            return
        try:
            present = present_labels(labels.path, stamp(labels.path), frozenset(wanted))
        except LabelFileError as error:
            raise SpecError(f"regions map {error}") from None
        missing = [name for label, name in wanted.items() if label not in present]
        if missing:
            known = ", ".join(_shown(label, labels) for label in sorted(present)[: EXAMPLES - 1])
            more = ", ..." if len(present) >= EXAMPLES else ""
            raise SpecError(
                f"region {missing[0]}: no pixel of {labels.path} has that label; it has {known}{more}"
            )

    def _label(self, region: LabelRegion, labels: LabelFile) -> int:
        """The label of a number, a colour or a name. Raises SpecError for what is none of these."""
        given = region.label
        by_name = {name: label for label, name in labels.names.items()}
        if given in by_name:
            return by_name[given]
        if re.fullmatch(r"-?\d{1,18}", given):
            return int(given)
        if re.fullmatch("#[0-9a-fA-F]{6}", given):
            if labels.colours:
                return int(given[1:], 16)
            raise SpecError(
                f"region {given} is a colour, and {labels.path} has numbers as labels; give a number"
            )
        names = f", or one of {', '.join(sorted(by_name))}" if by_name else ""
        kind = "a colour such as #00ff00" if labels.colours else "a whole number"
        raise SpecError(f"region {given!r} is no label of {labels.path}; give {kind}{names}")

    def _pixels(self, box: BoxRegion) -> tuple[float, float, float, float]:
        return box.pixels(self.spec.width, self.spec.height)


@dataclass(frozen=True)
class RegionClasses:
    """The regions as classes, by their numbers. Satisfies ClassMap."""

    map: RegionMap

    def read(self, box: Box) -> torch.Tensor:
        """(h, w) int64."""
        import torch

        return torch.from_numpy(self.map.read(box).astype(np.int64))


@lru_cache(maxsize=8)
def present_labels(path: Path, key: str, wanted: frozenset[int]) -> frozenset[int]:
    """Those of `wanted` that a map's pixels have, and the lowest of all, as examples; read part by part.

    key: the file's stamp, so that a new one is read.
    """
    del key
    labels = open_labels(path)
    found: set[int] = set()
    lowest: list[int] = []
    for box in labels.boxes():
        here = np.unique(labels.read(box)).tolist()
        found.update(wanted.intersection(here))
        lowest = sorted({*lowest, *here[:EXAMPLES]})[:EXAMPLES]
    return frozenset(found.union(lowest))


def centres_within(pixels: int, scale: int) -> int:
    """How many latents have their centre in so many pixels; at least one."""
    return max(1, -((scale - 2 * pixels) // (2 * scale)))


def _shown(label: int, labels: LabelFile) -> str:
    if label == NONE and labels.nodata == NONE:
        return "transparent"
    return f"#{label:06x}" if labels.colours and label >= 0 else str(label)


def _bounds(x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
    return x, y, x + width, y + height


def _rings(x: float, y: float, width: float, height: float) -> tuple[Ring, ...]:
    """The outline of a box."""
    return (((x, y), (x + width, y), (x + width, y + height), (x, y + height)),)
