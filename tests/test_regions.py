"""Regions in the engine: identities, exactness, which evaluations are done, and what they are weighed with."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine import files_of, latents_of, tiny_job, whole_block
from numpy.typing import NDArray
from regional import HEIGHT, WIDTH, Heard, Listening, drawn, label_map, model_of, quarters, regional_job, told
from test_engine import Shuffled

from cluster.engine.worker import build_sampler
from cluster.jobs.job import Job
from cluster.jobs.plan import Plan
from generation.sampling.covers import Patch, owned_patches
from generation.sampling.denoise import Fields, Sampler
from generation.sampling.fusion import from_fixed
from generation.sampling.packing import draw_together
from generation.sampling.parts import Part
from storage.geometry import TOPOLOGIES

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
METHODS = ("shifted", "hann", "random-patch", "random-grid")
FEATHERED = {"region_feather": 12, "guidance_scale": 3.0, "negative_prompt": "dust"}


# --- the same picture, however it is computed ------------------------------------------------------------------------


@pytest.mark.parametrize("topology", TOPOLOGIES)
@pytest.mark.parametrize("method", METHODS)
def test_blocks_equal_the_whole_canvas(method: str, topology: str, tmp_path: Path, monkeypatch) -> None:
    fields = told(tmp_path / "map.png", method=method, topology=topology, scheduler="euler_a", **FEATHERED)
    parts = regional_job(tmp_path / "parts", monkeypatch, **fields)
    whole = whole_block(regional_job(tmp_path / "whole", monkeypatch, **fields))
    drawn(parts)
    drawn(whole)
    assert np.array_equal(latents_of(parts), latents_of(whole))


def test_files_do_not_depend_on_blocks_or_the_order_of_tasks(tmp_path: Path, monkeypatch) -> None:
    fields = told(tmp_path / "map.png", **FEATHERED)
    one = regional_job(tmp_path / "one", monkeypatch, **fields)
    two = regional_job(tmp_path / "two", monkeypatch, block=30, **fields)
    assert one.fingerprint == two.fingerprint
    drawn(one)
    drawn(two, kind=Shuffled)
    assert np.array_equal(latents_of(one), latents_of(two))
    pictures = [
        {name: content for name, content in files_of(job.spec.out).items() if "latents" not in name}
        for job in (one, two)
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) > 50


@pytest.mark.parametrize("topology", ["plane", "torus"])
@pytest.mark.parametrize("method", ["shifted", "hann", "random-patch"])
def test_equal_to_whole_predictions_put_together_by_masks(
    method: str, topology: str, tmp_path: Path, monkeypatch
) -> None:
    """The slow way: every prompt over the whole canvas alone, weights by sums over the tent, latent by latent."""
    fields = told(
        tmp_path / "map.png", method=method, topology=topology, guidance_scale=3.0, region_feather=10
    )
    job = whole_block(regional_job(tmp_path / "job", monkeypatch, **fields))
    drawn(job)
    assert job.regions is not None
    regions = job.regions
    weights = slow_weights(job)
    samplers = [
        build_sampler(
            replace(
                job,
                regions=None,
                spec=job.spec.model_copy(
                    update={"prompt": wording.prompt, "negative_prompt": wording.negative_prompt}
                ),
            ),
            model_of(job),
        )
        for wording in regions.wordings
    ]
    expected = composed(job, samplers, weights)
    assert float(np.abs(expected).std()) > 0.1
    np.testing.assert_allclose(latents_of(job), expected, atol=2e-5, rtol=2e-6)


def slow_weights(job: Job) -> NDArray[np.float64]:
    """(R, H, W): shares of the regions under a tent, by their definition."""
    assert job.regions is not None
    canvas, regions = job.plan.canvas, job.regions.regions
    ids = job.regions.map.read(canvas.box)
    reach = regions.regions[0].blend - 1
    modes = ["wrap" if wraps else "edge" for wraps in (canvas.topology.wraps_y, canvas.topology.wraps_x)]
    wide = np.pad(np.pad(ids, ((reach, reach), (0, 0)), modes[0]), ((0, 0), (reach, reach)), modes[1])
    line = (reach + 1 - np.abs(np.arange(-reach, reach + 1))) / (reach + 1) ** 2
    kernel = np.multiply.outer(line, line)
    out = np.zeros((len(regions.regions), *ids.shape))
    for y, x in np.ndindex(ids.shape):
        near = wide[y : y + len(line), x : x + len(line)]
        for region in range(len(out)):
            out[region, y, x] = kernel[near == region].sum()
    return out


def composed(job: Job, samplers: list[Sampler], weights: NDArray[np.float64]) -> NDArray[np.float32]:
    canvas, frame = job.plan.canvas, job.plan.frame(0)
    first = samplers[0]
    fields: Fields = [first.start(canvas.box)]
    for k in range(job.plan.steps):
        rows, columns = np.arange(frame.y0, frame.y1), np.arange(frame.x0, frame.x1)
        x = fields[0][:, rows[:, None] % canvas.height, columns % canvas.width]
        fused = np.zeros((first.channels, canvas.height, canvas.width))
        for sampler, weight in zip(samplers, weights, strict=True):
            sums = from_fixed(sampler.evaluate(k, canvas.box, frame, x).sums.astype(np.int64))
            whole = np.zeros_like(fused)
            np.add.at(whole, (slice(None), rows[:, None] % canvas.height, columns[None] % canvas.width), sums)
            fused += weight * whole
        fields = first.advance(k, canvas.box, fields, fused.astype(np.float32))
    return fields[0]


# --- one region ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_one_region_over_all_is_the_plain_prompt_byte_for_byte(
    guidance: float, tmp_path: Path, monkeypatch
) -> None:
    fields: dict[str, Any] = {"method": "hann", "guidance_scale": guidance, "negative_prompt": "dust"}
    plain = regional_job(tmp_path / "plain", monkeypatch, prompt="a wood", **fields)
    boxed = regional_job(
        tmp_path / "box", monkeypatch, prompt="unheard", region_box={"0,0,100%,100%": "a wood"}, **fields
    )
    labels = label_map(tmp_path / "map.png", np.full((7, 5), 2))
    mapped = regional_job(
        tmp_path / "map", monkeypatch, prompt="unheard", regions=labels, region={2: "a wood"}, region_feather=9,
        **fields,
    )  # fmt: skip
    heard = {}
    for job in (plain, boxed, mapped):
        denoiser = Listening()
        drawn(job, denoiser)
        heard[job.spec.out.name] = denoiser.heard
    assert np.array_equal(latents_of(plain), latents_of(boxed))
    assert np.array_equal(latents_of(plain), latents_of(mapped))
    assert heard["plain"] == heard["box"] == heard["map"]


def test_inside_a_region_hard_masks_give_that_prompts_own_predictions(tmp_path: Path, monkeypatch) -> None:
    """One step: a latent whose patch is wholly in a region is what the region's prompt gives alone."""
    fields: dict[str, Any] = {"num_inference_steps": 1, "method": "shifted"}
    job = regional_job(
        tmp_path / "a",
        monkeypatch,
        prompt="left",
        region_box={"50%,0,50%,100%": "a far longer right"},
        **fields,
    )
    left = regional_job(tmp_path / "b", monkeypatch, prompt="left", **fields)
    right = regional_job(tmp_path / "c", monkeypatch, prompt="a far longer right", **fields)
    for one in (job, left, right):
        drawn(one)
    assert job.regions is not None
    canvas, apart = job.plan.canvas, latents_of(left) != latents_of(right)
    assert apart.mean() > 0.9
    inside = 0
    for patch in owned_patches(job.plan.cover, 0, canvas.box):
        ids = np.unique(job.regions.map.read(patch.owns))
        for alone, number in ((left, 0), (right, 1)):
            if ids.tolist() == [number]:
                at = (slice(None), *patch.owns.slices_in(canvas.box))
                assert np.array_equal(latents_of(job)[at], latents_of(alone)[at])
                inside += 1
    assert inside > 4
    ids = job.regions.map.read(canvas.box)
    mixed = np.where(ids == 0, latents_of(left), latents_of(right))
    assert np.array_equal(latents_of(job), mixed)


