"""The coarse preview: the colours of latents, who draws what, and the files."""

import shutil
import time
import tracemalloc
from dataclasses import replace
from math import inf
from pathlib import Path

import numpy as np
import pytest
import torch
from engine import FLOW_CONFIG, INFO, SCALE, NearestCodec, files_of, latents_of, run, tiny_job, tiny_worker
from PIL import Image

from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.preview import EMPTY, LARGEST, PreviewWriter, read_preview
from cluster.jobs.job import Job, prepare
from cluster.spec.fields import JobSpec, SpecError
from generation.decoding.preview import LONGEST, Raster, fit_colours
from generation.models.loading import load
from storage.fingerprint import FormatError
from storage.geometry import PLANE, RING, Canvas, Grid

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

# --- pixels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("topology", [PLANE, RING])
@pytest.mark.parametrize(
    ("block", "longest", "reach"), [(16, 2048, 8), (19, 20, 8), (16, 5, 8), (7, 4, 3), (5, 1, 2)]
)
def test_each_pixel_is_drawn_once_and_does_not_depend_on_blocks(topology, block, longest, reach) -> None:
    canvas = Canvas(41, 53, topology)
    grid = Grid(canvas, block)
    raster = Raster.of(39, 53, reach, longest)
    assert max(raster.shape) <= longest
    latents = np.random.default_rng(0).standard_normal((3, 41, 53)).astype(np.float32)
    whole = raster.averages(latents, canvas.box, raster.pixels_of(canvas.box))
    assert whole.shape == (3, *raster.shape)
    drawn = np.zeros(raster.shape, int)
    for index in range(len(grid)):
        frame = canvas.clip(grid.box(index).expanded(reach))
        seen = np.full((3, *frame.shape), np.nan, np.float32)
        for piece, home in canvas.split_at_edges(frame):
            seen[(slice(None), *piece.slices_in(frame))] = latents[(slice(None), *home.slices_in(canvas.box))]
        pixels = raster.pixels_of(grid.box(index))
        drawn[pixels.y0 : pixels.y1, pixels.x0 : pixels.x1] += 1
        part = raster.averages(seen, frame, pixels)
        assert np.allclose(part, whole[:, pixels.y0 : pixels.y1, pixels.x0 : pixels.x1], atol=1e-6)
    assert (drawn == 1).all()


def test_a_pixel_is_the_mean_of_its_cell() -> None:
    raster = Raster.of(12, 18, reach=8, longest=6)
    latents = np.random.default_rng(0).standard_normal((2, 12, 18)).astype(np.float32)
    canvas = Canvas(12, 18)
    means = raster.averages(latents, canvas.box, raster.pixels_of(canvas.box))
    assert raster.shape == (4, 6)
    assert np.allclose(means, latents.reshape(2, 4, 3, 6, 3).mean((2, 4)), atol=1e-6)


def test_a_gigapixels_picture_stays_small() -> None:
    raster = Raster.of(1_250_000, 625_000, reach=32)
    assert raster.shape == (2046, 1023)
    assert raster.window == 33


def land(side: int) -> torch.Tensor:
    """(1, 3, side, side) in [-1, 1]: coasts and relief in the colours of land and sea, unlike the probe."""
    generator = np.random.default_rng(5)

    def relief(cells: int) -> torch.Tensor:
        rough = torch.from_numpy(generator.standard_normal((1, 1, cells, cells)))
        return torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic")

    height = relief(5) + 0.4 * relief(20) + 0.15 * relief(90)
    palette = ((0.05, 0.15, 0.35), (0.7, 0.6, 0.4), (0.2, 0.35, 0.15))
    sea, shore, hill = (torch.tensor(colour).view(1, 3, 1, 1) for colour in palette)
    colours = torch.where(height < 0, sea * (1 + 0.3 * height), shore + (hill - shore) * height.clamp(0, 1))
    return (colours * (1 + 0.2 * relief(150)) * 2 - 1).clamp(-1, 1).float()


