"""What a batch takes on disk, told before it is drawn; refused only where it cannot fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from batches import settings
from tiny_class_models import build_class_map
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.datasets.disk import CLASS_MAP_MODEL, GIANT_WORK, LEAST, disk_need
from cluster.datasets.entry import plan_batch
from cluster.datasets.extras import Extras
from cluster.datasets.plan import ROW_BYTES, Sizes
from cluster.datasets.requests import rows_at_hand
from cluster.spec.fields import SpecError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


def test_the_need_is_reckoned_from_pixels(model: Path, tmp_path: Path) -> None:
    rows = [{"id": str(n), "label": "sea", "width": 64, "height": 50 + n} for n in range(10)]
    fields = settings(model, out=tmp_path / "set")
    batch, need = plan_batch(rows_at_hand(rows), fields, sizes=Sizes(shard_bytes=60_000))
    pixels = sum(64 * (50 + n) for n in range(10))
    assert (batch.requests, batch.extent.pixels, need.pixels) == (10, pixels, pixels)
    assert batch.shards > 1 and pixels / batch.shards <= batch.extent.largest_shard < pixels
    assert batch.extent.largest_giant == 0
    assert need.least == int(LEAST * pixels)
    assert need.expected == int((pixels + batch.extent.largest_shard) * CLASS_MAP_MODEL + 10 * ROW_BYTES / 8)
    thrice = disk_need(batch, Extras(webdataset=True, folders=True), free=need.expected + 1)
    assert thrice.is_tight and not disk_need(batch, Extras(), free=need.expected).is_tight
    assert "may not fit" in thrice.line() and "10 pictures (0.0 megapixels)" in thrice.line()
    assert not (tmp_path / "set").exists()  # nothing is left of a plan


def test_a_large_picture_needs_room_to_work(model: Path, tmp_path: Path) -> None:
    rows = [{"id": "a", "label": "sea", "width": 700, "height": 64}]
    batch, need = plan_batch(rows_at_hand(rows), settings(model, out=tmp_path / "set", block=16))
    assert batch.extent.largest_giant == 700 * 64
    assert need.expected == int(700 * 64 * (2 * CLASS_MAP_MODEL + GIANT_WORK) + ROW_BYTES / 8)


def test_only_what_certainly_does_not_fit_is_refused(model: Path, tmp_path: Path) -> None:
    rows = [{"id": "a", "label": "sea", "width": 64, "height": 64}]
    batch, need = plan_batch(rows_at_hand(rows), settings(model, out=tmp_path / "set"))
    dataclasses.replace(need, free=need.least).check()
    with pytest.raises(SpecError, match="at least .* of disk, .* are free at .*; choose another --out"):
        dataclasses.replace(need, free=need.least - 1).check()
    (batch.out / "data").mkdir(parents=True)
    (batch.out / "data" / "train-00000-of-00001.parquet").write_bytes(b"x" * need.expected)
    assert disk_need(batch, Extras()).expected == 0  # what is there need not be written


def test_the_command_plans_and_tells(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    flags = [
        "--model",
        str(model),
        "--n-images",
        "3",
        "--label",
        "sea",
        "--image-size",
        "64",
        "--out",
        str(out),
    ]
    flags += ["--executor", "in-process", "--sampling-steps", "2", "--device", "cpu"]
    planned = CliRunner().invoke(app, ["batch", *flags, "--plan"])
    assert planned.exit_code == 0, planned.output
    assert planned.stdout.splitlines()[0] == "3 requests in 1 shard, nothing drawn"
    assert planned.stdout.splitlines()[1].startswith("disk: about ") and not out.exists()
    drawn = CliRunner().invoke(app, ["batch", *flags])
    assert drawn.exit_code == 0 and "disk: about" in drawn.stderr and "disk" not in drawn.stdout
