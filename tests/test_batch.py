"""Batches: shards that load, reruns of the same bytes, resuming, failures, filters."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from batches import ROWS, array_of, draws_in, errors_in, files_of_batch, made, table_in
from PIL import Image
from tiny_class_models import CLASSES, build_class_map

import cluster
from cluster.datasets import drawing, plan, shards
from cluster.datasets.packing import groups_of
from cluster.datasets.plan import CheckedRequest
from cluster.engine.driver import Interrupted
from generation.models import loading
from generation.sampling import packing
from storage.fingerprint import FormatError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(model, tmp_path_factory.mktemp("batch") / "set").folder


# --- the table -------------------------------------------------------------------------------------------------------


def test_the_table_has_every_request_in_order(done: Path) -> None:
    rows = table_in(done)
    assert [row["id"] for row in rows] == [row["id"] for row in ROWS]
    for row, asked in zip(rows, ROWS, strict=True):
        assert (row["prompt"], row["seed"], row["width"], row["height"]) == (
            asked["label"], asked["seed"], asked["width"], asked["height"],
        )  # fmt: skip
        assert array_of(row["image"]).shape == (asked["height"], asked["width"], 3)
        assert set(np.unique(array_of(row["mask"]))) == {CLASSES.index(asked["label"])}
    assert errors_in(done) == []
    assert json.loads((done / "_SUCCESS").read_text())["drawn"] == len(ROWS)
    assert not (done / "work").exists()


def test_the_schema_is_that_of_hugging_face_images(done: Path) -> None:
    (path,) = (done / "data").iterdir()
    assert path.name == "train-00000-of-00001.parquet"
    features = json.loads(pq.read_schema(path).metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == features["mask"] == {"_type": "Image"}
    assert features["seed"] == {"dtype": "uint64", "_type": "Value"}
    assert features["guidance_scale"]["dtype"] == "float64"


LOADS = """
import sys, datasets
loaded = datasets.load_dataset(sys.argv[1], split="train")
assert loaded.column_names == sys.argv[2].split(), loaded.column_names
assert loaded.features["seed"].dtype == "uint64" and isinstance(loaded.features["mask"], datasets.Image)
assert [row["id"] for row in loaded] == [f"r{n}" for n in range(6)]
assert loaded[1]["image"].size == (100, 64) and loaded[1]["image"].mode == "RGB"
print(loaded[0]["mask"].mode, loaded[0]["mask"].getpixel((0, 0)))
"""


def test_the_library_datasets_loads_it(done: Path, tmp_path: Path) -> None:
    """In a process of its own, for it reads the environment as it is imported; without a network."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    names = "id image mask prompt negative_prompt seed width height num_inference_steps guidance_scale fingerprint"
    told = subprocess.run(
        [sys.executable, "-c", LOADS, str(done), names],
        env={**os.environ, **offline}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert told.stdout.split() == ["P", str(CLASSES.index("sea"))]


def test_the_card_counts_and_names_the_licence(done: Path) -> None:
    _, front, body = (done / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(front)
    assert "255 is no class: leave these pixels out when you train" in body
    assert card["license"] == "other"  # the tiny model is not the embedded one
    assert card["dataset_info"]["splits"][0]["num_examples"] == len(ROWS)
    assert card["configs"][0]["data_files"][0]["path"] == "data/train-*.parquet"
    assert "6 pictures in 1 shard," in body and "0 sea, 1 sand, 2 wood" in body
    assert str(done.parent) not in body  # no path of this machine


def test_manifests_hold_the_digests(done: Path) -> None:
    (path,) = (done / "manifests").iterdir()
    manifest = json.loads(path.read_text())
    content = (done / manifest["file"]).read_bytes()
    assert (manifest["sha256"], manifest["bytes"]) == (hashlib.sha256(content).hexdigest(), len(content))


def test_shards_and_row_groups_keep_to_their_limits(model: Path, tmp_path: Path) -> None:
    small_shards = made(model, tmp_path / "set", shard_bytes=80_000).folder
    paths = sorted((small_shards / "data").iterdir())
    assert [path.name for path in paths] == [
        f"train-{n:05d}-of-{len(paths):05d}.parquet" for n in range(len(paths))
    ]
    assert len(paths) > 2
    assert all(path.stat().st_size <= 80_000 for path in paths)
    assert [row["id"] for row in table_in(small_shards)] == [row["id"] for row in ROWS]
    entries = [{"size": size} for size in (10, 20_000, 10, 10)]
    assert [len(group) for group in shards.row_groups(entries, 2 * 4096 + 20)] == [1, 1, 2]


# --- the same bytes again --------------------------------------------------------------------------------------------


def test_a_rerun_gives_the_same_bytes(model: Path, done: Path, tmp_path: Path) -> None:
    assert files_of_batch(made(model, tmp_path / "again").folder) == files_of_batch(done)


def test_what_it_is_packed_with_changes_no_picture(model: Path, done: Path, tmp_path: Path) -> None:
    turned = table_in(made(model, tmp_path / "set", ROWS[::-1]).folder)[::-1]
    assert [row["image"]["bytes"] for row in turned] == [row["image"]["bytes"] for row in table_in(done)]


def asked(index: int, **fields: Any) -> CheckedRequest:
    values: dict[str, Any] = {
        "index": index, "id": str(index), "prompt": "sea", "negative_prompt": "", "seed": 0, "width": 64, "height": 64,
        "guidance_scale": 1.0, "num_inference_steps": 3, "classes": None, "classes_hash": None,
        "giant": False, "patches": 2,
    }  # fmt: skip
    return CheckedRequest.of({**values, **fields})


def test_groups_hold_each_request_once_up_to_the_budget() -> None:
    rows = [asked(index, num_inference_steps=3 + index % 2) for index in range(9)] + [asked(9, giant=True)]
    rows += [asked(10, patches=99), asked(11, guidance_scale=2.0)]
    groups = groups_of(rows, budget=6)
    assert sorted(row.index for group in groups for row in group.rows) == list(range(12))
    assert all(sum(row.patches for row in group.rows) <= 6 or len(group.rows) == 1 for group in groups)
    assert all(
        len({(row.steps, row.told["guidance_scale"] > 1) for row in group.rows}) == 1 for group in groups
    )
    assert [group.rows[0].index for group in groups if group.giant] == [9]


# --- stopping and going on -------------------------------------------------------------------------------------------


class Stop:
    """Interrupts after so many groups."""

    def __init__(self, after: int) -> None:
        self.left = after
        self._begin = drawing.BatchWorker.begin

    def __call__(self, worker: drawing.BatchWorker, task: tuple[int, int]) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self._begin(worker, task)


@pytest.mark.parametrize("after", [1, 2, 4])
def test_going_on_draws_nothing_twice(
    after: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(model, tmp_path / "whole", shard_bytes=80_000).folder
    stop = Stop(after)
    with monkeypatch.context() as patched:
        patched.setattr(drawing.BatchWorker, "begin", lambda worker, task: stop(worker, task))
        with pytest.raises(Interrupted):
            made(model, tmp_path / "set", shard_bytes=80_000)
    assert not (tmp_path / "set" / "_SUCCESS").exists()
    made(model, tmp_path / "set", shard_bytes=80_000, resume=True)
    drawn = draws_in(tmp_path / "set")
    assert sorted(set(drawn)) == sorted(drawn) == sorted(draws_in(whole))
    assert files_of_batch(tmp_path / "set") == files_of_batch(whole)


def test_a_damaged_shard_is_made_again_and_only_that(model: Path, tmp_path: Path) -> None:
    out = made(model, tmp_path / "set", shard_bytes=80_000).folder
    before, drawn = files_of_batch(out), draws_in(out)
    damaged = sorted((out / "data").iterdir())[1]
    content = bytearray(damaged.read_bytes())
    content[100] ^= 1
    damaged.write_bytes(bytes(content))
    made(model, out, shard_bytes=80_000, resume=True)
    assert files_of_batch(out) == before
    assert {shard for shard, _ in draws_in(out)[len(drawn) :]} == {1}


def test_a_finished_batch_is_not_drawn_again(model: Path, done: Path) -> None:
    before = (done / "timings.jsonl").read_bytes()
    assert made(model, done, resume=True).summary.drawn == len(ROWS)
    assert (done / "timings.jsonl").read_bytes() == before


def test_another_batch_is_refused(model: Path, done: Path) -> None:
    before = files_of_batch(done)
    with pytest.raises(FormatError, match="holds another batch"):
        made(model, done, ROWS[:2], resume=True)
    with pytest.raises(FormatError, match="holds another batch"):
        made(model, done, num_inference_steps=2, resume=True)
    with pytest.raises(cluster.SpecError, match="add --resume"):
        made(model, done)
    assert files_of_batch(done) == before


# --- failures and filters --------------------------------------------------------------------------------------------


def test_a_request_that_fails_harms_no_other(
    model: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = packing._Picture.add

    def broken(picture: Any, k: int, patch: Any, prediction: Any) -> None:
        wrong = picture.sampler.seed == ROWS[1]["seed"] and k == 1
        add(picture, k, patch, np.full_like(prediction, np.nan) if wrong else prediction)

    monkeypatch.setattr(packing._Picture, "add", broken)
    result = made(model, tmp_path / "set")
    assert (result.summary.drawn, result.summary.failed) == (5, 1)
    (error,) = errors_in(result.folder)
    assert (error["id"], error["kind"]) == ("r1", "failed")
    assert "NaN at step 1" in error["error"] and "\n" not in error["error"]
    kept = [row for row in table_in(done) if row["id"] != "r1"]
    assert table_in(result.folder) == kept


JUDGES = """
import numpy as np

def brightness(image):
    return float(np.asarray(image).mean())

def is_wide(image):
    return image.width > 64

def odd(image):
    return "good"

def raises(image):
    raise KeyError("colour")
"""


@pytest.fixture
def judges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judges.py").write_text(JUDGES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "judges", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.mark.usefixtures("judges")
def test_a_filter_scores_and_leaves_out(model: Path, tmp_path: Path) -> None:
    scored = table_in(made(model, tmp_path / "scored", filter="judges:brightness").folder)
    assert [row["score"] for row in scored] == [array_of(row["image"]).mean() for row in scored]
    result = made(model, tmp_path / "wide", filter="judges:is_wide")
    assert [row["id"] for row in table_in(result.folder)] == ["r1", "r4"]
    assert (result.summary.filtered, result.summary.failed) == (4, 0)
    assert {row["kind"] for row in errors_in(result.folder)} == {"filtered"}


@pytest.mark.usefixtures("judges")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("odd", "returned 'good'; return True, False or a finite number"),
        ("raises", "raised KeyError: 'colour'"),
    ],
)
def test_a_filter_that_fails_is_the_requests_failure(
    name: str, message: str, model: Path, tmp_path: Path
) -> None:
    result = made(model, tmp_path / "set", ROWS[:2], filter=f"judges:{name}")
    assert result.summary.failed == 2
    assert all(message in row["error"] for row in errors_in(result.folder))


@pytest.mark.usefixtures("judges")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("judges", "is not module:function"),
        ("judges:brightnes", "did you mean brightness"),
        ("nowhere:f", "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_an_unknown_filter_is_refused_at_once(name: str, message: str, model: Path, tmp_path: Path) -> None:
    with pytest.raises(cluster.SpecError, match=message):
        made(model, tmp_path / "set", filter=name)
    assert not (tmp_path / "set").exists()


def wide(image: Image.Image) -> bool:
    return image.width > 64


def test_a_filter_may_be_a_function(model: Path, tmp_path: Path) -> None:
    result = made(model, tmp_path / "named", filter=wide)
    rows = [(row["id"], row["score"]) for row in table_in(result.folder)]
    assert rows == [("r1", None), ("r4", None)], "what is True is no number"
    assert json.loads((result.folder / "batch.json").read_text())["filter"] == f"{__name__}:wide"
    assert errors_in(result.folder)[0]["error"] == f"filter {__name__}:wide returned False"
    seen: list[int] = []  # of this process: nothing is sent anywhere
    scored = made(model, tmp_path / "scored", ROWS[:2], filter=lambda image: seen.append(image.width) or 0.5)
    assert [row["score"] for row in table_in(scored.folder)] == [0.5, 0.5] and sorted(seen) == [64, 100]


def test_a_filter_that_no_worker_could_get_is_refused(model: Path, tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(
        cluster.SpecError, match='cannot be sent to Ray\'s workers .* give it as "module:function"'
    ):
        made(model, tmp_path / "set", filter=lambda image: lock.locked(), executor="ray")
    with pytest.raises(cluster.SpecError, match="filter 3 is neither a function nor module:function"):
        made(model, tmp_path / "set", filter=3)
    assert not (tmp_path / "set").exists()


# --- other loaders ---------------------------------------------------------------------------------------------------


def test_tars_and_folders_hold_the_same_pictures(model: Path, tmp_path: Path) -> None:
    import tarfile

    out = made(model, tmp_path / "set", webdataset=True, folders=True).folder
    rows = table_in(out)
    with tarfile.open(out / "webdataset" / "train-00000-of-00001.tar") as tar:
        names = tar.getnames()
        assert names[:3] == ["00000000.png", "00000000.mask.png", "00000000.json"] and len(names) == 3 * len(
            rows
        )
        member = tar.extractfile("00000002.png")
        assert member is not None and member.read() == rows[2]["image"]["bytes"]
    lines = [json.loads(line) for line in (out / "folders" / "metadata.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [row["id"] for row in rows]
    for line, row in zip(lines, rows, strict=True):
        assert (out / "folders" / line["file_name"]).read_bytes() == row["image"]["bytes"]
        assert (out / "folders" / line["mask_file_name"]).read_bytes() == row["mask"]["bytes"]
    assert files_of_batch(
        made(model, tmp_path / "again", webdataset=True, folders=True).folder
    ) == files_of_batch(out)


def test_tars_and_folders_may_come_later(model: Path, tmp_path: Path) -> None:
    whole = made(model, tmp_path / "whole", webdataset=True, folders=True, shard_bytes=80_000).folder
    out = made(model, tmp_path / "set", shard_bytes=80_000).folder
    drawn = draws_in(out)
    made(model, out, shard_bytes=80_000, resume=True, webdataset=True)
    assert (out / "webdataset").is_dir() and not (out / "folders").exists()
    made(model, out, shard_bytes=80_000, resume=True, webdataset=True, folders=True)
    assert files_of_batch(out) == files_of_batch(whole)
    assert draws_in(out) == drawn
    assert not (out / "work").exists()


def test_a_model_is_loaded_once(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[str] = []
    load = loading.load

    def counted(name: str, **options: Any) -> Any:
        loads.append(name)
        return load(name, **options)

    monkeypatch.setattr(loading, "load", counted)
    made(model, tmp_path / "set", shard_bytes=80_000)
    assert loads == [str(model)]


def test_another_version_of_the_program_makes_another_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PICTURE_VERSION", 0)
    made(model, tmp_path / "set", ROWS[:1])
    monkeypatch.undo()
    with pytest.raises(FormatError, match="holds another batch"):
        made(model, tmp_path / "set", ROWS[:1], resume=True)
