"""Batches in which something goes wrong: each request has a picture or an error; and how large requests are drawn."""

from __future__ import annotations

import shutil
from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from batches import GIANT, LARGE, ROWS, errors_in, files_of_batch, made, settings, table_in
from PIL import Image
from tiny_class_models import build_class_map

from cluster.datasets import drawing, shards
from cluster.datasets import run as running
from cluster.datasets.entry import BatchResult, make_batch
from cluster.datasets.requests import rows_at_hand
from cluster.datasets.tasks import ASSEMBLE, GiantTask, RowTask
from cluster.engine import executors
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome, StartedTask
from cluster.engine.supervision import TaskFailed
from generation.models import loading
from generation.models.errors import ModelError
from generation.sampling import packing
from generation.sampling.denoise import Sampler


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def done(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small requests and a large one."""
    return made(model, tmp_path_factory.mktemp("batch") / "set", [GIANT, *ROWS[:3]], **LARGE).folder


# --- a worker that dies ----------------------------------------------------------------------------------------------


EVERY = "every request"


class Mortal(InProcess):
    """Its worker dies of one request, whatever that is drawn with; or `times` times of putting a shard together."""

    deadly = ""
    shard_kills = 0

    def capacity(self, ready: int) -> int:
        return 1

    def next(self, patience: float = inf) -> Outcome | None:
        if not self._dies(self._waiting[0]):
            return super().next(patience)
        return Outcome(self._waiting.popleft(), error=OSError("the worker is gone"), lost=True)

    def _dies(self, task: tuple[int, int]) -> bool:
        assert isinstance(self._worker, drawing.BatchWorker)
        shard, number = task.giant if isinstance(task, GiantTask) else task
        if number == ASSEMBLE:
            type(self).shard_kills -= 1
            return type(self).shard_kills >= 0
        rows = self._worker._groups(shard)[number].rows
        rows = (rows[task.place],) if isinstance(task, RowTask) else rows
        return self.deadly == EVERY or self.deadly in [row.id for row in rows]


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> type[Mortal]:
    class Here(Mortal):
        pass

    monkeypatch.setitem(executors.EXECUTORS, "in-process", Here.of)
    return Here


def test_a_request_that_kills_its_worker_fails_alone(
    model: Path, done: Path, tmp_path: Path, mortal: type[Mortal]
) -> None:
    mortal.deadly = "r1"
    result = made(model, tmp_path / "set", [GIANT, *ROWS[:3]], **LARGE)
    assert (result.summary.drawn, result.summary.failed) == (3, 1)
    (error,) = errors_in(result.folder)
    assert error["id"] == "r1" and "died 2 times of this request alone" in error["error"]
    assert table_in(result.folder) == [row for row in table_in(done) if row["id"] != "r1"]
    assert not (result.folder / "work").exists()


def test_so_does_a_large_one(model: Path, done: Path, tmp_path: Path, mortal: type[Mortal]) -> None:
    mortal.deadly = "giant"
    result = made(model, tmp_path / "set", [GIANT, *ROWS[:3]], **LARGE)
    (error,) = errors_in(result.folder)
    assert error["id"] == "giant" and "the worker died 4 times" in error["error"]
    assert table_in(result.folder) == table_in(done)[1:]


@pytest.mark.parametrize("rows", [ROWS[:2], [GIANT], [GIANT, *ROWS[:2]]], ids=["small", "large", "both"])
def test_where_workers_die_of_everything_the_batch_stops_and_goes_on(
    rows: list[dict[str, Any]], model: Path, tmp_path: Path, mortal: type[Mortal]
) -> None:
    """It is no request's fault: none is given up."""
    mortal.deadly = EVERY
    with pytest.raises(TaskFailed, match="is there enough memory"):
        made(model, tmp_path / "set", rows, **LARGE)
    mortal.deadly = ""
    assert made(model, tmp_path / "set", rows, resume=True, **LARGE).summary.drawn == len(rows)


def test_a_shard_whose_worker_dies_is_put_together_by_another(
    model: Path, done: Path, tmp_path: Path, mortal: type[Mortal]
) -> None:
    mortal.shard_kills = 3
    assert files_of_batch(
        made(model, tmp_path / "set", [GIANT, *ROWS[:3]], **LARGE).folder
    ) == files_of_batch(done)
    mortal.shard_kills = 4
    with pytest.raises(TaskFailed, match="shard 0: the worker died 4 times"):
        made(model, tmp_path / "other", ROWS[:3], **LARGE)


def test_a_shard_is_put_together_again_by_those_who_never_heard_of_it(
    model: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker was lost between removing the parts and telling of it, or just before removing them."""
    assemble = shards.assemble

    def twice(batch: Any, shard: int, groups: int) -> None:
        parts = shards.part_path(batch, shard, 0).parent
        shutil.copytree(parts, tmp_path / "parts")
        assemble(batch, shard, groups)
        assemble(batch, shard, groups)
        shutil.copytree(tmp_path / "parts", parts)
        assemble(batch, shard, groups)
        assert not parts.exists()

    monkeypatch.setattr(drawing, "assemble", twice)
    assert files_of_batch(
        made(model, tmp_path / "set", [GIANT, *ROWS[:3]], **LARGE).folder
    ) == files_of_batch(done)


# --- errors ----------------------------------------------------------------------------------------------------------


def failing(error: Exception, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is drawn with a picture fail, as when memory runs out: the error names no picture."""
    add = packing._Picture.add

    def broken(picture: Any, k: int, patch: Any, prediction: Any) -> None:
        if picture.sampler.seed == seed:
            raise error
        add(picture, k, patch, prediction)

    monkeypatch.setattr(packing._Picture, "add", broken)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), MemoryError()])
