"""Batches on Ray: the bytes of the in-process executor with any number of workers, when one dies too; Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from batches import ROWS, array_of, files_of_batch, made, settings, table_in
from PIL import Image
from tiny_class_models import build_class_map

from cluster.engine.executors.ray_actors import RayActors, connect
from cluster.following.events import TaskRetried
from cluster.spec.fields import SpecError

pytestmark = [
    pytest.mark.ray,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"
    ),
]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    connect(4)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def reference(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(model, tmp_path_factory.mktemp("batch") / "set", shard_bytes=80_000).folder


@pytest.mark.usefixtures("cluster")
def test_other_workers_give_the_same_files(model: Path, reference: Path, tmp_path: Path) -> None:
    out = made(model, tmp_path / "set", shard_bytes=80_000, executor="ray", workers=3).folder
    assert files_of_batch(out) == files_of_batch(reference)


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("workers", [1, 3])
def test_a_large_request_is_drawn_by_the_same_actors(
    workers: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[int] = []
    start = RayActors.__init__

    def counted(executor: RayActors, work: Any) -> None:
        start(executor, work)
        started.append(executor.workers)

    rows = [ROWS[0], {**ROWS[1], "id": "large", "width": 200, "height": 180}, *ROWS[2:4]]
    least = 100  # goes to the actors within the function
    fields: dict[str, Any] = {"block": 26, "filter": lambda image: image.width >= least or 0.5}
    here = made(model, tmp_path / "here", rows, **fields)
    monkeypatch.setattr(RayActors, "__init__", counted)
    there = made(model, tmp_path / "there", rows, **fields, executor="ray", workers=workers)
    assert started == [workers]
    assert files_of_batch(there.folder) == files_of_batch(here.folder)
    lines = [json.loads(line) for line in (there.folder / "timings.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {"giants", "draw", "shards"}
    if workers == 1:
        assert len({line["worker"] for line in lines}) == 1  # one process drew all


@pytest.mark.usefixtures("cluster")
def test_a_killed_worker_changes_nothing(
    model: Path, reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    submit, submitted = RayActors.submit, []

    def submit_and_kill(executor: RayActors, task: tuple[int, int]) -> None:
        submit(executor, task)
        submitted.append(task)
        if len(submitted) == 2:
            ray.kill(next(member.handle for member, _ in executor._running.values()))

    monkeypatch.setattr(RayActors, "submit", submit_and_kill)
    fields = {"shard_bytes": 80_000, "executor": "ray", "workers": 2}
    out = made(model, tmp_path / "set", **fields, on_event=told.append).folder
    assert any(isinstance(event, TaskRetried) for event in told)
    assert files_of_batch(out) == files_of_batch(reference)


@pytest.mark.usefixtures("cluster")
def test_ray_data_draws_rows(model: Path, reference: Path) -> None:
    """Two actors, batches of two: what one process drew of all."""
    data = pytest.importorskip("ray.data", reason="ray.data lacks a dependency here")
    from cluster.datasets.ray_data import Draw

    data.DataContext.get_current().enable_progress_bars = False
    rows = [{"prompt" if name == "label" else name: value for name, value in row.items()} for row in ROWS]
    drawn = data.from_items(rows).map_batches(
        Draw, fn_constructor_kwargs=settings(model), batch_size=2, compute=data.ActorPoolStrategy(size=2)
    )
    found = {row["id"]: row for row in drawn.take_all()}
    for expected in table_in(reference):
        row = found[expected["id"]]
        assert row["error"] is None
        np.testing.assert_array_equal(array_of({"bytes": row["image"]}), array_of(expected["image"]))
        assert row["mask"] == expected["mask"]["bytes"]
        assert row["fingerprint"] == expected["fingerprint"]


def test_rows_without_a_seed_are_refused(model: Path) -> None:
    from cluster.datasets.ray_data import Draw

    fields = {**settings(model), "width": 64, "height": 64}
    words = {"prompt": np.array(["sea", "wood"], object)}
    with pytest.raises(SpecError, match="no column seed"):
        Draw(**fields)(words)
    seeded = Draw(**fields)({**words, "seed": np.array([1.0, np.nan])})
    assert seeded["error"][0] is None and "the seed is empty" in seeded["error"][1]
    assert seeded["image"][1] is None
    for_all = Draw(**fields, seed=1)(words)
    assert list(for_all["error"]) == [None, None] and for_all["image"][0] == seeded["image"][0]


def test_the_adapter_keeps_what_fails_and_other_columns(model: Path) -> None:
    from cluster.datasets.ray_data import Draw

    draw = Draw(**{**settings(model), "width": 64, "height": 64})
    rows = {
        "prompt": np.array(["sea", "nowhere"], object),
        "seed": np.array([1, 2]),
        "mine": np.array([5, 6]),
    }
    found = draw(rows)
    assert found["mine"].tolist() == [5, 6]
    assert found["image"][0].startswith(b"\x89PNG") and found["error"][0] is None
    assert found["image"][1] is None and "does not know 'nowhere'" in found["error"][1]
    assert draw({name: values[:1] for name, values in rows.items()})["image"][0] == found["image"][0]


def test_the_adapter_returns_the_masks_of_regions(folders: dict[str, Path], tmp_path: Path) -> None:
    from cluster.datasets.ray_data import Draw

    labels = np.zeros((10, 10), np.uint8)
    labels[:, 5:] = 3
    Image.fromarray(labels).save(tmp_path / "map.png")
    fields = {
        **settings(folders["sd1"]), "width": 40, "height": 24, "regions": tmp_path / "map.png",
        "region": {3: "a hill"},
    }  # fmt: skip
    words = {"prompt": np.array(["a lake", "a sea"], object), "seed": np.array([1, 2])}
    found = Draw(**fields)(words)
    assert list(found["error"]) == [None, None]
    expected = np.repeat([[0] * 20 + [1] * 20], 24, axis=0)
    for mask in found["mask"]:
        np.testing.assert_array_equal(array_of({"bytes": mask}), expected)
