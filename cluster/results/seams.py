"""Which borders a finished job has, and whether they show in its picture. Knows jobs; draws and prints nothing.

A picture is read block by block, from its OME-Zarr image where that was kept, from its Deep Zoom tiles where not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from math import isinf, lcm
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.results.exporting import finished_picture
from cluster.spec import job_file
from cluster.spec.fields import JobSpec, SpecError
from cluster.spec.paths import absolute
from storage.exports.picture import Picture
from storage.fingerprint import FormatError
from storage.geometry import TOPOLOGIES, Canvas

if TYPE_CHECKING:
    from cluster.jobs.plan import Plan
    from generation.seams.lattices import Lattice, StraightLines
    from generation.seams.ratios import OnProgress, Seam, Tally

FORMAT_VERSION = 1
LAST_STEPS = 3
"""Told one by one; the borders of earlier steps have been painted over the more."""
JPEG_BLOCK = 8


@dataclass(frozen=True)
class BorderKind:
    """A kind of border: its lattices are added up. about: how far apart its lines are, for people.

    shown: whether a picture of the seams has its lines. encoded: looked for in the Deep Zoom tiles, not in the image.
    """

    name: str
    about: str
    lattices: tuple[Lattice, ...]
    shown: bool = True
    encoded: bool = False


@dataclass(frozen=True)
class SeamRow:
    """What was found of a kind of border, by the direction of its lines and altogether."""

    name: str
    about: str
    horizontal: Seam
    vertical: Seam
    both: Seam

    @property
    def worst(self) -> Seam:
        """A seam in one direction is a seam, whatever the other one says."""
        from generation.seams.ratios import verdict

        found = (self.both, self.horizontal, self.vertical)
        seams = [one for one in found if verdict(one).startswith("seam")]
        return max(seams, key=surely_off, default=self.both)

    @property
    def verdict(self) -> str:
        from generation.seams.ratios import verdict

        return verdict(self.worst)

    @property
    def is_seam(self) -> bool:
        return self.verdict.startswith("seam")


def surely_off(seam: Seam) -> float:
    """How far from 1 a ratio is at least."""
    from generation.seams.ratios import SURE

    return abs(seam.ratio - 1) - SURE * seam.error


@dataclass(frozen=True)
class SeamReport:
    """The seams of a picture. absent: kinds of which the picture has no line. source: what was read.
    cell: pixels of a latent."""

    folder: Path
    width: int
    height: int
    cell: int
    source: str
    rows: tuple[SeamRow, ...]
    absent: tuple[str, ...]
    kinds: tuple[BorderKind, ...] = field(repr=False)
    tallies: Mapping[str, Tally] = field(repr=False)

    @property
    def strongest(self) -> SeamRow | None:
        """The strongest of the kinds that are a seam: the one that surely is farthest from 1: where lattices share
        lines, the one whose lines they are. What encoding did counts where the picture itself has no seam.
        """
        encoded = {kind.name for kind in self.kinds if kind.encoded}
        seams = [row for row in self.rows if row.is_seam]
        seams = [row for row in seams if row.name not in encoded] or seams
        return max(seams, key=lambda row: surely_off(row.worst), default=None)

    def as_json(self) -> dict[str, Any]:
        """Plain values; null for a ratio or error that is not finite, and for a direction without lines."""
        rows = [_plain(asdict(row) | {"verdict": row.verdict}) for row in self.rows]
        return {
            "format_version": FORMAT_VERSION,
            "width": self.width,
            "height": self.height,
            "source": self.source,
            "borders": rows,
            "absent": list(self.absent),
            "strongest": self.strongest.name if self.strongest else None,
        }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return None if value.get("pixels") == 0 else {name: _plain(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and isinf(value) else value


def find_seams(folder: Path, on_progress: OnProgress = lambda done, total: None) -> SeamReport:
    """Measure all borders of a finished job's picture.

    Raises SpecError where there is no finished job or no border in its picture, FormatError where it cannot be read.
    """
    from generation.seams.ratios import measure

    folder = absolute(folder)
    saved = job_file.load(folder)
    picture, plan = finished_picture(folder), plan_again(saved)
    if (picture.width, picture.height) != (saved.spec.width, saved.spec.height):
        raise FormatError(
            f"the picture in {folder} has {picture.width} x {picture.height} pixels, its job.yaml says "
            f"{saved.spec.width} x {saved.spec.height}; resume the job to write it again"
        )
    canvas = Canvas(picture.height, picture.width, TOPOLOGIES[saved.spec.topology])
    kinds = tuple(kinds_of(saved.spec, plan, canvas, picture))
    tallies: dict[str, Tally] = {}
    for source, encoded in ((picture, False), (picture.as_tiles(), True)):
        asked = {kind.name: kind.lattices for kind in kinds if kind.encoded == encoded}
        if asked and source is not None:
            read, cell = partial(source.read, 0), plan.tiling.scale
            tallies |= measure(read, canvas, cell, asked, on_progress)
    held = [kind for kind in kinds if tallies[kind.name].length.any()]
    if not held:
        raise SpecError(
            f"the picture in {folder}, {picture.width} x {picture.height} pixels, has no border inside: it is smaller "
            "than a patch, a tile and a block; evaluate a larger one"
        )
    return SeamReport(
        folder=folder,
        width=picture.width,
        height=picture.height,
        cell=plan.tiling.scale,
        source=_source(picture),
        rows=tuple(row_of(kind, tallies[kind.name]) for kind in held),
        absent=tuple(kind.name for kind in kinds if kind not in held),
        kinds=tuple(held),
        tallies=tallies,
    )


def plan_again(saved: job_file.SavedJob) -> Plan:
    """The plan of a saved job; where it ran does not matter, nor whether its class map is still there.

    Its model is described as it was when it began; that reads no pickle, so it needs no leave to.
    """
    from cluster.jobs.job import plan_of
    from cluster.jobs.models import facts_of
    from cluster.spec.choices import resolve

    spec = saved.spec.model_copy(update={"allow_pickle": saved.pickled})
    info = facts_of(spec)
    here = spec.model_copy(update={"device": "cpu", "executor": "in-process"})
    return plan_of(resolve(here, info), info)


def _source(picture: Picture) -> str:
    if picture.has_master or picture.tiles is None:
        return "image.zarr"
    return f"image_files ({picture.tiles.encoding})"


def row_of(kind: BorderKind, tally: Tally) -> SeamRow:
    """A row of the table."""
    from generation.seams.lattices import HORIZONTAL, VERTICAL

    return SeamRow(kind.name, kind.about, tally.seam(HORIZONTAL), tally.seam(VERTICAL), tally.seam())


# --- what there is ---------------------------------------------------------------------------------------------------


def kinds_of(spec: JobSpec, plan: Plan, canvas: Canvas, picture: Picture) -> Iterator[BorderKind]:
    """All kinds of borders that the picture may have."""
    from generation.seams.lattices import every, joins, latent_lines

    scale, layout = plan.tiling.scale, plan.layout
    yield from _patches(spec, plan)
    side = plan.grid.block * scale
    yield BorderKind("blocks", _pixels(side), (every(canvas, side, scale),))
    yield from _decode_tiles(plan, canvas)
    yield BorderKind("superblocks", _pixels(layout.superblock), (every(canvas, layout.superblock, scale),))
    tiles = every(canvas, layout.tile, scale)
    yield BorderKind("output tiles", _pixels(layout.tile), (tiles,))
    if picture.has_master and picture.tiles is not None:
        encoding = picture.tiles.encoding
        tiles = every(canvas, layout.tile, lcm(scale, JPEG_BLOCK) if encoding == "jpg" else scale)
        name = f"output tiles as {encoding}"
        yield BorderKind(name, _pixels(layout.tile), (tiles,), shown=False, encoded=True)
    if canvas.topology.wraps_x or canvas.topology.wraps_y:
        yield BorderKind("joined sides", f"of the {canvas.topology.name}", (joins(canvas, scale),))
    if scale > 1:
        yield BorderKind("latents", _pixels(scale), (latent_lines(canvas, scale),), shown=False)


def _patches(spec: JobSpec, plan: Plan) -> Iterator[BorderKind]:
    """Those of the last steps one by one, and of all; where patches never move, one kind for all steps."""
    from cluster.jobs.job import method_of
    from generation.sampling.methods import OVERLAPPING
    from generation.seams.lattices import PatchBorders

    steps, scale = plan.steps, plan.tiling.scale
    borders = tuple(PatchBorders(plan.cover, step, scale) for step in range(steps))
    if spec.method in OVERLAPPING:
        yield BorderKind("patches", f"the same at all {steps} steps", borders[:1])
        return
    blended = steps - method_of(spec).begins_to_blend(steps)
    if blended:
        yield BorderKind(
            f"patches of the last {blended} steps" if blended > 1 else "patches of the last step",
            "they blend",
            borders[-1:],
        )
    for step in range(steps - 1 - blended, max(-1, steps - 1 - blended - LAST_STEPS), -1):
        last = step == steps - 1
        about = "the last" if last else "painted over since"
        yield BorderKind(f"patches of step {step + 1}", about, (borders[step],), shown=last)
    yield BorderKind("patches of all steps", f"mean of {steps} steps", borders, shown=False)


def _decode_tiles(plan: Plan, canvas: Canvas) -> Iterator[BorderKind]:
    from generation.seams.lattices import decode_borders

    in_place = decode_borders(plan.tiling, canvas)
    side = _pixels(_apart(in_place, plan.tiling.tile * plan.tiling.scale))
    yield BorderKind("decode tiles", side, (in_place,))
    if plan.tiling.passes > 1:
        yield BorderKind("decode tiles, moved", side, (decode_borders(plan.tiling, canvas, moved=True),))


def _apart(lines: StraightLines, usual: int) -> int:
    """The usual distance of lines."""
    gaps = np.concatenate([np.diff(lines.rows), np.diff(lines.columns)])
    return int(np.median(gaps)) if len(gaps) else usual


def _pixels(side: int) -> str:
    return f"every {side} pixels"