# --- which evaluations are done --------------------------------------------------------------------------------------


@pytest.mark.parametrize("feather", [0, 14])
@pytest.mark.parametrize("method", METHODS)
def test_a_patch_is_evaluated_for_the_regions_in_it_and_no_other(
    method: str, feather: int, tmp_path: Path, monkeypatch
) -> None:
    fields = told(tmp_path / "map.png", method=method, region_feather=feather, batch_size=1)
    job = regional_job(tmp_path / "job", monkeypatch, guidance_scale=2.0, negative_prompt="dust", **fields)
    denoiser = Listening()
    events = drawn(job, denoiser)
    weights = slow_weights(job)
    expected: Counter[float] = Counter()
    told_here = 0
    assert job.regions is not None
    for k in range(job.plan.steps):
        for patch in owned_patches(job.plan.cover, k, job.plan.canvas.box):
            rows, columns = (
                np.arange(low, high) % side
                for low, high, side in (
                    (patch.owns.y0, patch.owns.y1, job.plan.canvas.height),
                    (patch.owns.x0, patch.owns.x1, job.plan.canvas.width),
                )
            )
            present = [
                wording
                for number, wording in enumerate(job.regions.wordings)
                if (weights[number][np.ix_(rows, columns)] > 0).any()
            ]
            told_here += len(present)
            expected.update(round(len(wording.prompt) / 10, 3) for wording in present)
            expected.update({round(-len(wording.negative_prompt) / 10, 3) for wording in present})
    assert Counter(denoiser.heard) == expected
    assert denoiser.evaluated == job.plan.evaluations and job.plan.spent.exact
    assert (
        sum(getattr(event, "evaluations", 0) for event in events) == told_here == job.plan.spent.conditional
    )
    assert told_here > 1.05 * job.plan.patches


