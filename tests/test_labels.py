"""The class map beside the picture: what is saved of it, by whom, and what independent readers make of it."""

from __future__ import annotations

from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_class_models
import zarr
from engine import run_here, tiny_job
from labelled import LEGEND, NAMES, description_in, drawn, labelled_job, patchwork_of, spec_of
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image as OmeImage
from ome_zarr_models.v05 import Labels as OmeLabels
from PIL import Image
from test_engine import Shuffled

from cluster import generate
from cluster.engine.driver import Interrupted
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.engine.outputs import outputs_for
from cluster.engine.worker import class_map
from cluster.jobs.job import Job, prepare
from storage.damage import DamagedData
from storage.formats.labels import LabelPyramid, enlarged, label_values
from storage.pyramid import PyramidLayout

pytestmark = pytest.mark.filterwarnings("ignore:__array:DeprecationWarning")
SIZES = [(1, 1), (33, 7), (101, 67), (128, 64), (106, 82)]
"""(width, height), most of them cut off inside a latent."""


def pixels_of_map(job: Job, classes: Any) -> NDArray[np.int64]:
    """The slow way: the class of the latent that each pixel of the picture lies in, plus one."""
    canvas, scale = job.plan.canvas, job.info.scale
    ids = classes.read(canvas.box).numpy() + 1
    rows, columns = np.arange(job.spec.height) // scale, np.arange(job.spec.width) // scale
    return ids[np.ix_(rows, columns)]


def labels_in(folder: Path) -> list[NDArray[np.uint8]]:
    """Every level, read by zarr-python."""
    group = zarr.open_group(folder / "image.zarr" / "labels" / "classes", mode="r")
    return [np.asarray(group[str(level)][:]) for level in range(len(list(group.array_keys())))]


def label_files(folder: Path) -> dict[str, bytes]:
    root = folder / "image.zarr" / "labels"
    found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
    return {**found, "script": (folder / "viewer" / "classes.js").read_bytes()}


# --- what is written -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_labels_are_the_class_map_at_every_pixel_and_levels_its_nearest_reductions(
    width: int, height: int, tmp_path: Path, monkeypatch
) -> None:
    job = drawn(labelled_job(tmp_path, monkeypatch, width=width, height=height))
    levels = labels_in(tmp_path)
    assert len(levels) == job.plan.layout.levels
    expected = pixels_of_map(job, patchwork_of(job))
    np.testing.assert_array_equal(levels[0], expected)
    for level, values in enumerate(levels):
        assert values.shape == job.plan.layout.size(level)
        np.testing.assert_array_equal(values, levels[0][:: 2**level, :: 2**level])
    if min(width, height) > 60:
        assert set(np.unique(expected)) == {0, 1, 2, 3}


@pytest.mark.parametrize("topology", ["ring", "torus"])
def test_labels_of_pictures_that_wrap(topology: str, tmp_path: Path, monkeypatch) -> None:
    job = drawn(labelled_job(tmp_path, monkeypatch, width=128, height=64, topology=topology))
    np.testing.assert_array_equal(labels_in(tmp_path)[0], pixels_of_map(job, patchwork_of(job)))


def test_the_bytes_depend_neither_on_blocks_nor_on_the_order_of_tasks(tmp_path: Path, monkeypatch) -> None:
    files = []
    for block, kind in ((16, InProcess), (19, Shuffled), (64, Shuffled)):
        job = labelled_job(tmp_path / str(block), monkeypatch, block=block, width=150, height=90)
        files.append(label_files(drawn(job, kind).spec.out))
    assert files[0] == files[1] == files[2]
    assert sum("/c/" in name for name in files[0]) > 8