def test_a_group_that_fails_as_a_whole_is_drawn_one_by_one(
    error: Exception, model: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(error, ROWS[1]["seed"], monkeypatch)
    result = made(model, tmp_path / "set", ROWS[:3], **LARGE)
    (failed,) = errors_in(result.folder)
    assert (failed["id"], failed["error"]) == ("r1", str(error) or "MemoryError")
    assert [row["image"] for row in table_in(result.folder)] == [
        {**row["image"], "path": drawn["image"]["path"]}
        for row, drawn in zip(
            [row for row in table_in(done) if row["id"] in ("r0", "r2")], table_in(result.folder), strict=True
        )
    ]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), ModelError("no such weights")])
def test_what_is_no_requests_fault_stops_the_batch(
    error: Exception, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(error, ROWS[1]["seed"], monkeypatch)
    with pytest.raises(type(error)):
        made(model, tmp_path / "set", ROWS[:3], **LARGE)
    monkeypatch.undo()
    assert made(model, tmp_path / "set", ROWS[:3], resume=True, **LARGE).summary.drawn == 3


def test_a_model_that_cannot_be_loaded_stops_the_batch(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ModelError("the weights are gone")

    monkeypatch.setattr(loading, "load", missing)
    with pytest.raises(ModelError, match="the weights are gone"):
        made(model, tmp_path / "set", [GIANT, *ROWS[:1]], **LARGE)
    with pytest.raises(ModelError, match="the weights are gone"):
        made(model, tmp_path / "small", ROWS[:1])


def test_numbers_that_are_none_fail_a_large_request_alone(
    model: Path, done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = Sampler.evaluate

    def broken(sampler: Sampler, k: int, own: Any, frame: Any, x: Any) -> Any:
        return evaluate(sampler, k, own, frame, x * np.float32(np.nan) if k == 1 else x)

    monkeypatch.setattr(Sampler, "evaluate", broken)
    result = made(model, tmp_path / "set", [GIANT, *ROWS[:3]], **LARGE)
    (error,) = errors_in(result.folder)
    assert error["id"] == "giant" and "NaN" in error["error"] and "step 1" in error["error"]
    assert table_in(result.folder) == table_in(done)[1:]
    assert not (result.folder / "work").exists()


def test_a_mask_that_goes_away_fails_its_requests_alone(model: Path, tmp_path: Path) -> None:
    mask = tmp_path / "ids.png"
    Image.fromarray(np.zeros((18, 27), np.uint8)).save(mask)
    rows = [
        {**GIANT, "classes": str(mask)},
        {**ROWS[0], "width": 150, "height": 100, "classes": str(mask)},
        ROWS[1],
    ]
    result = made(model, tmp_path / "set", rows, **LARGE, on_event=lambda _: mask.unlink(missing_ok=True))
    assert [row["id"] for row in table_in(result.folder)] == ["r1"]
    assert [row["id"] for row in errors_in(result.folder)] == ["giant", "r0"]
    assert all(f"{mask} does not exist" in row["error"] for row in errors_in(result.folder))


# --- large requests and the workers ----------------------------------------------------------------------------------


def test_large_and_small_requests_share_one_pool_and_its_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[str] = []
    pools: list[Any] = []
    load = loading.load

    def counted(name: str, **options: Any) -> Any:
        loads.append(name)
        return load(name, **options)

    def pool(work: Any, host: Any) -> InProcess:
        pools.append(work)
        return InProcess.of(work, host)

    monkeypatch.setattr(loading, "load", counted)
    monkeypatch.setitem(executors.EXECUTORS, "in-process", pool)
    made(model, tmp_path / "set", [GIANT, ROWS[0], {**GIANT, "id": "other", "seed": 3}], **LARGE)
    assert (len(pools), loads) == (1, [str(model)])


@pytest.mark.parametrize(
    ("rows", "workers"),
    [([GIANT, {**GIANT, "id": "other"}], 8), ([GIANT, *ROWS[:3]], 8), (ROWS[:3], 2)],
    ids=["large", "both", "small"],
)
def test_large_requests_keep_all_workers_busy(
    rows: list[dict[str, Any]], workers: int, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And small ones need no more than they have groups."""
    asked: list[int | None] = []
    told: list[Any] = []

    def pool(work: Any, host: Any) -> InProcess:
        asked.append(work.spec.workers)
        return InProcess.of(work, host)

    monkeypatch.setitem(executors.EXECUTORS, "ray", pool)
    monkeypatch.setattr(running, "_ray_held", lambda batch: nullcontext())
    made(model, tmp_path / "set", rows, **LARGE, executor="ray", workers=8, on_event=told.append)
    assert asked == [workers]
    assert told[0].workers == workers


def test_the_map_of_a_large_request_is_drawn_by_the_same_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiny_class_models import build_map

    folder = build_class_map(tmp_path / "model")
    build_map(folder / "map")
    tasks: list[Any] = []
    begin = drawing.BatchWorker.begin

    def heard(worker: drawing.BatchWorker, task: Any) -> StartedTask:
        tasks.append(task)
        return begin(worker, task)

    monkeypatch.setattr(drawing.BatchWorker, "begin", heard)
    made(folder, tmp_path / "set", [{**GIANT, "label": "60% sea, wood"}], **LARGE)
    assert {task.of_map for task in tasks if isinstance(task, GiantTask)} == {True, False}


# --- what is remembered ----------------------------------------------------------------------------------------------


def test_a_changed_mask_makes_another_batch(model: Path, tmp_path: Path) -> None:
    mask = tmp_path / "ids.png"
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(mask)
    rows = [{**ROWS[0], "classes": str(mask)}]
    made(model, tmp_path / "set", rows)
    Image.fromarray(np.full((16, 16), 1, np.uint8)).save(mask)
    with pytest.raises(ValueError, match="holds another batch"):
        made(model, tmp_path / "set", rows, resume=True)
    Image.fromarray(np.zeros((16, 20), np.uint8)).save(mask)
    with pytest.raises(ValueError, match="does not match the picture"):
        made(model, tmp_path / "wide", rows)
    Image.fromarray(np.full((16, 16), 7, np.uint8)).save(mask)
    with pytest.raises(ValueError, match="holds label 7"):
        made(model, tmp_path / "seven", rows)


def test_words_that_another_batch_may_say_are_checked_again(model: Path, tmp_path: Path) -> None:
    made(model, tmp_path / "set", ROWS[:1])
    with pytest.raises(ValueError, match="row 1: --clean-map cleans maps"):
        made(model, tmp_path / "clean", ROWS[:1], clean_map=4)


def test_seconds_are_a_table_beside_the_timings(model: Path, done: Path, tmp_path: Path) -> None:
    rows = pq.read_table(done / "seconds.parquet").to_pylist()
    assert [(row["id"], row["index"]) for row in rows] == [("giant", 0), ("r0", 1), ("r1", 2), ("r2", 3)]
    assert all(row["seconds"] > 0 for row in rows)
    assert rows[1]["seconds"] == rows[2]["seconds"] != rows[3]["seconds"]  # of one group, and of another
    assert "seconds" not in table_in(done)[0]


# --- once more -------------------------------------------------------------------------------------------------------


def one_failed(model: Path, out: Path, mortal: type[Mortal], deadly: str, **fields: Any) -> Path:
    mortal.deadly = deadly
    made(model, out, [GIANT, *ROWS[:3]], **LARGE, **fields)
    mortal.deadly = ""
    return out


def again(model: Path, out: Path) -> BatchResult:
    """As --retry-failed does."""
    fields = {**settings(model, **LARGE), "out": out}
    return make_batch(rows_at_hand([GIANT, *ROWS[:3]]), fields, retry_failed=True)


@pytest.mark.parametrize("deadly", ["r1", "giant"])
def test_failed_requests_are_drawn_once_more_as_if_they_never_failed(
    deadly: str, model: Path, done: Path, tmp_path: Path, mortal: type[Mortal]
) -> None:
    out = one_failed(model, tmp_path / "set", mortal, deadly)
    before = files_of_batch(out)
    assert made(model, out, [GIANT, *ROWS[:3]], resume=True, **LARGE).summary.failed == 1
    assert files_of_batch(out) == before != files_of_batch(done)
    assert again(model, out).summary.failed == 0
    assert files_of_batch(out) == files_of_batch(done)
    mortal.deadly = EVERY
    assert again(model, out).summary.failed == 0, "what is whole is not drawn again"


def test_what_fails_again_is_told_again(model: Path, tmp_path: Path, mortal: type[Mortal]) -> None:
    rows, fields = ROWS[:2], {**settings(model, **LARGE), "out": tmp_path / "set"}
    mortal.deadly = "r1"
    before = files_of_batch(made(model, tmp_path / "set", rows, **LARGE).folder)
    assert make_batch(rows_at_hand(rows), fields, retry_failed=True).summary.failed == 1
    assert files_of_batch(tmp_path / "set") == before


def test_copies_of_what_is_drawn_once_more_are_written_anew(
    model: Path, tmp_path: Path, mortal: type[Mortal]
) -> None:
    out = one_failed(model, tmp_path / "set", mortal, "r1", webdataset=True, folders=True)
    again(model, out)
    whole = made(model, tmp_path / "whole", [GIANT, *ROWS[:3]], **LARGE, webdataset=True, folders=True).folder
    assert files_of_batch(out) == files_of_batch(whole)


def test_parts_that_hold_a_failed_request_are_drawn_once_more(
    model: Path, done: Path, tmp_path: Path, mortal: type[Mortal], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch stopped before its shard was put together."""
    monkeypatch.setattr(mortal, "shard_kills", 4)
    with pytest.raises(TaskFailed, match="shard 0"):
        one_failed(model, tmp_path / "set", mortal, "r1")
    mortal.deadly = ""
    assert again(model, tmp_path / "set").summary.failed == 0
    assert files_of_batch(tmp_path / "set") == files_of_batch(done)
