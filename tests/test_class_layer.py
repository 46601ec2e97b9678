"""The class map as a layer of the page: viewer/classes.js against the slow obvious one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from labelled import LEGEND, drawn, labelled_job, layer_in, patchwork_of
from numpy.typing import NDArray

from storage.formats.labels import LabelPyramid, enlarged
from storage.pyramid import PyramidLayout
from viewer import class_layer


def written_labels(folder: Path, values: NDArray[np.uint8], tile: int = 16) -> LabelPyramid:
    """Labels of any picture, written as a job does."""
    layout = PyramidLayout(values.shape[1], values.shape[0], tile, 4 * tile)
    labels = LabelPyramid(folder, layout, LEGEND)
    labels.create()
    for group in range(layout.groups):
        for task in layout.tasks(group):
            place = layout.reads(task)
            whole = layout.whole(place.level).box
            start = labels.read_level(place.level, place.box) if group else values[place.box.slices_in(whole)]
            labels.write_superblock(task, start)
    labels.finish()
    return labels


@pytest.mark.parametrize("shape", [(128, 64), (120, 200), (67, 101), (1, 300), (7, 33)])
@pytest.mark.parametrize("grain", [1, 8])
@pytest.mark.parametrize("longest", [4096, 50])
@pytest.mark.parametrize("tile", [16, 128])
def test_the_layer_covers_the_picture_and_shows_the_label_under_its_pixels(
    shape: tuple[int, int], grain: int, longest: int, tile: int, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(class_layer, "LONGEST_SIDE", longest)
    monkeypatch.setattr(class_layer, "STRIP_ROWS", 13)
    classes = np.random.default_rng(0).integers(0, 4, [-(-side // grain) for side in shape], np.uint8)
    values = enlarged(classes, grain)[: shape[0], : shape[1]]
    labels = written_labels(tmp_path, values, tile)
    class_layer.write_class_layer(tmp_path, labels, grain)
    layer = np.asarray(layer_in(tmp_path))
    height, width = layer.shape
    assert max(height, width) <= longest
    whole_squares = shape[0] % grain == shape[1] % grain == 0
    if longest == 4096:
        expected = classes if whole_squares else values
        np.testing.assert_array_equal(layer, expected - np.uint8(1))
        return
    level = min(shape[0] // height, shape[1] // width).bit_length() - 1
    step = 2 ** min(level, labels.layout.levels - 1)
    for y in range(height):
        for x in range(width):
            under = int((y + 0.5) * shape[0] / height), int((x + 0.5) * shape[1] / width)
            sampled = values[under[0] // step * step, under[1] // step * step]
            assert layer[y, x] == (int(sampled) - 1) % 256


def test_the_colours_of_the_layer_are_the_legends_and_no_class_is_transparent(
    tmp_path: Path, monkeypatch
) -> None:
    values = np.array([[0, 1], [2, 3]], np.uint8)
    class_layer.write_class_layer(tmp_path, written_labels(tmp_path, values), grain=1)
    shown = np.asarray(layer_in(tmp_path).convert("RGBA"))
    assert shown[0, 0, 3] == 0
    assert [bytes(pixel).hex() for pixel in shown.reshape(-1, 4)[1:]] == ["102030ff", "ffeeddff", "008000ff"]


def test_the_layer_of_a_job_is_one_pixel_a_latent(tmp_path: Path, monkeypatch) -> None:
    job = drawn(labelled_job(tmp_path, monkeypatch))
    ids = np.asarray(layer_in(tmp_path)).astype(np.int64)
    expected = patchwork_of(job).read(job.plan.canvas.box).numpy()
    np.testing.assert_array_equal(np.where(ids == 255, -1, ids), expected)
