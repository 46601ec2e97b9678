"""A job: a spec made definite, its plan and its identity. Composes facts, cover, schedule, layout; runs nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.jobs.fitting import check_fits, most_workers
from cluster.jobs.models import described
from cluster.jobs.plan import Plan
from cluster.spec.choices import BLOCK, DTYPES, resolve
from cluster.spec.fields import INPUTS, JobSpec, SpecError
from cluster.spec.identity import identified, inputs_of, job_facts, model_facts
from cluster.spec.prediction import lost_settings, scheduler_config
from generation.models.contracts import ModelInfo
from generation.models.errors import ModelError, first_line
from generation.sampling import methods
from generation.sampling.batching import batching
from storage.fingerprint import fingerprint
from storage.geometry import TOPOLOGIES, Canvas, Grid
from storage.pyramid import PyramidLayout

if TYPE_CHECKING:
    from cluster.words.regions import JobRegions
    from generation.decoding.decode import Blend
    from generation.sampling.schedules.contract import Schedule


SUPERBLOCK_TILES = 4
SMALL_SUPERBLOCK_TILES = 2
"""Of pictures that would be one superblock: several workers can then decode them."""

Note = Callable[[str], None]
"""Told of something that is no error, in a line."""


def unnoted(line: str) -> None:
    """For jobs that nobody asked for as they are."""


@dataclass(frozen=True)
class Job:
    """Everything that driver and workers need to know; small, and sent to each worker once.

    inputs: the content of each file of the user's that the spec names, by field; of the model's files, info.hashes.
    """

    spec: JobSpec
    info: ModelInfo
    plan: Plan
    fingerprint: str
    map: Job | None = None
    """The job, in a folder of this one's, that invents the class map first."""
    regions: JobRegions | None = None
    inputs: Mapping[str, str] = field(default_factory=dict)

    def schedule(self) -> Schedule:
        return schedule_of(self.spec, self.info)

    @property
    def files(self) -> dict[str, str]:
        """What it reads of the model's and the user's files: name -> SHA-256."""
        files: dict[str, str] = model_facts(self.info)["files"]
        return files | dict(self.inputs)

    def reading(self, spec: JobSpec) -> Job:
        """This job where its files lie elsewhere: `spec` differs in their paths only."""
        regions = None if self.regions is None else replace(self.regions, spec=spec)
        return replace(self, spec=spec, regions=regions, plan=replace(self.plan, regions=regions))


def prepare(spec: JobSpec, check_fit: bool = True, note: Note = unnoted) -> Job:
    """Resolve and plan a job. Raises SpecError, ModelError or ValueError, each in one clear line.

    note: told what of the spec changes nothing or is not as it may seem. Only who asked for a picture wants to hear
    it: not those who look at a job again, nor of jobs that a job or a batch makes for itself.
    """
    return prepare_described(spec, described(spec), check_fit, note=note)


def prepare_described(
    spec: JobSpec,
    info: ModelInfo,
    check_fit: bool = True,
    map_info: ModelInfo | None = None,
    note: Note = unnoted,
) -> Job:
    """Resolve and plan a job of a model whose facts are known.

    map_info: of the map model beside it, where that is known, too.
    """
    info = identified(info)
    check_words(spec, info)  # before the machine is looked at, which may take PyTorch
    asked, spec = spec, resolve(spec, info)
    _check_legend(info)
    plan = plan_of(spec, info)
    for line in (*unused(asked, spec, info), *_stretched(spec, plan.canvas)):
        note(line)
    if asked.workers is None:
        spec = _within_memory(spec, plan, note)
    regions = _regions(spec, info, plan.canvas)
    before = _map_job(spec, info, plan.canvas, map_info)
    plan = replace(plan, regions=regions)
    inputs = inputs_of(spec)
    facts = job_facts(spec, info, inputs, before.fingerprint if before else None)
    job = Job(spec, info, plan, fingerprint(facts), before, regions, inputs)
    if check_fit:
        check_fits(plan, spec)
    return job