def test_colours_are_those_of_the_embedded_models_decoder() -> None:
    """Here 35 dB; of pictures that it drew 39 dB, where the best map for them alone has 43 dB."""
    codec = load("embedded", dtype="float32", device="cpu").codec
    colours = fit_colours(codec, 8)
    with torch.inference_mode():
        latents = codec.encode(land(320))
        decoded = (codec.decode(latents) * 0.5 + 0.5).clamp(0, 1)
    wanted = torch.nn.functional.avg_pool2d(decoded, 8)[0].movedim(0, -1).numpy()
    painted = colours.paint(latents[0].numpy()) / 255
    assert -10 * np.log10(((painted - wanted) ** 2).mean()) > 30
    assert min(np.corrcoef(painted[..., i].ravel(), wanted[..., i].ravel())[0, 1] for i in range(3)) > 0.94


def test_a_linear_codec_is_met_exactly() -> None:
    weights = fit_colours(NearestCodec(), SCALE).weights
    assert np.allclose(weights, np.vstack([0.5 * np.eye(3), [[0.5] * 3]]), atol=1e-4)


@pytest.mark.parametrize("family", ["sd1", "sd3"])
def test_an_autoencoder_kl_is_met_in_its_mean_colour(family: str, models) -> None:
    """Random weights have no colours that a linear map could find; the mean of what they decode to is no accident."""
    model = models[family]
    with torch.inference_mode():
        latents = model.codec.encode(land(64))
        decoded = (model.codec.decode(latents) * 0.5 + 0.5).clamp(0, 1)
    painted = fit_colours(model.codec, model.info.scale).paint(latents[0].numpy()) / 255
    assert painted.shape == (32, 32, 3)
    assert abs(painted.mean((0, 1)) - decoded[0].mean((1, 2)).numpy()).max() < 0.1


def test_what_is_no_number_is_black_and_what_is_too_bright_is_white() -> None:
    colours = fit_colours(NearestCodec(), SCALE)
    latents = np.full((3, 1, 2), 9, np.float32)
    latents[:, 0, 0] = np.nan
    assert colours.paint(latents).tolist() == [[[0] * 3, [255] * 3]]


# --- files -----------------------------------------------------------------------------------------------------------


def shade(value: int, height: int = 4, width: int = 6) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_the_newest_entries_are_shown_and_the_version_grows(tmp_path: Path) -> None:
    assert read_preview(tmp_path) is None
    writer, versions = PreviewWriter(tmp_path, (4, 12)), []
    for corner, step, value in [((0, 0), 1, 10), ((0, 6), 1, 20), ((0, 0), 4, 30), ((0, 6), 4, 40)]:
        writer.write(corner, step, shade(value))
        picture, version = read_preview(tmp_path)
        versions.append(version)
        assert picture.shape == (4, 12, 3)
        assert (picture[:, corner[1] : corner[1] + 6] == value).all()
        if len(versions) == 1:
            assert (picture[:, 6:] == EMPTY).all()
            first = picture
    assert versions == sorted(set(versions))
    assert (first[:, :6] == 10).all(), "a picture handed out does not change"
    assert len(list((tmp_path / "work/preview").iterdir())) == 3
    writer.write((0, 0), 1, shade(99))
    assert (read_preview(tmp_path)[0][:, :6] == 30).all(), "a worker believed dead came late"
    again = read_preview(tmp_path)
    assert again[0] is read_preview(tmp_path)[0], "nothing changed, so nothing is read"
    with pytest.raises(ValueError, match="read-only"):
        again[0][0] = 0