def test_without_guidance_nothing_is_evaluated_twice(tmp_path: Path, monkeypatch) -> None:
    job = regional_job(tmp_path / "job", monkeypatch, **told(tmp_path / "map.png", batch_size=1))
    denoiser = Listening()
    drawn(job, denoiser)
    assert denoiser.evaluated == job.plan.evaluations == job.plan.spent.conditional
    assert min(denoiser.heard) > 0


def test_cond_scale_0_evaluates_negative_prompts_alone(tmp_path: Path, monkeypatch) -> None:
    fields = told(tmp_path / "map.png", cond_scale=0, negative_prompt="dust", batch_size=1)
    job = regional_job(tmp_path / "job", monkeypatch, **fields)
    denoiser = Listening()
    drawn(job, denoiser)
    assert set(denoiser.heard) == {-len("dust") / 10, -len("fog") / 10}
    assert denoiser.evaluated == job.plan.evaluations < 1.5 * job.plan.patches


def test_regions_of_one_prompt_are_evaluated_once(tmp_path: Path, monkeypatch) -> None:
    boxes = [{"box": "0,0,50%,50%", "prompt": "a wood", "feather": 6}, "50%,50%,50%,50%=a wood"]
    job = regional_job(tmp_path / "job", monkeypatch, region_box=boxes)
    assert job.regions is not None and len(job.regions.wordings) == 3
    assert (
        max(
            job.plan.regions.count(0, patch)[0]
            for patch in owned_patches(job.plan.cover, 0, job.plan.canvas.box)
        )
        == 2
    )


def test_large_plans_estimate_their_evaluations(tmp_path: Path, monkeypatch) -> None:
    boxes = {"20%,20%,50%,50%": "a wood", "40%,40%,50%,50%": "a lake"}
    job = regional_job(
        tmp_path / "job", monkeypatch, width=1200, height=800, region_box=boxes, guidance_scale=2.0
    )
    monkeypatch.setattr(sys.modules[Plan.__module__], "COUNTED_PATCHES", job.plan.patches)
    exact = job.plan.spent
    monkeypatch.setattr(sys.modules[Plan.__module__], "COUNTED_PATCHES", 2000)
    sampled = replace(job.plan).spent
    assert exact.exact and not sampled.exact
    assert sampled.total == pytest.approx(exact.total, rel=0.03)


# --- batches of several pictures -------------------------------------------------------------------------------------


def test_pictures_with_regions_share_batches_with_others(tmp_path: Path, monkeypatch) -> None:
    fields = told(tmp_path / "map.png", **FEATHERED)
    jobs = [
        regional_job(tmp_path / "a", monkeypatch, **fields),
        regional_job(tmp_path / "b", monkeypatch, guidance_scale=5.0),
        regional_job(tmp_path / "c", monkeypatch, topology="torus", seed=5, **fields),
    ]
    jobs = [whole_block(job) for job in jobs]
    assert not any(job.plan.batching.padded for job in jobs)
    samplers = [build_sampler(job, model_of(job)) for job in jobs]
    together = draw_together(samplers, [job.plan.frame(0) for job in jobs])
    for job, picture in zip(jobs, together.pictures, strict=True):
        drawn(job)
        assert np.array_equal(latents_of(job), picture)
    assert together.spent.evaluations == sum(job.plan.spent.conditional for job in jobs)
    assert together.spent.seats == sum(job.plan.spent.seats for job in jobs)