def unreadable(spec: JobSpec, inputs: Mapping[str, str]) -> Job:
    """The job of a saved spec of which some of the user's files are lost: to look at what it wrote, not to be run.

    inputs: what the files were, by field; none of them is opened. Raises ModelError.
    """
    from cluster.words.regions import JobRegions, has_regions

    info = identified(described(spec))
    spec = resolve(spec, info)
    plan = plan_of(spec, info)
    told = spec.model_copy(update=dict.fromkeys(INPUTS))
    regions = JobRegions(told, plan.canvas, info.scale, plan.guided) if has_regions(spec) else None
    return Job(spec, info, plan, fingerprint(job_facts(spec, info, inputs, None)), None, regions, inputs)


def _within_memory(spec: JobSpec, plan: Plan, note: Note) -> JobSpec:
    """A spec with no more workers than memory holds, where nobody asked for a number; the picture is the same."""
    most = most_workers(plan)
    if spec.workers is None or spec.workers <= most:
        return spec
    note(f"memory is free for {most} of {spec.workers} workers; --workers asks for more")
    return spec.model_copy(update={"workers": most})


def schedule_of(spec: JobSpec, info: ModelInfo) -> Schedule:
    """The job's scheduler; jobs of the same settings share it. ModelError for a configuration that it cannot use."""
    name = spec.scheduler or info.scheduler
    try:
        return _schedule(
            name,
            json.dumps(scheduler_config(spec, info), sort_keys=True),
            spec.num_inference_steps or info.num_inference_steps,
            spec.eta,
            info.notes.get("mu"),
            bool(info.notes.get("linear_sigmas")),
        )
    except (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ModelError(
            f"scheduler {name} cannot work with the scheduler_config.json of model {spec.model!r}: {first_line(error)}"
        ) from error


def remembered_fields(spec: JobSpec, info: ModelInfo) -> tuple[int, ...]:
    """Fields kept beside x[0] .. x[S]; of usual settings without their scheduler, which takes seconds to import."""
    from generation.sampling.schedules.lengths import remembered

    name, steps = spec.scheduler or info.scheduler, spec.num_inference_steps or info.num_inference_steps
    known = remembered(name, scheduler_config(spec, info), steps)
    if known is not None:
        return known
    schedule = schedule_of(spec, info)
    return tuple(schedule.fields(k) for k in range(len(schedule) + 1))


@lru_cache(maxsize=16)
def _schedule(
    name: str, config: str, steps: int, eta: float | None, mu: float | None, linear_sigmas: bool
) -> Schedule:
    from generation.sampling.schedules.building import build_schedule

    return build_schedule(name, json.loads(config), steps, eta=eta, mu=mu, linear_sigmas=linear_sigmas)


def plan_of(spec: JobSpec, info: ModelInfo) -> Plan:
    """The plan of a resolved spec; looks at no file but the model's."""
    canvas = canvas_of(spec, info)
    remembers = remembered_fields(spec, info)
    method, size = method_of(spec), spec.batch_size or 1
    batches = batching(canvas, info.patch, method.stride(info.patch), size)
    return Plan(
        canvas=canvas,
        grid=Grid(canvas, max(info.patch, spec.block or BLOCK)),
        cover=method.cover(canvas, info.patch, len(remembers) - 1),
        tiling=_blend(spec, info, canvas),
        layout=PyramidLayout(spec.width, spec.height, spec.tile, _superblock(spec)),
        channels=info.latent_channels,
        fields=tuple(1 + count for count in remembers),
        parameters_bytes=info.loaded_bytes.get(spec.dtype or DTYPES["cpu"], info.parameters_bytes),
        batching=batches,
        guided=is_guided(spec, info),
    )


def is_guided(spec: JobSpec, info: ModelInfo) -> bool:
    """Whether a resolved spec evaluates each patch twice, with the prompt and without."""
    return (spec.guidance_scale or 0) > 1 and not info.notes.get("distilled_guidance")


def _superblock(spec: JobSpec) -> int:
    """Pixels; depends on the picture alone, for the levels of the pyramid are rounded at its borders."""
    large = SUPERBLOCK_TILES * spec.tile
    return large if max(spec.width, spec.height) > large else SMALL_SUPERBLOCK_TILES * spec.tile


def canvas_of(spec: JobSpec, info: ModelInfo) -> Canvas:
    """The latent grid that covers the picture; at least a patch on each side, the surplus is cut off in pixels."""
    topology = TOPOLOGIES[spec.topology]
    for wraps, pixels, axis in (
        (topology.wraps_y, spec.height, "height"),
        (topology.wraps_x, spec.width, "width"),
    ):
        least = info.patch * info.scale
        if wraps and (pixels % info.scale or pixels < least):
            raise SpecError(
                f"{axis} {pixels} cannot wrap on a {topology.name}: it must be a multiple of {info.scale} pixels, "
                f"at least {least}; try {max(least, round(pixels / info.scale) * info.scale)}"
            )
    height = max(info.patch, -(-spec.height // info.scale))
    width = max(info.patch, -(-spec.width // info.scale))
    return Canvas(height, width, topology)


def method_of(spec: JobSpec) -> methods.Method:
    """How the patches of a resolved spec lie and count."""
    return methods.Method(
        spec.method, spec.seed, spec.num_inference_steps or 1, spec.overlap, spec.blend_last or 0
    )


def _blend(spec: JobSpec, info: ModelInfo, canvas: Canvas) -> Blend:
    from generation.decoding.decode import Tiling
    from generation.decoding.four_shift import FourShift

    if spec.decode == "four-shift":
        return FourShift(canvas, info.scale, info.tile - 2 * info.tile_margin)
    return Tiling(canvas, info.scale, info.tile, info.tile_margin, info.local_codec)


def check_words(spec: JobSpec, info: ModelInfo) -> None:
    """A class-map model understands a few words only, unless it is given a map."""
    if spec.class_labels is not None and spec.classes is None:
        raise SpecError("--class-labels says what the labels of a map mean; give the map with --classes")
    if spec.clean_map and not info.class_names:
        raise SpecError(
            f"--clean-map needs a class-map model; {spec.model!r} has no map, leave --clean-map out"
        )
    if info.class_names and spec.classes is None:
        from generation.places.scenes import Mix, parse

        if not isinstance(parse(spec.prompt, info.class_names), Mix) and spec.clean_map:
            raise SpecError(
                f"--clean-map cleans maps that are painted or invented, and {spec.prompt!r} is neither; leave it out"
            )
    if info.family == "map":
        from generation.models.mixes import parse_mix

        try:
            parse_mix(spec.prompt, info.notes["names"])
        except KeyError as unknown:
            known = ", ".join(info.notes["names"])
            raise SpecError(f"unknown class {unknown}; a map is mixed from {known}") from None
    if spec.classes is not None and not info.class_names:
        raise SpecError(
            f"--classes needs a class-map model; {spec.model!r} takes a prompt only, leave --classes out"
        )
    if spec.classes is not None:
        _check_classes(spec, canvas_of(spec, info), info)


def unused(asked: JobSpec, spec: JobSpec, info: ModelInfo) -> Iterator[str]:
    """What was asked for, other than the default, that does not change this picture: no error, but worth a line.

    spec: the same, resolved.
    """
    from generation.sampling.schedules.names import takes_eta

    guided = is_guided(spec, info)
    yield from model_notes(info)
    yield from lost_settings(spec, info)
    if spec.negative_prompt and (info.class_names or info.family == "map"):
        yield f"negative_prompt changes nothing: model {spec.model!r} draws classes, which have no opposite"
    elif spec.negative_prompt and not guided and spec.cond_scale != 0:
        why = "has its guidance built in" if info.notes.get("distilled_guidance") else "is not guided"
        yield (
            f"negative_prompt changes nothing: model {spec.model!r} {why} at guidance_scale {spec.guidance_scale:g}"
        )
    reads_overlap = spec.method in methods.OVERLAPPING
    usual = (JobSpec.model_fields["overlap"].default, info.notes.get("overlap"))
    if not reads_overlap and asked.overlap not in usual:
        yield (
            f"overlap {asked.overlap:g} changes nothing: method {spec.method} has its own; "
            f"{', '.join(methods.OVERLAPPING)} read it"
        )
    if reads_overlap and asked.blend_last:
        yield f"blend_last {asked.blend_last} changes nothing: method {spec.method} blends in all steps"
    if asked.block not in (None, spec.block) and (spec.block or 0) < max(canvas_of(spec, info).box.shape):
        yield f"block {asked.block} is taken as {spec.block}, the next size whose patches fill batches"
    if spec.eta is not None and not takes_eta(spec.scheduler or info.scheduler):
        yield f"eta {spec.eta:g} changes nothing: scheduler {spec.scheduler} takes none; ddim and tcd do"
    yield from idle_workers(asked.workers, spec.executor)


def idle_workers(asked: int | None, executor: str) -> Iterator[str]:
    """Workers asked for that this executor does not have."""
    if executor == "in-process" and (asked or 1) > 1:
        yield f"workers {asked} changes nothing: executor in-process is one; ray takes more"


def model_notes(info: ModelInfo) -> Iterator[str]:
    """What of a model's files is used otherwise than they say, or not at all."""
    yield from (str(correction) for correction in info.notes.get("corrections", ()))
    yield from info.notes.get("unused", ())


def _regions(spec: JobSpec, info: ModelInfo, canvas: Canvas) -> JobRegions | None:
    """Checked, so that unusable ones are refused before any worker starts."""
    from cluster.words.regions import regions_of

    return regions_of(spec, info, canvas)


def _check_legend(info: ModelInfo) -> None:
    """Classes that could not be saved beside the picture are refused before it is made."""
    from cluster.words.legend import legend_of

    legend_of(info)


def _check_classes(spec: JobSpec, canvas: Canvas, info: ModelInfo) -> None:
    """Read the map here, so that an unusable one is refused before any worker starts."""
    from cluster.words.class_maps import image_map

    image_map(spec, info, canvas).check()


def _stretched(spec: JobSpec, canvas: Canvas) -> Iterator[str]:
    """Whether the class map is resampled."""
    from cluster.words.class_maps import opened

    if spec.classes is None:
        return
    labels = opened(spec.classes)
    if (labels.height, labels.width) != (canvas.height, canvas.width):
        yield (
            f"class map {spec.classes} of {labels.width} x {labels.height} is stretched over "
            f"{canvas.width} x {canvas.height} latents by nearest neighbour"
        )


def _map_job(spec: JobSpec, info: ModelInfo, canvas: Canvas, map_info: ModelInfo | None) -> Job | None:
    """The map of a picture whose prompt is a mix: a picture of classes, a pixel a cell, made by the same engine."""
    from generation.models.loading import describe, map_model
    from generation.places.scenes import Mix, parse

    if not info.class_names or spec.classes is not None:
        return None
    wanted = parse(spec.prompt, info.class_names)
    if not isinstance(wanted, Mix):
        return None
    model = map_model(spec.model)
    if model is None:
        raise SpecError(
            f"model {spec.model!r} has no map model that could arrange {spec.prompt!r}; name one class, a scene, "
            "or give a map with --classes"
        )
    map_info, cell = map_info or identified(describe(model)), int(info.notes.get("cell", 1))
    if map_info.notes["names"] != info.class_names:
        raise SpecError(
            f"the map model of {spec.model!r} knows other classes than the model; give a map with --classes"
        )
    height, width = -(-canvas.height // cell), -(-canvas.width // cell)
    for wraps, cells in ((canvas.topology.wraps_y, height), (canvas.topology.wraps_x, width)):
        if wraps and cells < map_info.patch:
            raise SpecError(
                f"a map of {width} x {height} cells is too small to wrap; a {spec.topology} of a mix needs at least "
                f"{map_info.patch * cell * info.scale} pixels round: make it larger, or name a scene or a class"
            )
    one_block = max(height, width) <= BLOCK
    fields = dict(
        prompt=wanted.words, width=width, height=height, model=model, seed=spec.seed, topology=spec.topology,
        method=map_info.notes["method"], overlap=map_info.notes["overlap"], device=spec.device,
        dtype=spec.dtype, threads=spec.threads, outputs=("deep-zoom",), tile_format="png", workers=spec.workers,
        executor="in-process" if one_block else spec.executor, preview_every=0, out=Path(spec.out) / "map",
    )  # fmt: skip
    return prepare_described(JobSpec(**fields), map_info, check_fit=False)
