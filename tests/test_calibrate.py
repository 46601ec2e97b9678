"""What a plan says of time: a pace measured here by a little work, or guessed, and the seconds that follow from it."""

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_class_models
from labelled import spec_of

from cluster.engine import calibrate
from cluster.jobs.job import prepare
from cluster.jobs.report import WRITING_SECONDS_PER_MEGAPIXEL, Pace, report_on
from cluster.spec.fields import JobSpec

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_class_models.build_class_map(tmp_path_factory.mktemp("models") / "model")


def test_seconds_are_evaluations_and_pixels_over_the_workers(model: Path, tmp_path: Path) -> None:
    alone = spec_of(model, tmp_path / "out", width=2048, height=1024)
    job = prepare(JobSpec(**{**alone.model_dump(), "executor": "ray", "workers": 4}))
    report = report_on(job, Pace(0.5, 3.0, measured=True))
    assert report.seconds == pytest.approx((0.5 * report.evaluations + 3.0 * 2.097152) / 4)
    assert report.measured and not report_on(job).measured


def test_a_pace_is_that_of_the_jobs_own_batches_and_tiles(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a clock of one second for whatever is timed, the shares of a block and of a superblock remain."""
    job = prepare(spec_of(model, tmp_path / "out", width=2048, height=1024))
    done: list[object] = []
    monkeypatch.setattr(calibrate, "_seconds", lambda work: done.append(work()) or 1.0)
    pace = calibrate.pace_here(job)
    assert len(done) == 2 and pace.measured
    per_step = job.plan.evaluations / job.plan.steps
    assert 1 / pace.evaluation == pytest.approx(per_step / job.plan.blocks, rel=0.2)
    reads = job.plan.decode_box(0)
    tiles = [tile.source.area for tile in job.plan.tiling.tiles_over(reads)]
    superblock = job.plan.layout.reads(job.plan.layout.task(0, 0)).box.area / 1e6
    seconds = sum(tiles) / max(tiles) / superblock
    assert pace.megapixel == pytest.approx(seconds + WRITING_SECONDS_PER_MEGAPIXEL)


def test_a_map_that_is_still_to_be_invented_is_not_needed(tmp_path: Path) -> None:
    job = prepare(JobSpec(prompt="world", width=512, height=256, device="cpu", out=tmp_path / "out"))
    assert job.map is not None
    pace = calibrate.pace_here(job)
    assert pace.evaluation > 0 and pace.megapixel > WRITING_SECONDS_PER_MEGAPIXEL
    assert pace.of_map is not None and pace.of_map.evaluation > 0
    of_map = report_on(job.map, pace.of_map).seconds
    without = report_on(job, replace(pace, of_map=None)).seconds
    assert report_on(job, pace).seconds == pytest.approx(without + of_map)
    assert report_on(job).seconds > report_on(replace(job, map=None)).seconds  # guessed
    assert not (tmp_path / "out").exists()