def test_parts_that_share_a_null_have_one_number(tmp_path: Path, monkeypatch) -> None:
    job = regional_job(tmp_path / "job", monkeypatch, guidance_scale=2.0, **told(tmp_path / "map.png"))
    assert job.regions is not None
    sampler = build_sampler(job, model_of(job))
    box = job.plan.canvas.box
    parts = sampler.mixture.parts(0, Patch(box, box))
    heard = {(part.conditioner.prompt, part.null) for part in parts if isinstance(part.conditioner, Heard)}
    assert len(parts) == 5 == len({prompt for prompt, _ in heard})
    nulls = dict(heard)
    assert nulls["a wood"] == nulls["a test"] != nulls["a tower"]


def test_a_part_without_weights_counts_everywhere() -> None:
    part = Part(Heard("a", ""))
    assert part.weights is None and torch.equal(part.conditioner.conditional([])["told"], torch.zeros(0))


# --- maps, boxes and shapes on the latents ---------------------------------------------------------------------------


def test_a_map_of_any_size_is_stretched_over_the_picture(tmp_path: Path, monkeypatch) -> None:
    labels = np.random.default_rng(4).integers(0, 3, (23, 190))
    job = regional_job(
        tmp_path / "job", monkeypatch, regions=label_map(tmp_path / "map.png", labels),
        region={1: "a wood", 2: "a lake"},
    )  # fmt: skip
    assert job.regions is not None
    ids = job.regions.map.read(job.plan.canvas.box)
    for y, x in np.ndindex(ids.shape):
        under = labels[int((2 * y + 1) / HEIGHT * 23), int((2 * x + 1) / WIDTH * 190)]
        assert ids[y, x] == under


def test_later_boxes_lie_over_earlier_ones_and_over_the_map(tmp_path: Path, monkeypatch) -> None:
    job = regional_job(
        tmp_path / "job", monkeypatch, regions=quarters(tmp_path / "map.png"), region={3: "a wood"},
        region_box=["20,20,40,40=a barn", "40,40,40,20=a lake"],
    )  # fmt: skip
    assert job.regions is not None
    ids = job.regions.map.read(job.plan.canvas.box)
    expected = np.zeros_like(ids)
    expected[:, round(33 / 60 * 53) :] = 1
    expected[12:20, 28:40] = ids[12:20, 28:40]
    expected[10:30, 10:30], expected[20:30, 20:40] = 2, 3
    assert (ids != expected).mean() < 0.01
    assert np.array_equal(ids[10:30, 10:40], expected[10:30, 10:40])


@pytest.mark.parametrize(("topology", "x"), [("ring", 90), ("torus", 90)])
def test_boxes_go_round_where_the_picture_does(topology: str, x: int, tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(
        tmp_path / "job",
        monkeypatch,
        width=100,
        height=60,
        topology=topology,
        region_box=[f"{x},10,20,20=a barn"],
    )
    assert job.regions is not None
    ids = job.regions.map.read(job.plan.canvas.box)
    expected = np.zeros((30, 50), np.uint8)
    expected[5:15, 45:], expected[5:15, :5] = 1, 1
    assert np.array_equal(ids, expected)


# --- labels beside the picture ---------------------------------------------------------------------------------------


def test_the_regions_are_the_labels_of_the_picture(tmp_path: Path, monkeypatch) -> None:
    import zarr
    from labelled import description_in, layer_in

    job = regional_job(tmp_path / "job", monkeypatch, **told(tmp_path / "map.png"))
    drawn(job)
    assert job.regions is not None
    stored = np.asarray(zarr.open_group(job.spec.out / "image.zarr" / "labels" / "classes", mode="r")["0"][:])
    ids = job.regions.map.read(job.plan.canvas.box)
    assert np.array_equal(stored, ids.repeat(2, axis=0).repeat(2, axis=1) + 1)
    names = [name for name, _ in job.regions.legend()]
    assert names == ["a test", "a wood", "some deep water", "a tower", "an old red barn"]
    assert len({colour for _, colour in job.regions.legend()}) == 5
    assert list(description_in(job.spec.out)["classes"]["names"]) == names
    assert np.array_equal(np.asarray(layer_in(job.spec.out)), ids)
