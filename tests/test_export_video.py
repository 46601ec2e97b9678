"""Zoom videos: the frames that a camera sees, and what other programs read from the files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from cluster.commands.app import app
from storage.exports import frames as frames_module
from storage.exports import video
from storage.exports.contract import ExportError
from storage.exports.frames import GROUND, Frames, canvas_of
from storage.exports.path import CameraPath, Shot, zoom_to
from storage.exports.picture import Picture
from storage.exports.video import MovingFrames, write_video
from storage.formats.deep_zoom import DeepZoom
from storage.geometry import Box
from storage.light import linear_to_srgb_u8, reduce_half_srgb
from storage.pyramid import PyramidLayout

WIDE = 16 / 9
try:
    importlib.import_module("av")
    no_av = ""
except ImportError:
    no_av = "PyAV is not installed: pip install 'hypermosaic[video]'"
needs_av = pytest.mark.skipif(bool(no_av), reason=no_av)


def coloured(height: int, width: int) -> NDArray[np.uint8]:
    """Smooth waves of several lengths, the same on both sides of a ring."""
    y, x = np.mgrid[0:height, 0:width]
    turn = 2 * np.pi * x / width
    waves = [np.sin(5 * turn + y / 17), np.cos(31 * turn) * np.sin(y / 9), np.sin(11 * turn - y / 29)]
    return np.stack([128 + 90 * wave for wave in waves], axis=2).astype(np.uint8)


def picture_of(pixels: NDArray[np.uint8], topology: str = "plane") -> Picture:
    """A finished picture in memory, its levels reduced as those on disk are."""
    layout = PyramidLayout(pixels.shape[1], pixels.shape[0], 32, 128)
    levels = [pixels]
    while len(levels) < layout.deep_levels:
        levels.append(linear_to_srgb_u8(reduce_half_srgb(levels[-1])))

    def read(level: int, box: Box) -> NDArray[np.uint8]:
        return levels[level][box.slices_in(layout.whole(level).box)]

    facts = {"prompt": 'an "atoll", <dusk>', "seed": 7, "version": "0.1.0", "topology": topology}
    return Picture(Path("atoll"), layout, facts, None, True, read)


@pytest.fixture(scope="module")
def picture() -> Picture:
    return picture_of(coloured(360, 640))


# --- frames -------------------------------------------------------------------------------------------------------


def test_at_full_size_a_frame_is_the_picture(picture: Picture) -> None:
    frame = Frames(picture, 128, 72).frame(Shot(100 + 64, 200 + 36, 128))
    assert (frame == picture.read(0, Box(200, 272, 100, 228))).all()


@pytest.mark.parametrize("width", [60.0, 150.0, 256.0, 300.0, 420.0, 500.0])
def test_frames_agree_with_a_reduction_of_the_full_size(picture: Picture, width: float) -> None:
    shot = Shot(321.3, 177.7, width)
    box = (shot.x - width / 2, shot.y - width * 9 / 32, shot.x + width / 2, shot.y + width * 9 / 32)
    whole = Image.fromarray(picture.read(0, picture.layout.whole(0).box))
    expected = np.asarray(whole.resize((128, 72), Image.Resampling.LANCZOS, box=box)).astype(float)
    assert np.abs(Frames(picture, 128, 72).frame(shot) - expected).mean() < 1.2


def test_nothing_jumps_where_the_level_changes() -> None:
    noise = np.random.default_rng(3).integers(0, 256, (512, 512, 3)).astype(np.uint8)
    frames = Frames(picture_of(noise), 64, 36)
    widths = (
        64 * 1.5 * 2 ** np.arange(0.9, 1.1, 0.0005)
    )  # level 1 takes over in the middle, and holds the worst it can
    drawn = [frames.frame(Shot(256.3, 255.9, float(width))).astype(float) for width in widths]
    changes = [np.abs(after - before).mean() for before, after in pairwise(drawn)]
    assert max(changes[195:205]) < 1.5 * np.median(changes)
    assert max(changes[195:205]) < 1


def test_motion_by_a_fraction_of_a_pixel_moves_the_frame_by_that_fraction(picture: Picture) -> None:
    frames = Frames(picture, 128, 72)
    halfway = [frames.frame(Shot(320 + dx, 180, 256)).astype(float) for dx in (0, 0.5, 1.0, 2.0)]
    assert (halfway[3][:, :-1] - halfway[0][:, 1:]).std() < 0.5  # two picture pixels are one of the frame
    changes = [np.abs(frame - halfway[0]).mean() for frame in halfway[1:3]]
    assert changes[0] == pytest.approx(changes[1] / 2, rel=0.05)


def test_beyond_a_plane_lies_the_ground_and_beyond_a_ring_its_other_side() -> None:
    pixels = coloured(360, 640)
    shot = Shot(0, 180, 256)
    plane, ring = (Frames(picture_of(pixels, name), 128, 72).frame(shot) for name in ("plane", "ring"))
    assert (plane[:, :60] == GROUND).all() and (plane[:, 70:] == ring[:, 70:]).all()
    rolled = Frames(picture_of(np.roll(pixels, 320, axis=1)), 128, 72).frame(Shot(320, 180, 256))
    assert (ring == rolled).all()


def test_bands_of_a_frame_join_without_a_seam(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    for width in (100.7, 290.0, 480.3):  # enlarged, of one level, of two that are mixed
        shot = Shot(301.7, 177.3, width)
        whole = Frames(picture, 192, 108).frame(shot).astype(int)
        with monkeypatch.context() as patch:
            patch.setattr(frames_module, "BAND", 7)
            error = np.abs(Frames(picture, 192, 108).frame(shot) - whole)
        assert error.max() <= 2 and error.mean() < 0.1  # Pillow rounds where it cannot be seen


@pytest.mark.parametrize(("edge", "most"), [(512, 156), (1024, 42), (4096, 2)])
def test_tiles_are_kept_as_far_as_they_fit(picture: Picture, edge: int, most: int) -> None:
    """Of frames of 1920 x 1080; 42 tiles of 1024 and 2 of 4096 take 126 and 96 MB."""
    layout = PyramidLayout(90_000, 90_000, edge, 2 * edge)
    frames = Frames(Picture(Path("large"), layout, {}, None, True, picture.read), 1920, 1080)
    assert frames.kept_tiles == most


@pytest.mark.parametrize("format", video.ENCODERS)
def test_an_encoder_looks_less_far_ahead_in_larger_frames(format: str) -> None:
    encoder = video.ENCODERS[format]
    ahead = [int(encoder.options(75, size)[encoder.ahead]) for size in (64 * 36, 1280 * 720, 1920 * 1080)]
    assert ahead == [encoder.most_ahead, 21, 9]


def test_few_tiles_are_read_and_few_are_kept() -> None:
    read: list[Box] = []
    inner = picture_of(coloured(720, 1280))

    def counted(level: int, box: Box) -> NDArray[np.uint8]:
        read.append(box)
        return inner.read(level, box)

    watched = Picture(inner.folder, inner.layout, inner.facts, None, True, counted)
    path = zoom_to(canvas_of(watched), WIDE, 900, 300, 12, 4)
    frames = Frames(watched, 64, 36)
    for second in np.linspace(0, 4, 60):
        frames.frame(path.at(float(second), WIDE))
        assert len(frames._tiles) <= frames.kept_tiles
    assert max(max(box.shape) for box in read) <= 32
    assert len(read) < 250  # a frame shows up to 40; 60 frames without memory would read above 1000


# --- files --------------------------------------------------------------------------------------------------------


def test_times_include_both_ends_where_nothing_loops(picture: Picture) -> None:
    path = zoom_to(canvas_of(picture), WIDE, 300, 200, seconds=2.5)
    times = MovingFrames(picture, path, 32, 18, 30).times()
    assert len(times) == 75 and (times[0], times[-1]) == (0, 2.5)


def test_the_last_frame_of_a_loop_comes_just_before_its_first(picture: Picture) -> None:
    path = zoom_to(canvas_of(picture), WIDE, 300, 200, seconds=4, loop=True)
    times = MovingFrames(picture, path, 32, 18, 10).times()
    assert len(times) == 80 and times[0] == 0 and times[-1] == pytest.approx(8 - 0.1)


def short(picture: Picture, seconds: float = 0.5) -> CameraPath:
    return zoom_to(canvas_of(picture), WIDE, 400, 150, 6, seconds)


def decoded(path: Path) -> tuple[list[NDArray[np.uint8]], Any]:
    import av

    with av.open(str(path)) as container:
        frames = [frame.reformat(format="rgb24").to_ndarray() for frame in container.decode(video=0)]
        stream = container.streams.video[0]
        context = stream.codec_context
        told = {
            "codec": context.name, "rate": float(stream.average_rate), "pixels": context.pix_fmt,
            "colours": (context.color_primaries, context.color_trc, context.colorspace, context.color_range),
            "seconds": container.duration / 1e6,
            "metadata": {name.lower(): value for name, value in container.metadata.items()},
        }  # fmt: skip
    return frames, told


@needs_av
@pytest.mark.parametrize(("format", "codec"), [("mp4", "h264"), ("webm", "vp9")])
def test_a_decoder_finds_what_was_written(format: str, codec: str, picture: Picture, tmp_path: Path) -> None:
    out, heard = tmp_path / f"atoll.{format}", list[tuple[int, int]]()
    write_video(
        picture, short(picture), out, format=format, width=192, height=108, fps=24, quality=90,
        on_progress=lambda done, total: heard.append((done, total)),
    )  # fmt: skip
    frames, told = decoded(out)
    assert len(frames) == 12 and frames[0].shape == (108, 192, 3)
    assert (told["codec"], told["rate"], told["pixels"]) == (codec, 24, "yuv420p")
    assert told["seconds"] == pytest.approx(0.5, abs=0.05)
    assert told["colours"] == (1, 13, 1, 1)
    assert told["metadata"]["title"] == 'an "atoll", <dusk>'
    assert told["metadata"]["comment"].endswith("digitalsourcetype/trainedAlgorithmicMedia")
    assert heard == [(number, 12) for number in range(1, 13)]
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    for frame, drawn in zip(frames, MovingFrames(picture, short(picture), 192, 108, 24), strict=True):
        error = frame.astype(float) - drawn
        assert np.abs(error.mean((0, 1))).max() < 2.5
        assert (
            error @ (0.2126, 0.7152, 0.0722)
        ).std() < 2.5  # of colour, half the lines and columns are kept


@needs_av
@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 160, 0), (20, 30, 220), (255, 255, 255), (8, 8, 8)])
def test_plain_colours_come_back(colour: tuple[int, int, int], tmp_path: Path) -> None:
    plain = picture_of(np.full((128, 128, 3), colour, np.uint8))
    path = zoom_to(canvas_of(plain), WIDE, 64, 64, 40, 0.2)
    write_video(plain, path, tmp_path / "plain.mp4", format="mp4", width=64, height=36, fps=10)
    frames, _ = decoded(tmp_path / "plain.mp4")
    assert np.abs(frames[-1].astype(int) - colour).max() <= 4


@needs_av
def test_an_mp4_can_be_played_before_all_of_it_has_come(picture: Picture, tmp_path: Path) -> None:
    write_video(picture, short(picture), tmp_path / "atoll.mp4", format="mp4", width=64, height=36, fps=10)
    content = (tmp_path / "atoll.mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@needs_av
def test_more_quality_takes_more_bytes(picture: Picture, tmp_path: Path) -> None:
    sizes = []
    for quality in (1, 50, 100):
        out = tmp_path / f"{quality}.mp4"
        write_video(picture, short(picture), out, format="mp4", width=128, height=72, fps=10, quality=quality)
        sizes.append(out.stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_a_gif_has_the_frames_the_time_and_the_colours(picture: Picture, tmp_path: Path) -> None:
    out = tmp_path / "atoll.gif"
    write_video(picture, short(picture, 1.0), out, format="gif", width=96, height=54, fps=15)
    drawn = list(MovingFrames(picture, short(picture, 1.0), 96, 54, 15))
    with Image.open(out) as image:
        assert image.info["loop"] == 0 and b"trainedAlgorithmicMedia" in image.info["comment"]
        milliseconds = 0
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            milliseconds += image.info["duration"]
        last = np.asarray(image.convert("RGB")).astype(float)
        image.seek(0)
        first = np.asarray(image.convert("RGB")).astype(float)
    assert milliseconds == 1000
    for frame, expected in ((first, drawn[0]), (last, drawn[-1])):
        assert np.abs((frame - expected).mean((0, 1))).max() < 3 and (frame - expected).std() < 16


def test_a_gif_that_would_be_too_large_is_refused_before_it_is_begun(
    picture: Picture, tmp_path: Path
) -> None:
    path = zoom_to(canvas_of(picture), WIDE, 300, 200, seconds=60)
    with pytest.raises(
        ExportError, match="a gif of 900 frames of 640 x 360 has 207 million pixels; at most 200"
    ):
        write_video(picture, path, tmp_path / "a.gif", format="gif", width=640, height=360, fps=15)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"format": "avi"}, "no video format is called 'avi'; there are mp4, webm, gif"),
        ({"width": 1281}, "a video's width of 1281 must be even for mp4; try 1282"),
        ({"height": 8}, "a video's height of 8 must be 16 to 4096 pixels"),
        ({"width": 5000}, "a video's width of 5000 must be 16 to 4096 pixels"),
        ({"width": 4096, "height": 4096}, "16,777,216 pixels, .* at most 2,100,000 of them: try 1448x1448"),
        ({"width": 1922, "height": 1094}, "2,102,668 pixels, .* try 1920x1092"),
        ({"width": 4096, "height": 2160, "format": "gif"}, "8,847,360 pixels, .* try 1994x1052"),
        ({"fps": 0.5}, "0.5 frames a second: mp4 takes 1 to 120"),
        ({"fps": 60, "format": "gif"}, "60 frames a second: gif takes 1 to 50"),
        ({"fps": float("nan")}, "nan frames a second"),
        ({"quality": 0}, "quality 0 must be 1 to 100"),
    ],
)
def test_impossible_settings_are_refused(
    wishes: dict[str, Any], message: str, picture: Picture, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=message):
        write_video(
            picture,
            short(picture),
            tmp_path / "out.mp4",
            **{"format": "mp4", "width": 64, "height": 36, "fps": 10} | wishes,
        )
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_there_is_named(picture: Picture, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "a.gif"
    with pytest.raises(FileNotFoundError, match="nowhere is no folder; make it, or choose another for a.gif"):
        write_video(picture, short(picture), out, format="gif", width=64, height=36, fps=10)


@pytest.mark.parametrize("format", [pytest.param("webm", marks=needs_av), "gif"])
def test_the_command_makes_them_from_a_folder(format: str, tmp_path: Path) -> None:
    layout = PyramidLayout(150, 83, 16, 64)
    tiles = DeepZoom(tmp_path / "job", layout, "png")
    tiles.create()
    pixels = coloured(83, 150)
    for level in range(layout.deep_levels):
        tiles.write_level(level, layout.whole(level).box, pixels)
        pixels = linear_to_srgb_u8(reduce_half_srgb(pixels))
    tiles.finish()
    flight = {"zoom_to": "70,40,30", "video-size": "64x36", "seconds": "0.5", "fps": "10"}
    flags = [part for name, value in flight.items() for part in (f"--{name.replace('_', '-')}", value)]
    out = tmp_path / f"atoll.{format}"
    ran = CliRunner().invoke(app, ["export", str(tmp_path / "job"), "--out", str(out), *flags])
    assert (ran.exit_code, ran.stdout.strip()) == (0, str(out))
    assert out.read_bytes()[:4] == {"webm": b"\x1a\x45\xdf\xa3", "gif": b"GIF8"}[format]
    refused = CliRunner().invoke(
        app, ["export", str(tmp_path / "job"), "--out", str(out), "--fps", "0", "--yes"]
    )
    assert refused.exit_code == 2 and f"0 frames a second: {format} takes 1 to" in refused.stderr


def test_without_pyav_the_command_to_install_it_is_named(
    picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ExportError, match=r"pip install 'hypermosaic\[video\]', or choose gif"):
        write_video(picture, short(picture), tmp_path / "a.mp4", format="mp4", width=64, height=36, fps=10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "format", [pytest.param("mp4", marks=needs_av), pytest.param("webm", marks=needs_av), "gif"]
)
def test_an_interrupt_leaves_what_was_there_and_nothing_else(
    format: str, picture: Picture, tmp_path: Path
) -> None:
    out = tmp_path / f"a.{format}"
    out.write_bytes(b"the one before")

    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(
            picture, short(picture), out, format=format, width=64, height=36, fps=20, on_progress=interrupt
        )
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert out.read_bytes() == b"the one before"


def test_frames_of_a_standstill_are_drawn_once(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Shot] = []
    frame = Frames.frame
    monkeypatch.setattr(Frames, "frame", lambda self, shot: drawn.append(shot) or frame(self, shot))
    moving = MovingFrames(picture, zoom_to(canvas_of(picture), WIDE, 300, 200, 6, 8), 32, 18, 10)
    assert len(list(moving)) == 80
    assert len(drawn) == len(set(drawn)) < 65


def test_times_of_a_gif_add_up() -> None:
    for fps in (1, 7, 12.5, 30, 50):
        milliseconds: Iterator[int] | list[int] = video._milliseconds(100, fps)
        assert abs(sum(milliseconds) - 100_000 / fps) <= 5 and min(milliseconds) >= 20
