"""The camera of zoom videos: its way between keyframes, and the files that hold them."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from storage.exports.contract import ExportError
from storage.exports.path import (
    CameraPath,
    Keyframe,
    Shot,
    between,
    read_keyframes,
    settled,
    whole_shot,
    zoom_to,
)
from storage.fingerprint import FormatError
from storage.geometry import PLANE, RING, Canvas

WIDE = 16 / 9
CANVAS = Canvas(4096, 8192, PLANE)
SHARES = np.linspace(0, 1, 101)


def on_screen(shot: Shot, x: float, y: float) -> tuple[float, float]:
    """Where a place is, in widths of the frame from its centre."""
    return (x - shot.x) / shot.width, (y - shot.y) / shot.width


# --- the camera's way ---------------------------------------------------------------------------------------------


def test_a_way_begins_and_ends_exactly_at_its_keyframes_and_rests_beyond() -> None:
    ends = Keyframe(4000, 2000, 0.5, 3), Keyframe(6000.25, 1500.5, 2, 8)
    path = CameraPath(ends, CANVAS)
    assert path.seconds == 5
    assert path.at(0, WIDE) == path.at(-1, WIDE) == ends[0].shot == Shot(4000, 2000, 3840)
    assert path.at(5, WIDE) == path.at(9, WIDE) == ends[1].shot == Shot(6000.25, 1500.5, 960)


def test_zooming_in_grows_by_the_same_factor_in_each_moment_about_one_steady_point() -> None:
    start, end = Shot(4096, 2048, 7000), Shot(6000, 1000, 500)
    shots = [between(start, end, share, CANVAS, WIDE) for share in SHARES]
    factors = [before.width / after.width for before, after in pairwise(shots)]
    assert factors == pytest.approx([(7000 / 500) ** 0.01] * 100)
    focus = (end.x * 7000 - start.x * 500) / 6500, (end.y * 7000 - start.y * 500) / 6500
    places = np.array([on_screen(shot, *focus) for shot in shots])
    assert np.abs(places - places[0]).max() < 1e-12
    target = np.array([np.hypot(*on_screen(shot, end.x, end.y)) for shot in shots])
    assert (np.diff(target) < 0).all() and target[-1] == 0  # it only ever comes nearer to the centre


@pytest.mark.parametrize("place", [(0, 0), (8192, 4096), (4096, 4095), (1, 2000)])
@pytest.mark.parametrize("aspect", [WIDE, 1.0, 0.5])
def test_zooming_to_a_corner_never_shows_what_lies_beyond(place: tuple[float, float], aspect: float) -> None:
    path = zoom_to(CANVAS, aspect, *place)
    for second in np.linspace(0, path.seconds, 57):
        shot = path.at(float(second), aspect)
        half_width, half_height = shot.width / 2 - 1e-6, shot.width / aspect / 2 - 1e-6
        assert half_width <= shot.x <= 8192 - half_width and half_height <= shot.y <= 4096 - half_height


def test_between_distant_places_the_camera_flies_out_and_in_at_constant_speed_of_the_metric() -> None:
    vast = Canvas(100_000, 100_000, PLANE)
    start, end = Shot(40_400, 50_300, 200), Shot(47_000, 53_000, 400)
    fine = [between(start, end, share, vast, WIDE) for share in np.linspace(0, 1, 2001)]
    widths = [shot.width for shot in fine]
    assert max(widths) > 3000 and widths.index(max(widths)) not in (0, 2000)
    lengths = [  # van Wijk and Nuij: ds^2 = (rho^2 du^2 + dw^2 / rho^2) / w^2, rho^2 = 2
        (
            2 * ((b.x - a.x) ** 2 + (b.y - a.y) ** 2) / (a.width * b.width)
            + log(b.width / a.width) ** 2 / 2
        ) ** 0.5
        for a, b in pairwise(fine)
    ]  # fmt: skip
    assert lengths == pytest.approx([np.mean(lengths)] * 2000, rel=1e-2)
    straight = [(shot.x - 40_400) * 2700 - (shot.y - 50_300) * 6600 for shot in fine]
    assert np.abs(straight).max() < 1e-4


def test_ways_that_differ_by_almost_nothing_stay_finite_and_close() -> None:
    start = Shot(4000, 2000, 1000)
    for end in (
        Shot(4000 + 1e-9, 2000, 1000),
        Shot(4000, 2000, 1000 + 1e-9),
        Shot(4000.5, 2000, 1000.6),
        start,
    ):
        shot = between(start, end, 0.5, CANVAS, WIDE)
        assert shot.x == pytest.approx(4000, abs=1) and shot.width == pytest.approx(1000, abs=1)


def test_the_way_is_continuous_through_many_keyframes_and_rests_at_each_of_them() -> None:
    keyframes = tuple(
        Keyframe(x, y, zoom, second)
        for x, y, zoom, second in [
            (4000, 2000, 0.3, 0), (1000, 900, 2, 3), (7500, 3900, 2, 8), (7400, 3800, 9, 10), (4000, 2000, 0.1, 12),
        ]
    )  # fmt: skip
    path = CameraPath(keyframes, CANVAS)
    steps = [path.at(second, WIDE) for second in np.arange(0, 12, 0.002)]
    for before, after in pairwise(steps):
        assert abs(log(after.width / before.width)) < 0.02
        assert max(map(abs, on_screen(before, after.x, after.y))) < 0.02
    for keyframe in keyframes[1:-1]:
        near, there = path.at(keyframe.seconds + 1e-3, WIDE), path.at(keyframe.seconds, WIDE)
        assert log(near.width / there.width) == pytest.approx(0, abs=1e-4)
    assert steps[0] == Shot(4000, 2000, 6400)
    assert path.at(12, WIDE) == whole_shot(CANVAS, WIDE)  # zoom 0.1 would show more than there is


def test_a_ring_is_crossed_the_shorter_way_and_a_plane_never() -> None:
    ends = Keyframe(8000, 2000, 2, 0), Keyframe(200, 2000, 2, 4)
    ring, plane = (CameraPath(ends, Canvas(4096, 8192, topology)) for topology in (RING, PLANE))
    assert ring.at(4, WIDE) == Shot(8392, 2000, 960)
    assert all(7999 < ring.at(second, WIDE).x < 8393 for second in np.linspace(0, 4, 33))
    assert 3500 < plane.at(2, WIDE).x < 4700 and plane.at(4, WIDE).x == 480


def test_a_loop_comes_back_the_same_way_and_closes() -> None:
    path = zoom_to(CANVAS, WIDE, 3000, 2000, 1.5, 4, loop=True)
    assert path.seconds == 8
    for second in (0.3, 1.0, 2.7, 3.9):
        assert path.at(second, WIDE).width == pytest.approx(path.at(8 - second, WIDE).width)


@pytest.mark.parametrize(
    ("size", "place", "wishes", "message"),
    [
        ((4096, 8192), (9000, 100), {}, "the place 9000,100 lies outside the picture of 8192 x 4096 pixels"),
        ((4096, 8192), (10, -1), {}, "the place 10,-1 lies outside"),
        ((4096, 8192), (10, 10), {"zoom": 0.1}, "zoom 0.1 must be above 0.264, where the way starts, and at most 64"),
        ((4096, 8192), (10, 10), {"zoom": 65}, "at most 64"),
        ((4096, 8192), (10, 10), {"seconds": 0}, "a video of 0 s: it must be above 0 and at most 3600 s"),
        ((4096, 8192), (10, 10), {"seconds": 3601}, "at most 3600"),
        ((4096, 8192), (10, 10), {"easing": "bouncy"}, "no easing is called 'bouncy'; there are smooth, linear"),
    ],
)  # fmt: skip
def test_impossible_zooms_are_refused(
    size: tuple[int, int], place: tuple[float, float], wishes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        zoom_to(Canvas(*size, PLANE), WIDE, *place, **wishes)


def test_default_zooms_take_a_second_for_each_doubling_and_reach_full_size() -> None:
    path = zoom_to(Canvas(8192, 16384, PLANE), WIDE, 5000, 2000)
    assert path.seconds == pytest.approx(2 + np.log2(8192 * WIDE / 1920))
    assert path.keyframes[-1].zoom == 1
    small = zoom_to(Canvas(256, 256, PLANE), WIDE, 100, 100)
    assert small.keyframes[-1].zoom == pytest.approx(4 * 1920 / 256)
    start = small.at(0, WIDE)
    assert (start.x, start.y, start.width) == pytest.approx(
        (128, 100, 256)
    )  # as much as fills the frame, the place in it


# --- keyframe files -----------------------------------------------------------------------------------------------


def keyframe_file(folder: Path, change: Callable[[dict[str, Any]], object] = lambda document: None) -> Path:
    document: dict[str, Any] = {
        "format_version": 1, "width": 8192, "height": 4096,
        "keyframes": [{"x": 4096, "y": 2048, "zoom": 0.25, "seconds": 0}, {"x": 9, "y": 8.5, "zoom": 4, "seconds": 6}],
    }  # fmt: skip
    change(document)
    path = folder / "flight.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_a_keyframe_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = read_keyframes(keyframe_file(tmp_path), CANVAS, easing="linear", loop=True)
    assert path.keyframes == (Keyframe(4096, 2048, 0.25, 0), Keyframe(9, 8.5, 4, 6))
    assert (path.easing, path.loop, path.canvas) == ("linear", True, CANVAS)
    assert path.at(6, WIDE) == settled(Shot(9, 8.5, 480), CANVAS, WIDE) == Shot(240, 135, 480)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.update(format_version=2), "format_version is 2; this program reads 1"),
        (lambda file: file.update(width=4096), "made for a picture of 4096 x 4096 pixels; this one is 8192 x 4096"),
        (lambda file: file.pop("keyframes"), 'needs an object with a list called "keyframes"'),
        (lambda file: file["keyframes"].pop(), "1 keyframes make no way; at least 2 are needed"),
        (lambda file: file["keyframes"].append(7), "keyframe 3 is 7; it must be an object with x, y, zoom and seconds"),
        (lambda file: file["keyframes"][1].pop("x"), "keyframe 2: x is None; it must be a number"),
        (lambda file: file["keyframes"][0].update(y=True), "keyframe 1: y is True; it must be a number"),
        (lambda file: file["keyframes"][0].update(y=float("nan")), "keyframe 1: y nan is not a finite number"),
        (lambda file: file["keyframes"][0].update(x=10**400), "keyframe 1: int too large"),
        (lambda file: file["keyframes"][0].update(zoom=0), "keyframe 1: zoom 0 must be above 0 and at most 64"),
        (lambda file: file["keyframes"][1].update(seconds=9999), "keyframe 2: seconds 9999 must be 0 to 3600"),
        (lambda file: file["keyframes"][1].update(seconds=0), "a keyframe at 0 s follows one at 0 s; seconds must"),
    ],
)  # fmt: skip
def test_wrong_keyframe_files_are_refused_in_one_line(
    change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    path = keyframe_file(tmp_path, change)
    with pytest.raises(FormatError, match=message) as refusal:
        read_keyframes(path, CANVAS)
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 200_000])
def test_files_that_are_no_json_are_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "flight.json"
    path.write_bytes(content)
    with pytest.raises(FormatError, match="flight.json is not (JSON|text)") as refusal:
        read_keyframes(path, CANVAS)
    assert "\n" not in str(refusal.value)


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(bytes(2**20 + 1))
    with pytest.raises(FormatError, match="is larger than 1 MB; give a file that the page"):
        read_keyframes(path, CANVAS)
