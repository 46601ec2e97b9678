"""Copies of the user's files that are lost from a job's folder: named with all that is damaged, and made again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_class_models
from engine import files_of
from harm import flip, one, remove, verdict
from test_inputs import begun, painted, spec_of

from cluster import api, generate
from cluster.commands.verifying import said
from cluster.spec.fields import SpecError

Harm = Callable[[Path], None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_class_models.build_class_map(tmp_path_factory.mktemp("inputs") / "model")


FINISHED = [pytest.param(True, id="finished"), pytest.param(False, id="begun")]


def made(model: Path, tmp_path: Path, finished: bool = True) -> Path:
    """A job with a class map and its labels."""
    labels = tmp_path / "labels.yaml"
    labels.write_text("0: wood\n2: sand\n")
    given = painted(tmp_path / "a.png", 0)
    spec = spec_of(
        model, tmp_path / "job", classes=given, class_labels=labels, outputs=("ome-zarr", "deep-zoom")
    )
    generate(spec) if finished else begun(spec)
    return tmp_path / "job"


def everything(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("finished", FINISHED)
@pytest.mark.parametrize(
    ("pattern", "harm"),
    [("inputs/*.png", remove), ("inputs/*.png", flip), ("inputs/*.yaml", flip), ("inputs", remove)],
)
def test_a_lost_copy_is_damage_and_is_copied_again(
    pattern: str,
    harm: Harm,
    finished: bool,
    model: Path,
    tmp_path: Path,
) -> None:
    folder = made(model, tmp_path, finished)
    whole = {path: path.read_bytes() for path in folder.glob("inputs/*")}
    assert verdict(folder)[2] == ()
    names = {path.relative_to(folder).as_posix() for path in folder.glob("inputs/*")}
    lost = names if pattern == "inputs" else {one(folder, pattern).relative_to(folder).as_posix()}
    harm(one(folder, pattern))
    before = everything(folder)
    assert set(verdict(folder)[2]) == lost and everything(folder) == before
    api.resume(folder)
    assert {path: path.read_bytes() for path in folder.glob("inputs/*")} == whole
    assert api.verify(folder).is_whole


@pytest.mark.parametrize("finished", FINISHED)
def test_one_that_nobody_has_is_named_with_all_that_is_damaged(
    finished: bool,
    model: Path,
    tmp_path: Path,
) -> None:
    folder = made(model, tmp_path, finished)
    copy, tile = one(folder, "inputs/*.png"), one(folder, "image_files/*/*.*" if finished else "work/*/c.*")
    (tmp_path / "a.png").rename(tmp_path / "elsewhere.png")
    remove(copy)
    flip(tile)
    found = api.verify(folder)
    assert len(found.damaged) == 2 and found.damaged[1] == f"inputs/{copy.name}"
    assert f"class map {copy} is missing or damaged" in said(found) and "under that name" in said(found)
    assert json.loads(json.dumps(found.as_json()))["advice"] == list(found.advice)
    with pytest.raises(SpecError, match="copy what you gave there, under that name") as raised:
        api.resume(folder)
    assert "\n" not in str(raised.value)
    (tmp_path / "elsewhere.png").rename(copy)
    api.resume(folder, thorough=True)
    assert api.verify(folder).is_whole


def test_it_can_be_given_again_and_the_job_knows_where_it_was_then(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path / "job", classes=painted(tmp_path / "a.png", 1))
    begun(spec)
    moved = (tmp_path / "a.png").rename(tmp_path / "b.png")
    remove(tmp_path / "job/inputs")
    generate(spec.model_copy(update={"classes": moved}), resume=True)
    remove(tmp_path / "job/inputs")
    api.resume(tmp_path / "job")
    assert len(list((tmp_path / "job/inputs").iterdir())) == 1


@pytest.mark.parametrize("name", ["map.png", "shapes.geojson"])
def test_a_picture_with_regions_is_looked_at_without_their_map(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / name
    if path.suffix == ".png":
        given = {"regions": painted(path, 3), "region": {3: "a wood"}}
    else:
        ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
        shape = {"type": "Polygon", "coordinates": [[[64 * x, 64 * y] for x, y in ring]]}
        feature = {"type": "Feature", "properties": {"prompt": "a wood"}, "geometry": shape}
        path.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
        given = {"regions": path}
    generate(spec_of(folders["sd1"], tmp_path / "job", **given))
    before, whole = files_of(tmp_path / "job"), api.verify(tmp_path / "job")
    remove(path)
    remove(tmp_path / "job/inputs")
    found = api.verify(tmp_path / "job")
    assert whole.is_whole and found.read == whole.read and len(found.damaged) == len(found.advice) == 1
    assert files_of(tmp_path / "job") == before
