"""What exports hold in memory: the peak of a process of its own, for each format, of the widest picture it takes.

Pixels are made up where they are read, each row plain, so that no time goes into them; those of WebP, whose encoder
may keep what it could write, are noise. Formats whose memory grows with the width are given their widest rows, and more
of them than they hold at once; the others a picture that would not fit.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage.exports import flat, formats, video

for module in ("pyvips", "tifffile", "piexif"):
    pytest.importorskip(module, reason=f"{module} is missing; pip install 'hypermosaic[export]'")
if not Path("/proc/self/status").exists():
    pytest.skip("this system tells no peak memory in /proc", allow_module_level=True)

PICTURE = """
import sys
from pathlib import Path
import numpy as np
from storage.exports.picture import Picture
from storage.pyramid import PyramidLayout

name, width, height, out = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])

def made_up(level, box):
    if name == "webp":
        return np.random.default_rng((level, box.y0, box.x0)).integers(0, 256, (*box.shape, 3), np.uint8)
    rows = (np.arange(box.y0, box.y1) % 200).astype(np.uint8)
    return np.broadcast_to(rows[:, None, None], (*box.shape, 3)).copy()

def silent(done, total):
    pass

def picture_of(width, height):
    return Picture(Path("."), PyramidLayout(width, height), {}, None, True, made_up)

def tell_peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM")))
"""
STILL = """
from storage.exports import formats
from storage.exports.contract import Wishes
from storage.exports.view import view_of

formats.write(name, view_of(picture_of(width, height)), out, Wishes(), silent)
tell_peak()
"""
VIDEO = """
from storage.exports.frames import canvas_of
from storage.exports.path import zoom_to
from storage.exports.video import write_video

picture = picture_of(65536, 65536)
path = zoom_to(canvas_of(picture), width / height, 30000, 30000, 0.2, seconds=0.6)
write_video(picture, path, out, format=name, width=width, height=height, fps=20, quality=1)
tell_peak()
"""
PROMISED = 500
TILES = 140  # it is 61 to 94, nearly all of it libraries; 40,000 x 1024 pixels would be 120 more
WIDEST = {
    "png": (flat.FLAT["png"].widest, 520, PROMISED),
    "jpeg": (flat.FLAT["jpeg"].widest, 520, PROMISED),
    "webp": (flat.FLAT["webp"].widest, flat.FLAT["webp"].most // flat.FLAT["webp"].widest, PROMISED),
    **dict.fromkeys(("tiff", "ome-tiff", "deep-zoom", "szi", "iiif"), (40_000, 1024, TILES)),
}


def peak_of(script: str, name: str, width: int, height: int, out: Path) -> int:
    """Megabytes that a process of its own held at most."""
    command = [sys.executable, "-c", PICTURE + script, name, str(width), str(height), str(out)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return int(told.stdout)


def test_every_format_is_measured() -> None:
    assert set(WIDEST) == set(formats.EXPORTS)


@pytest.mark.parametrize("format", WIDEST)
def test_the_widest_picture_fits_into_what_is_promised(format: str, tmp_path: Path) -> None:
    width, height, most = WIDEST[format]
    assert peak_of(STILL, format, width, height, tmp_path / "wide") < most


@pytest.mark.parametrize("format", video.ENCODERS)
def test_a_video_of_the_largest_frames_does_too(format: str, tmp_path: Path) -> None:
    """Of 12 frames, more than an encoder of such frames looks ahead."""
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'hypermosaic[video]'")
    width, height = 1920, 1080
    assert video.LARGEST_FRAME - width * height < 2 * width * 16
    assert peak_of(VIDEO, format, width, height, tmp_path / "zoom") < PROMISED
