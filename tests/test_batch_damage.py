"""Whatever is lost or damaged of a batch's folder, the batch ends in the bytes of an undisturbed one."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from batches import GIANT, LARGE, ROWS, files_of_batch, made
from tiny_class_models import build_class_map

import cluster
from cluster.datasets.names import PARTS
from cluster.datasets.tasks import ASSEMBLE
from cluster.engine import executors
from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from storage.damage import DamagedData

WANTED = [GIANT, *ROWS[:3]]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def undisturbed(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return files_of_batch(made(model, tmp_path_factory.mktemp("batch") / "set", WANTED, **LARGE).folder)


def parts_of(folder: Path) -> Path:
    """Where a batch under way keeps the parts of its first shard."""
    return folder / "work" / PARTS / "00000"


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


class Harmed(InProcess):
    """Something happens to the parts of a shard just before they are put together, so many times."""

    times = 0
    act: Callable[[], None]

    def next(self, patience: float = inf) -> Outcome | None:
        if self._waiting and self._waiting[0][1] == ASSEMBLE and type(self).times > 0:
            type(self).times -= 1
            type(self).act()
        return super().next(patience)


@pytest.fixture
def harmed(monkeypatch: pytest.MonkeyPatch) -> type[Harmed]:
    class Here(Harmed):
        pass

    monkeypatch.setitem(executors.EXECUTORS, "in-process", Here.of)
    return Here


@pytest.mark.parametrize("harm", [Path.unlink, flip])
@pytest.mark.parametrize("part", ["00000", "00001"], ids=["large", "small"])
def test_a_part_that_is_lost_or_damaged_is_drawn_again(
    harm: Callable[[Path], Any], part: str, model: Path, tmp_path: Path, harmed: type[Harmed],
    undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    path = parts_of(tmp_path / "set") / f"{part}.parquet"
    harmed.times, harmed.act = 1, lambda: harm(path)
    result = made(model, tmp_path / "set", WANTED, **LARGE)
    assert harmed.times == 0 and files_of_batch(result.folder) == undisturbed
    assert f"{part}.parquet is missing or damaged; its requests are drawn again" in caplog.text


def test_parts_that_are_damaged_again_and_again_end_the_batch(
    model: Path, tmp_path: Path, harmed: type[Harmed]
) -> None:
    path = parts_of(tmp_path / "set") / "00001.parquet"
    harmed.times, harmed.act = 100, lambda: flip(path)
    with pytest.raises(DamagedData, match=r"missing or damaged, 4 times; is the disk in order\?"):
        made(model, tmp_path / "set", WANTED, **LARGE)


@pytest.mark.parametrize("harm", [empty, flip])
def test_a_batch_goes_on_from_damaged_parts(
    harm: Callable[[Path], Any],
    model: Path,
    tmp_path: Path,
    harmed: type[Harmed],
    undisturbed: dict[str, bytes],
) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    harmed.times, harmed.act = 1, stop
    with pytest.raises(Interrupted):
        made(model, tmp_path / "set", WANTED, **LARGE)
    for path in parts_of(tmp_path / "set").glob("*.parquet"):
        harm(path)
    assert files_of_batch(made(model, tmp_path / "set", WANTED, resume=True, **LARGE).folder) == undisturbed


@pytest.mark.parametrize(
    ("harm", "pattern"),
    [(Path.unlink, "data/*.parquet"), (flip, "data/*.parquet"), (empty, "manifests/*.json")],
)
def test_verify_finds_a_damaged_shard_and_going_on_draws_it_again(
    harm: Callable[[Path], Any], pattern: str, model: Path, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    folder = made(model, tmp_path / "set", WANTED, **LARGE).folder
    whole = cluster.verify(folder)
    assert (whole.finished, whole.read, whole.damaged) == (True, 4, ())
    (path,) = folder.glob(pattern)
    harm(path)
    assert cluster.verify(folder).damaged == ("train-00000-of-00001",)
    made(model, folder, WANTED, resume=True, **LARGE)
    assert files_of_batch(folder) == undisturbed and cluster.verify(folder).is_whole