def test_a_half_written_entry_is_never_shown(tmp_path: Path) -> None:
    writer = PreviewWriter(tmp_path, (40, 80))
    before = np.random.default_rng(0).integers(256, size=(40, 40, 3)).astype(np.uint8)
    writer.write((0, 0), 1, before)
    assert read_preview(tmp_path)[1] == 1
    folder = tmp_path / "work/preview"
    whole = (folder / "0_0_1.png").read_bytes()
    (folder / ".0_0_2.png.abcdef").write_bytes(whole)
    for step, length in enumerate([0, 20, len(whole) // 2, len(whole) - 100], start=3):
        (folder / f"0_0_{step}.png").write_bytes(whole[:length])
        picture, version = read_preview(tmp_path)
        assert version == 1 and (picture[:, :40] == before).all()
    Image.fromarray(shade(50, 41, 9)).save(folder / "0_40_1.png")
    assert (read_preview(tmp_path)[0][:, 40:] == EMPTY).all(), "larger than the picture"
    writer.write((0, 0), 9, shade(60, 40, 40))
    assert (read_preview(tmp_path)[0][:, :40] == 60).all()


def test_a_preview_that_went_is_forgotten_and_another_begins(tmp_path: Path) -> None:
    PreviewWriter(tmp_path, (4, 6)).write((0, 0), 7, shade(10))
    assert read_preview(tmp_path)[1] == 7
    shutil.rmtree(tmp_path / "work")
    PreviewWriter(tmp_path, (4, 12)).write((0, 6), 1, shade(20))
    picture, _ = read_preview(tmp_path)
    assert (picture[:, :6] == EMPTY).all() and (picture[:, 6:] == 20).all()
    shutil.rmtree(tmp_path / "work")
    assert read_preview(tmp_path) is None


def test_a_preview_of_another_version_is_refused(tmp_path: Path) -> None:
    PreviewWriter(tmp_path, (4, 6)).write((0, 0), 1, shade(10))
    layout = tmp_path / "work/preview/layout.json"
    layout.write_text(layout.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(FormatError, match="has format_version 2; this program reads 1"):
        read_preview(tmp_path)


@pytest.mark.parametrize(
    "layout",
    ["[]", "{", "[" * 100_000, '{"format_version": 1}', '{"format_version": 1, "height": 1, "width": true}',
     '{"format_version": 1, "height": 20000, "width": 20000}', '{"format_version": 1, "height": 2, "width": 1e999}',
     f'{{"format_version": 1, "height": 2, "width": {LARGEST + 1}}}'],
)  # fmt: skip
def test_a_layout_that_is_none_or_too_large_is_refused_before_it_takes_memory(
    layout: str, tmp_path: Path
) -> None:
    (tmp_path / "work/preview").mkdir(parents=True)
    (tmp_path / "work/preview/layout.json").write_text(layout)
    (tmp_path / "work/preview/0_0_1.png").write_bytes(b"")
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match=r"layout.json is damaged"):
            read_preview(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_a_preview_may_be_as_large_as_one_is_drawn() -> None:
    assert LARGEST == LONGEST


def test_an_entry_that_is_too_large_or_a_link_shows_nothing(tmp_path: Path) -> None:
    writer = PreviewWriter(tmp_path / "job", (64, 64))
    writer.write((0, 0), 1, np.full((32, 32, 3), 200, np.uint8))
    folder = tmp_path / "job" / "work" / "preview"
    (folder / "0_0_1.png").rename(tmp_path / "elsewhere.png")
    (folder / "0_32_1.png").symlink_to(tmp_path / "elsewhere.png")
    Image.new("1", (4000, 4000)).save(folder / "32_0_1.png")
    assert read_preview(tmp_path / "job") is None


def test_asking_again_is_cheap_with_thousands_of_blocks(tmp_path: Path) -> None:
    writer = PreviewWriter(tmp_path, (256, 256))
    for index in range(4096):
        writer.write((index // 64 * 4, index % 64 * 4), 1, shade(index % 200, 4, 4))
    assert read_preview(tmp_path)[1] == 4096
    writer.write((0, 0), 2, shade(255, 4, 4))
    began = time.process_time()
    picture, version = read_preview(tmp_path)
    assert time.process_time() - began < 0.25
    assert version == 4097 and (picture[:4, :4] == 255).all()


# --- the engine ------------------------------------------------------------------------------------------------------


def watched(job: Job) -> list[tuple[np.ndarray, int]]:
    """Run a job; what its preview showed after each task."""
    seen: list[tuple[np.ndarray, int]] = []

    def look(_: object) -> None:
        shown = read_preview(job.spec.out)
        if shown is not None and (not seen or shown[1] != seen[-1][1]):
            seen.append(shown)

    run(job, InProcess(tiny_worker(job)), look)
    return seen


@pytest.mark.parametrize("topology", ["plane", "ring"])
def test_the_preview_becomes_the_picture(topology: str, tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, preview_every=1, topology=topology, method="hann")
    seen = watched(job)
    assert len(seen) == job.plan.steps * job.plan.blocks
    assert [version for _, version in seen] == list(range(1, len(seen) + 1))
    expected = np.rint((latents_of(job) * 0.5 + 0.5).clip(0, 1) * 255).transpose(1, 2, 0)
    assert abs(seen[-1][0] - expected).max() <= 1, "the last step of DDIM lands on the clean latents"
    assert not (job.spec.out / "work").exists()


def test_the_preview_covers_the_picture_alone(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path / "job", monkeypatch, width=101, height=7)
    assert job.plan.canvas.height == INFO.patch
    assert watched(job)[-1][0].shape == (4, 51, 3)


def test_it_shows_after_the_first_step_every_so_many_and_the_last(tmp_path: Path, monkeypatch) -> None:
    for every, steps in [(1, 7), (3, 3), (100, 2), (0, 0), (4, 3), (6, 2)]:
        job = tiny_job(
            tmp_path / str(every), monkeypatch, block=53, num_inference_steps=7, preview_every=every
        )
        assert len(watched(job)) == steps, every


def test_it_changes_neither_the_fingerprint_nor_a_byte(tmp_path: Path, monkeypatch) -> None:
    fields = {"method": "hann", "scheduler": "euler_a"}
    without = tiny_job(tmp_path / "without", monkeypatch, preview_every=0, **fields)
    with_it = tiny_job(tmp_path / "with", monkeypatch, preview_every=1, **fields)
    assert without.fingerprint == with_it.fingerprint
    assert watched(without) == []
    assert watched(with_it)
    assert files_of(without.spec.out) == files_of(with_it.spec.out)


def test_a_flow_is_shown_too(tmp_path: Path, monkeypatch) -> None:
    info = replace(INFO, scheduler="flow_euler", scheduler_config=FLOW_CONFIG)
    job = tiny_job(tmp_path / "job", monkeypatch, info, preview_every=1)
    shown = watched(job)[-1][0]
    expected = np.rint((latents_of(job) * 0.5 + 0.5).clip(0, 1) * 255).transpose(1, 2, 0)
    assert abs(shown - expected).max() <= 1


def test_a_job_is_resumed_without_its_preview(tmp_path: Path, monkeypatch) -> None:
    class Stops(InProcess):
        taken = 0

        def next(self, patience: float = inf) -> Outcome | None:
            self.taken += 1
            if self.taken > 30:
                raise KeyboardInterrupt
            return super().next(patience)

    straight = tiny_job(tmp_path / "straight", monkeypatch, preview_every=1)
    watched(straight)
    stopped = tiny_job(tmp_path / "stopped", monkeypatch, preview_every=1)
    with pytest.raises(Interrupted):
        run(stopped, Stops(tiny_worker(stopped)), lambda event: None)
    assert read_preview(stopped.spec.out) is not None
    shutil.rmtree(stopped.spec.out / "work/preview")
    watched(stopped)
    assert files_of(stopped.spec.out) == files_of(straight.spec.out)


# --- the setting -----------------------------------------------------------------------------------------------------


def test_a_quarter_of_the_steps_unless_told_otherwise(tmp_path: Path) -> None:
    fields = {"prompt": "desert", "width": 512, "height": 512, "executor": "in-process", "out": tmp_path}
    for steps, given, resolved in [(12, None, 3), (50, None, 13), (2, None, 1), (12, 0, 0), (12, 7, 7)]:
        job = prepare(JobSpec(**fields, num_inference_steps=steps, preview_every=given), check_fit=False)
        assert job.spec.preview_every == resolved


def test_an_invented_map_has_no_preview_of_its_own(tmp_path: Path) -> None:
    job = prepare(
        JobSpec(prompt="60% forest and desert", width=2048, height=2048, out=tmp_path), check_fit=False
    )
    assert job.map is not None and job.map.spec.preview_every == 0 < (job.spec.preview_every or 0)


@pytest.mark.parametrize("value", [-1, 1001])
def test_numbers_out_of_range_are_refused(value: int, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=f"preview_every {value} is out of range.*or 0 for no preview"):
        JobSpec(prompt="desert", width=64, height=64, out=tmp_path, preview_every=value)
