"""Zoom videos: MP4 (H.264), WebM (VP9) and GIF. Knows encoders and containers; where the camera is, the path knows.

Frames are sRGB. The two video formats store them as 8-bit BT.709 luma and halved chroma in limited range, and say so;
their transfer function is named as what it is, sRGB's. A GIF has one palette for all its frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from storage.exports import metadata
from storage.exports.contract import ExportError, OnProgress, appearing
from storage.exports.frames import Frames
from storage.exports.path import CameraPath
from storage.exports.picture import Picture, Pixels8

SMALLEST_SIDE, LARGEST_SIDE = 16, 4096
LARGEST_FRAME = 2_100_000
"""Pixels: 1920 x 1080. Encoders hold many frames, and larger ones would take more than the 500 MB of an export."""
AHEAD_PIXELS = 20_000_000
"""Of the frames that an encoder looks ahead, together: ten of 1920 x 1080. It plans its bits with them."""
THREADS = "4"
"""Of an encoder, on whatever machine: each takes memory."""
FASTEST, FASTEST_GIF = 120.0, 50.0
LARGEST_GIF = 200_000_000
"""Pixels of all frames together: each takes a byte of memory while the file is written."""
PALETTE_SAMPLES, PALETTE_WIDTH = 24, 80
BT709, SRGB, LIMITED = (
    1,
    13,
    1,
)  # ISO/IEC 23091-2: primaries and matrix, transfer; FFmpeg's number of the range


@dataclass(frozen=True)
class Encoder:
    """One codec in one container. coarsest, finest: its constant rate factors at quality 1 and 100.

    ahead: its name for the number of frames it looks ahead; most_ahead: as many as it usually does.
    """

    codec: str
    container: str
    coarsest: int
    finest: int
    ahead: str
    most_ahead: int
    codec_options: tuple[tuple[str, str], ...] = ()
    container_options: tuple[tuple[str, str], ...] = ()

    def options(self, quality: int, frame_pixels: int) -> dict[str, str]:
        factor = self.coarsest + (self.finest - self.coarsest) * (quality - 1) / 99
        ahead = min(self.most_ahead, AHEAD_PIXELS // frame_pixels)
        chosen = {"crf": str(round(factor)), self.ahead: str(ahead), "threads": THREADS}
        return chosen | dict(self.codec_options)


ENCODERS = {
    "mp4": Encoder(
        "libx264", "mp4", 40, 10, "rc-lookahead", 40, (("preset", "medium"),), (("movflags", "+faststart"),)
    ),
    "webm": Encoder(
        "libvpx-vp9",
        "webm",
        60,
        15,
        "lag-in-frames",
        25,
        (("b", "0"), ("deadline", "good"), ("cpu-used", "4"), ("row-mt", "1")),
    ),
}
FORMATS = (*ENCODERS, "gif")
USUAL_SIZE = {"mp4": (1280, 720), "webm": (1280, 720), "gif": (640, 360)}
USUAL_FPS = {"mp4": 30.0, "webm": 30.0, "gif": 15.0}


def nobody(done: int, total: int) -> None:
    """Hears of progress, and does nothing."""


def write_video(
    picture: Picture,
    path: CameraPath,
    out: Path,
    *,
    format: str,
    width: int,
    height: int,
    fps: float,
    quality: int = 75,
    on_progress: OnProgress = nobody,
) -> None:
    """Write what a camera sees on its way; a file of that name appears when it is whole, and is then replaced.

    quality: 1 to 100; a GIF has none. on_progress is told (frames done, frames in all) after each. Takes memory for a
    frame, its tiles and what the encoder looks ahead: less than 500 MB for the largest frame. Raises ExportError for
    settings that the format does not have and where PyAV is missing; OSError where the file cannot be written.
    """
    check_settings(format, width, height, fps, quality)
    frames = MovingFrames(picture, path, width, height, fps)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"{out.parent} is no folder; make it, or choose another for {out.name}")
    if format == "gif":
        _check_gif(frames)
        with appearing(out) as file:
            _write_gif(frames, file, on_progress)
    else:
        with appearing(out) as file:
            _encode(frames, file, ENCODERS[format], quality, on_progress)


def check_settings(format: str, width: int, height: int, fps: float, quality: int) -> None:
    """Raises ExportError with the value, the limit and what to change."""
    if format not in FORMATS:
        raise ExportError(f"no video format is called {format!r}; there are {', '.join(FORMATS)}")
    for name, size in (("width", width), ("height", height)):
        if not SMALLEST_SIDE <= size <= LARGEST_SIDE:
            raise ExportError(f"a video's {name} of {size} must be {SMALLEST_SIDE} to {LARGEST_SIDE} pixels")
        if format != "gif" and size % 2:
            raise ExportError(f"a video's {name} of {size} must be even for {format}; try {size + 1}")
    if width * height > LARGEST_FRAME:
        shrink = (LARGEST_FRAME / (width * height)) ** 0.5
        fitting = "x".join(str(max(SMALLEST_SIDE, int(size * shrink) // 2 * 2)) for size in (width, height))
        raise ExportError(
            f"frames of {width} x {height} have {width * height:,} pixels, which take too much memory; "
            f"at most {LARGEST_FRAME:,} of them: try {fitting}"
        )
    fastest = FASTEST_GIF if format == "gif" else FASTEST
    if not 1 <= fps <= fastest:
        raise ExportError(f"{fps:g} frames a second: {format} takes 1 to {fastest:g}")
    if not 1 <= quality <= 100:
        raise ExportError(f"quality {quality} must be 1 to 100")


@dataclass(frozen=True)
class MovingFrames:
    """The frames of a path, at times that include both its ends; of a loop, the end is the start of the next round."""

    picture: Picture
    path: CameraPath
    width: int
    height: int
    fps: float

    def __len__(self) -> int:
        return max(2, round(self.path.seconds * self.fps))

    def __iter__(self) -> Iterator[Pixels8]:
        return self.every(1)

    def every(self, step: int) -> Iterator[Pixels8]:
        """Every step-th frame, (height, width, 3); one that shows what the last one showed is not drawn again."""
        frames, aspect = Frames(self.picture, self.width, self.height), self.width / self.height
        shots = [self.path.at(time, aspect) for time in self.times()[::step]]
        pixels = frames.frame(shots[0])
        yield pixels
        for before, shot in pairwise(shots):
            if shot != before:
                pixels = frames.frame(shot)
            yield pixels

    def times(self) -> list[float]:
        intervals = len(self) if self.path.loop else len(self) - 1
        return [self.path.seconds * index / intervals for index in range(len(self))]


def described(picture: Picture) -> dict[str, str]:
    """What a container says of the picture: title and comment."""
    facts = picture.facts
    told = [
        f"{name.replace('_', ' ')}: {facts[name]}" for name in ("prompt", "model", "seed") if name in facts
    ]
    made_by = f"made with hypermosaic {facts['version']}" if "version" in facts else "made with hypermosaic"
    comment = "; ".join([made_by, *told, f"digital source type: {metadata.SOURCE_TYPE}"])
    return {"title": str(facts.get("prompt", picture.folder.name)), "comment": comment}


def _encode(
    frames: MovingFrames, file: Path, encoder: Encoder, quality: int, on_progress: OnProgress
) -> None:
    av = _pyav()
    try:
        with av.open(
            str(file), "w", format=encoder.container, container_options=dict(encoder.container_options)
        ) as container:
            container.metadata.update(described(frames.picture))
            stream = _stream(container, frames, encoder, quality)
            for number, pixels in enumerate(frames, start=1):
                container.mux(stream.encode(_as_bt709(av, pixels)))
                on_progress(number, len(frames))
            container.mux(stream.encode(None))
    except av.FFmpegError as error:
        if isinstance(error, OSError):
            raise
        raise OSError(f"{encoder.codec} cannot write {file.parent}: {error}") from error


def _pyav() -> Any:
    try:
        import av
    except ImportError as error:
        raise ExportError(
            "mp4 and webm need PyAV, which is not installed: pip install 'hypermosaic[video]', or choose gif"
        ) from error
    return av


def _stream(container: Any, frames: MovingFrames, encoder: Encoder, quality: int) -> Any:
    """A video stream that says which colours it holds, with a frame to start from every two seconds."""
    rate = Fraction(frames.fps).limit_denominator(1001)
    options = encoder.options(quality, frames.width * frames.height)
    stream = container.add_stream(encoder.codec, rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = frames.width, frames.height, "yuv420p"
    context = stream.codec_context
    context.gop_size = max(1, round(2 * frames.fps))
    context.color_primaries, context.colorspace = BT709, BT709
    context.color_trc, context.color_range = SRGB, LIMITED
    return stream


def _as_bt709(av: Any, pixels: Pixels8) -> Any:
    from av.video.reformatter import ColorRange, Colorspace, Interpolation

    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    return frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
    )


def _check_gif(frames: MovingFrames) -> None:
    pixels = frames.width * frames.height * len(frames)
    if pixels > LARGEST_GIF:
        raise ExportError(
            f"a gif of {len(frames)} frames of {frames.width} x {frames.height} has {pixels / 1e6:.0f} million pixels; "
            f"at most {LARGEST_GIF / 1e6:.0f} million: choose smaller or fewer frames, or mp4"
        )


def _write_gif(frames: MovingFrames, file: Path, on_progress: OnProgress) -> None:
    """Repeats for ever."""
    palette = _common_palette(frames)

    def drawn() -> Iterator[Image.Image]:
        for number, pixels in enumerate(frames, start=1):
            yield Image.fromarray(pixels).quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
            on_progress(number, len(frames))

    images = drawn()
    with file.open("wb") as stream:
        next(images).save(
            stream,
            "GIF",
            save_all=True,
            append_images=images,
            duration=_milliseconds(len(frames), frames.fps),
            loop=0,
            optimize=False,
            comment=described(frames.picture)["comment"].encode(),
        )


def _common_palette(frames: MovingFrames) -> Image.Image:
    """256 colours of small frames from all along the way; of 6 bits, since the search is slow on many colours."""
    height = max(1, PALETTE_WIDTH * frames.height // frames.width)
    step = -(-len(frames) // PALETTE_SAMPLES)
    small = MovingFrames(frames.picture, frames.path, PALETTE_WIDTH, height, frames.fps)
    colours = np.concatenate(list(small.every(step)))
    return Image.fromarray((colours & 0xFC) + 2).quantize(256, Image.Quantize.MEDIANCUT)


def _milliseconds(count: int, fps: float) -> list[int]:
    """How long each frame is shown: whole hundredths of a second, whose sum stays within one of the truth."""
    ends = [round(100 * number / fps) for number in range(count + 1)]
    return [10 * (after - before) for before, after in pairwise(ends)]
