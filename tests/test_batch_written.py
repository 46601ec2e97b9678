"""What a batch has beside its shards is checked like the shards, and made again where it can be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batches import ROWS, files_of_batch, made
from harm import cut, empty, flip, one, remove
from tiny_class_models import build_class_map

import cluster
from cluster.datasets.written import WRITTEN, is_card

Harm = Callable[[Path], None]
BESIDE: dict[str, Any] = {"webdataset": True, "folders": True}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_class_map(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(model, tmp_path_factory.mktemp("finished") / "set", ROWS[:3], **BESIDE).folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "set"))


def go_on(model: Path, folder: Path, **fields: Any) -> None:
    made(model, folder, ROWS[:3], resume=True, **fields)


TAR = "webdataset/train-00000-of-00001.tar"


@pytest.mark.parametrize(
    ("pattern", "named"),
    [
        ("webdataset/*.tar", TAR),
        ("folders/images/*.png", "folders"),
        ("folders/masks/*.png", "folders"),
        ("folders/metadata.jsonl", "folders"),
        ("errors.parquet", "errors.parquet"),
        ("seconds.parquet", "seconds.parquet"),
    ],
)
@pytest.mark.parametrize("harm", [remove, empty, cut, flip])
def test_what_is_damaged_is_named_and_made_again(
    harm: Harm, pattern: str, named: str, model: Path, finished: Path, folder: Path
) -> None:
    """Without asking for the copies once more."""
    assert cluster.verify(folder).is_whole
    harm(one(folder, pattern))
    assert cluster.verify(folder).damaged == (named,)
    go_on(model, folder)
    assert files_of_batch(folder) == files_of_batch(finished)
    assert cluster.verify(folder) == cluster.verify(folder) and cluster.verify(folder).is_whole


@pytest.mark.parametrize("harm", [remove, empty])
def test_the_card_is_for_people_to_edit(harm: Harm, model: Path, finished: Path, folder: Path) -> None:
    card = folder / "README.md"
    edited = card.read_text().replace("Synthetic pictures", "My pictures")
    card.write_text(edited)
    assert cluster.verify(folder).is_whole
    go_on(model, folder)
    assert card.read_text() == edited and is_card(card)
    harm(card)
    assert cluster.verify(folder).damaged == ("README.md",)
    go_on(model, folder)
    assert card.read_bytes() == (finished / "README.md").read_bytes()


def test_all_of_it_may_be_damaged_at_once_and_is_named_with_the_shards(
    model: Path, finished: Path, folder: Path
) -> None:
    for pattern in ("data/*.parquet", TAR, "folders/images/*", "errors.parquet", "README.md"):
        empty(one(folder, pattern))
    found = cluster.verify(folder)
    assert found.damaged == ("train-00000-of-00001", "README.md", "errors.parquet", "folders", TAR)
    assert found.read == 6  # the table of seconds is whole
    go_on(model, folder)
    assert files_of_batch(folder) == files_of_batch(finished) and cluster.verify(folder).is_whole


@pytest.mark.parametrize("harm", [remove, empty, flip])
def test_without_what_was_told_of_them_all_are_made_again(
    harm: Harm, model: Path, finished: Path, folder: Path
) -> None:
    (folder / WRITTEN).write_text("[1]") if harm is flip else harm(folder / WRITTEN)
    flip(folder / TAR)
    assert cluster.verify(folder).damaged == (WRITTEN,)
    go_on(model, folder)
    assert files_of_batch(folder) == files_of_batch(finished) and cluster.verify(folder).is_whole


def test_copies_that_are_asked_for_later_are_told_of_too(model: Path, finished: Path, tmp_path: Path) -> None:
    plain = made(model, tmp_path / "set", ROWS[:3]).folder
    read = cluster.verify(plain).read
    go_on(model, plain, **BESIDE)
    assert files_of_batch(plain) == files_of_batch(finished)
    assert cluster.verify(plain).read == read + 2
    (plain / "folders/images/mine.txt").write_text("a note")
    flip(one(plain, "folders/images/*.png"))
    assert cluster.verify(plain).damaged == ("folders",)
    go_on(model, plain)
    assert cluster.verify(plain).is_whole and (plain / "folders/images/mine.txt").is_file()