def test_the_bytes_after_stops_and_resumes_are_the_same(tmp_path: Path, monkeypatch) -> None:
    class FiveTasks(InProcess):
        taken = 0

        def next(self, patience: float = inf) -> Outcome | None:
            self.taken += 1
            if self.taken > 5:
                raise KeyboardInterrupt
            return super().next(patience)

    straight = drawn(labelled_job(tmp_path / "straight", monkeypatch))
    stopped, stops = labelled_job(tmp_path / "stopped", monkeypatch), 0
    while True:
        try:
            drawn(stopped, FiveTasks)
            break
        except Interrupted:
            stops += 1
    assert stops > 5
    assert label_files(stopped.spec.out) == label_files(straight.spec.out)


def test_a_task_that_is_done_twice_leaves_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    class Flaky(InProcess):
        """Loses every third task after having done it."""

        count = 0

        def next(self, patience: float = inf) -> Outcome | None:
            outcome = super().next(patience)
            self.count += 1
            lost = Outcome(outcome.task, error=RuntimeError("worker died"), lost=True)
            return lost if self.count % 3 == 0 else outcome

    straight = drawn(labelled_job(tmp_path / "straight", monkeypatch))
    flaky = drawn(labelled_job(tmp_path / "flaky", monkeypatch), Flaky)
    assert label_files(flaky.spec.out) == label_files(straight.spec.out)


def test_labels_change_neither_the_picture_nor_its_identity(tmp_path: Path, monkeypatch) -> None:
    labelled = drawn(labelled_job(tmp_path / "with", monkeypatch))
    plain = tiny_job(tmp_path / "without", monkeypatch, prompt="sea")
    run_here(plain)
    assert labelled.fingerprint == plain.fingerprint
    for path in (tmp_path / "without" / "image.zarr").rglob("*"):
        twin = tmp_path / "with" / path.relative_to(tmp_path / "without")
        assert path.is_dir() or path.read_bytes() == twin.read_bytes()


def test_a_model_without_classes_has_no_labels(tmp_path: Path, monkeypatch) -> None:
    run_here(tiny_job(tmp_path, monkeypatch))
    assert (tmp_path / "image.zarr" / "zarr.json").exists()
    assert not (tmp_path / "image.zarr" / "labels").exists()
    assert not (tmp_path / "viewer" / "classes.js").exists()
    assert description_in(tmp_path)["classes"] is None


def test_with_deep_zoom_alone_the_layer_stays_and_the_labels_go_with_the_master(
    tmp_path: Path, monkeypatch
) -> None:
    drawn(labelled_job(tmp_path / "both", monkeypatch))
    drawn(labelled_job(tmp_path / "tiles", monkeypatch, outputs=("deep-zoom",)))
    drawn(labelled_job(tmp_path / "master", monkeypatch, outputs=("ome-zarr",)))
    assert not (tmp_path / "tiles" / "image.zarr").exists()
    scripts = [
        (tmp_path / name / "viewer" / "classes.js").read_bytes() for name in ("both", "tiles", "master")
    ]
    assert scripts[0] == scripts[1] == scripts[2]


def test_a_missing_shard_is_named_and_a_damaged_one_is_an_error(tmp_path: Path, monkeypatch) -> None:
    job = drawn(labelled_job(tmp_path, monkeypatch))
    labels = outputs_for(job).labels
    assert labels is not None
    shard = labels.levels.root / "0" / "c" / "0" / "1"
    damaged = bytearray(shard.read_bytes())
    damaged[0] ^= 0xFF
    shard.write_bytes(damaged)
    with pytest.raises(OSError, match="level 0 of classes"):
        labels.read_level(0, job.plan.layout.whole(0).box)
    shard.unlink()
    with pytest.raises(DamagedData, match=r"classes/0/c/0/1 is missing"):
        labels.read_level(0, job.plan.layout.whole(0).box)
    with pytest.raises(DamagedData, match=r"classes/0/c/0/1 was never written; resume the job"):
        outputs_for(job).close(derive=False)


# --- models that are loaded ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_class_models.build_class_map(tmp_path_factory.mktemp("secret-place") / "model")
    tiny_class_models.build_map(folder / "map")
    return folder


