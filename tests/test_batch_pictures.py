"""Batches: each picture is the one that `generate` makes of the same settings, whatever it is drawn with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from batches import ROWS, array_of, made, settings, table_in
from PIL import Image
from tiny_class_models import build_class_map, build_map

import cluster


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = build_class_map(tmp_path_factory.mktemp("model"))
    build_map(folder / "map")
    return folder


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(model, tmp_path_factory.mktemp("batch") / "set").folder


def generated(
    model: Path, out: Path, row: dict[str, Any], **fields: Any
) -> tuple[np.ndarray, np.ndarray, str]:
    """(pixels, class ids, fingerprint) of the same request by `generate`."""
    spec = settings(model, **{"batch_size": 3, **fields}, prompt=row.get("label", row.get("prompt")))
    spec |= {name: value for name, value in row.items() if name not in ("id", "label", "prompt")}
    cluster.generate(out=out, **spec)
    levels = [zarr.open_array(out / "image.zarr" / name)[:] for name in ("0", "labels/classes/0")]
    fingerprint = yaml.safe_load((out / "job.yaml").read_text())["fingerprint"]
    return np.moveaxis(levels[0], 0, -1), levels[1].astype(int) - 1, fingerprint


def assert_as_generated(
    model: Path, out: Path, row: dict[str, Any], drawn: dict[str, Any], **fields: Any
) -> None:
    pixels, ids, fingerprint = generated(model, out, row, **fields)
    np.testing.assert_array_equal(array_of(drawn["image"]), pixels)
    np.testing.assert_array_equal(array_of(drawn["mask"]), ids)
    assert drawn["fingerprint"] == fingerprint


@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_picture_is_the_one_that_generate_makes(
    index: int, model: Path, done: Path, tmp_path: Path
) -> None:
    assert_as_generated(model, tmp_path / "job", ROWS[index], table_in(done)[index])


@pytest.mark.parametrize(
    "fields",
    [
        {"method": "hann", "scheduler": "euler_a", "guidance_scale": 2.0},
        {"method": "uniform", "topology": "torus", "scheduler": "dpmpp_2m", "overlap": 0.25},
        {"topology": "ring", "guidance_scale": 1.5},
        {"method": "random-patch", "topology": "ring", "cond_scale": 1.0},
        {"method": "random-grid", "cond_scale": 0.0},
    ],
)
def test_so_it_is_with_every_kind_of_setting(fields: dict[str, Any], model: Path, tmp_path: Path) -> None:
    rows = [{**row, "width": 100, "height": 72} for row in ROWS[:3]]
    out = made(model, tmp_path / "set", rows, **fields).folder
    assert_as_generated(model, tmp_path / "job", rows[1], table_in(out)[1], **fields)


def test_rows_may_have_scales_steps_and_mixes_of_their_own(model: Path, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "prompt": "sea", "guidance_scale": 2.0},
        {"id": "b", "prompt": "60% sea, wood", "guidance_scale": 3.5},
        {"id": "c", "prompt": "sand", "num_inference_steps": 2},
        {"id": "d", "prompt": "sand, wood", "guidance_scale": 3.0, "num_inference_steps": 2},
        {"id": "e", "prompt": "wood"},
    ]
    rows = [{**row, "seed": 7, "width": 300, "height": 280} for row in rows]
    out = made(model, tmp_path / "set", rows).folder
    for row, drawn in zip(rows, table_in(out), strict=True):
        assert_as_generated(model, tmp_path / row["id"], row, drawn)


def test_class_maps_come_as_paths_or_bytes(model: Path, tmp_path: Path) -> None:
    ids = np.random.default_rng(1).integers(0, 3, (16, 16)).astype(np.uint8)
    path = tmp_path / "ids.png"
    Image.fromarray(ids).save(path)
    common = {"prompt": "a map", "seed": 3, "width": 64, "height": 64}
    rows = [
        {"id": "path", "classes": str(path), **common},
        {"id": "bytes", "classes": path.read_bytes(), **common},
    ]
    by_path, by_bytes = table_in(made(model, tmp_path / "set", rows).folder)
    assert by_path["image"]["bytes"] == by_bytes["image"]["bytes"]
    assert by_path["fingerprint"] == by_bytes["fingerprint"]
    np.testing.assert_array_equal(array_of(by_path["mask"]), ids.repeat(4, axis=0).repeat(4, axis=1))
    assert_as_generated(model, tmp_path / "job", {**common, "classes": path}, by_path)


def test_a_giant_is_a_job_of_its_own(model: Path, tmp_path: Path) -> None:
    rows = [{**ROWS[0], "id": "giant", "width": 200, "height": 180}, *ROWS[:2]]
    out = made(model, tmp_path / "set", rows, block=16, batch_size=1).folder
    giant, *others = table_in(out)
    assert_as_generated(model, tmp_path / "job", rows[0], giant, batch_size=1)
    kinds = [json.loads(line)["task"] for line in (out / "timings.jsonl").read_text().splitlines()]
    assert sorted(kinds)[-3:] == [
        "giants",
        "giants",
        "shards",
    ]  # 100 x 64 pixels are more than 16 latents, too
    assert [row["id"] for row in others] == ["r0", "r1"]


def test_words_are_encoded_once_and_give_the_same_pictures(folders: dict[str, Path], tmp_path: Path) -> None:
    rows = [
        {
            "id": str(index),
            "prompt": words,
            "seed": index,
            "width": 40,
            "height": 40,
            "negative_prompt": "blurry",
        }
        for index, words in enumerate(["a lake", "a hill", "a lake"])
    ]
    out = made(folders["sd1"], tmp_path / "set", rows, guidance_scale=4.0).folder
    for row, drawn in list(zip(rows, table_in(out), strict=True))[1:]:
        job = tmp_path / row["id"]
        spec = {name: value for name, value in row.items() if name != "id"}
        cluster.generate(out=job, **settings(folders["sd1"], guidance_scale=4.0), **spec)
        np.testing.assert_array_equal(
            array_of(drawn["image"]), np.moveaxis(zarr.open_array(job / "image.zarr/0")[:], 0, -1)
        )
        assert "mask" not in drawn


def test_regions_are_masks_as_generate_labels_them(folders: dict[str, Path], tmp_path: Path) -> None:
    """Small requests and a large one; the map is given by a path of the current folder."""
    labels = np.zeros((10, 10), np.uint8)
    labels[:, 6:] = 3
    Image.fromarray(labels).save(tmp_path / "map.png")
    fields: dict[str, Any] = {
        "regions": tmp_path / "map.png", "region": {3: "a hill"}, "region_box": {"0,0,50%,25%": "a road"}, "block": 40,
        "batch_size": 1,
    }  # fmt: skip
    rows = [
        {"id": str(side), "prompt": "a lake", "seed": side, "width": side, "height": 48}
        for side in (40, 64, 120)
    ]
    out = made(folders["sd1"], tmp_path / "set", rows, webdataset=True, folders=True, **fields).folder
    drawn = table_in(out)
    for row, found in zip(rows, drawn, strict=True):
        assert_as_generated(folders["sd1"], tmp_path / row["id"], row, found, **fields)
        assert set(np.unique(array_of(found["mask"]))) == {0, 1, 2}
    legend = json.loads((out / "batch.json").read_text())["legend"]
    assert [name for name, _ in legend] == ["elsewhere", "a hill", "a road"]
    assert "0 elsewhere, 1 a hill, 2 a road" in (out / "README.md").read_text()
    assert len(list((out / "folders" / "masks").iterdir())) == 3
    kinds = [json.loads(line)["task"] for line in (out / "timings.jsonl").read_text().splitlines()]
    assert "giants" in kinds and "draw" in kinds