def test_labels_of_a_painted_map(model: Path, tmp_path: Path) -> None:
    painted = np.random.default_rng(3).integers(0, 3, (23, 31), np.uint8)
    Image.fromarray(painted).save(tmp_path / "map.png")
    spec = spec_of(model, tmp_path / "out", classes=tmp_path / "map.png")
    generate(spec)
    job = prepare(spec, check_fit=False)
    np.testing.assert_array_equal(labels_in(tmp_path / "out")[0], pixels_of_map(job, class_map(job)))
    assert set(np.unique(labels_in(tmp_path / "out")[0])) == {1, 2, 3}


def test_labels_of_an_invented_map(model: Path, tmp_path: Path) -> None:
    spec = spec_of(model, tmp_path / "out", prompt="60% sea, wood", width=320, height=256, topology="ring")
    generate(spec)
    job = prepare(spec, check_fit=False)
    np.testing.assert_array_equal(labels_in(tmp_path / "out")[0], pixels_of_map(job, class_map(job)))
    assert not (tmp_path / "out" / "map" / "viewer" / "classes.js").exists()


# --- what others read ------------------------------------------------------------------------------------------------


def test_labels_are_what_independent_readers_expect(tmp_path: Path, monkeypatch) -> None:
    job = drawn(labelled_job(tmp_path, monkeypatch))
    layout = job.plan.layout
    root = zarr.open_group(tmp_path / "image.zarr", mode="r")
    image = OmeImage.from_zarr(root)
    labels = OmeLabels.from_zarr(root["labels"])
    assert labels.label_paths == ["classes"]
    attributes = labels.get_image_labels_group("classes").attributes.ome
    assert attributes.version == "0.5"
    assert attributes.image_label is not None and attributes.image_label.source is not None
    assert attributes.image_label.source.image == "../../"
    assert [(colour.label_value, colour.rgba) for colour in attributes.image_label.colors or ()] == [
        (1, (0x10, 0x20, 0x30, 255)),
        (2, (0xFF, 0xEE, 0xDD, 255)),
        (3, (0, 0x80, 0, 255)),
    ]
    stored = root["labels/classes"].attrs["ome"]["image-label"]["properties"]
    assert [row["class"] for row in stored] == list(NAMES)
    pairs = zip(attributes.multiscales[0].datasets, image.ome_attributes.multiscales[0].datasets, strict=True)
    for mask, picture in pairs:
        assert mask.path == picture.path
        for ours, theirs in zip(
            mask.coordinateTransformations, picture.coordinateTransformations, strict=True
        ):
            values = ours.model_dump(exclude_none=True), theirs.model_dump(exclude_none=True)
            assert values[0]["type"] == values[1]["type"]
            assert values[0][values[0]["type"]] == values[1][values[1]["type"]][1:]
    for level in range(layout.levels):
        array, twin = root[f"labels/classes/{level}"], root[str(level)]
        assert (array.shape, array.chunks, array.shards) == (twin.shape[1:], twin.chunks[1:], twin.shards[1:])
        assert array.dtype == np.uint8 and array.metadata.dimension_names == ("y", "x")


def test_no_class_is_the_background() -> None:
    assert label_values(np.array([[-7, -1, 0, 253]])).tolist() == [[0, 0, 1, 254]]
    assert enlarged(np.array([[1, 2]], np.uint8), 2).tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    layout = PyramidLayout(40, 30, 16, 32)
    labels = LabelPyramid(tmp_path, layout, LEGEND)
    with pytest.raises(ValueError, match=r"takes uint8 labels of shape \(30, 32\), not int64 \(30, 32\)"):
        labels.write_superblock(layout.task(0, 0), np.zeros((30, 32), np.int64))
    with pytest.raises(ValueError, match="255 classes cannot be labelled; a byte has room for 254"):
        LabelPyramid(tmp_path, layout, LEGEND * 85)
