"""Where the camera of a zoom video is at each moment. Knows numbers and the keyframe file; reads no pixels.

A shot is what a frame shows: the centre and the width of a rectangle, in pixels of the full picture.

    +----------------------+    Where one shot lies in the other, every shot between the two is scaled about one
    |  a    +---------+    |    point F. It hence stands still on the screen, and nothing comes into sight that
    |       | b  . F  |    |    the larger shot does not show.
    |       +---------+    |
    +----------------------+

    +-----+                     Elsewhere: the shortest way in a space in which panning by a screen and zooming
    |  a  |--.          +-----+ feel alike. The camera moves out, across, and in.
    +-----+   '-.____.--|  b  |
                        +-----+

Keyframe files are JSON, written by a picture's page:

    {"format_version": 1, "width": 8192, "height": 4096,
     "keyframes": [{"x": 4096, "y": 2048, "zoom": 0.2, "seconds": 0}, ...]}
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import asinh, cosh, isfinite, log2, sinh, tanh
from pathlib import Path
from typing import Any

from storage.documents import DocumentError, parse_json, read_text
from storage.exports.contract import ExportError
from storage.fingerprint import FormatError
from storage.geometry import Canvas

FORMAT_VERSION = 1
REFERENCE_WIDTH = 1920  # the width of the frame that a keyframe's zoom speaks of
LARGEST_ZOOM = 64.0
LONGEST_SECONDS = 3600.0
LARGEST_FILE = 2**20
SECONDS_PER_DOUBLING = 1.0
SHORTEST_TRAVEL = 2.0
LEAST_GROWTH = 4.0
LONGEST_HOLD = 1.0
RHO = 2**0.5
"""How far out to zoom on the way; van Wijk and Nuij found what people like best to be near 1.42."""


@dataclass(frozen=True)
class Shot:
    """What a frame shows: centre and width in pixels of the full picture; the height follows from the frame's shape."""

    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Keyframe:
    """A shot at a time. zoom: screen pixels for each picture pixel, in a frame of 1920 pixels width."""

    x: float
    y: float
    zoom: float
    seconds: float

    def __post_init__(self) -> None:
        for name in ("x", "y", "zoom", "seconds"):
            if not isfinite(getattr(self, name)):
                raise ExportError(f"{name} {getattr(self, name)} is not a finite number")
        if not 0 < self.zoom <= LARGEST_ZOOM:
            raise ExportError(f"zoom {self.zoom:g} must be above 0 and at most {LARGEST_ZOOM:g}")
        if not 0 <= self.seconds <= LONGEST_SECONDS:
            raise ExportError(f"seconds {self.seconds:g} must be 0 to {LONGEST_SECONDS:g}")

    @property
    def shot(self) -> Shot:
        return Shot(self.x, self.y, REFERENCE_WIDTH / self.zoom)


def smoothstep(share: float) -> float:
    """From 0 to 1 with no speed at either end."""
    return share * share * (3 - 2 * share)


def linear(share: float) -> float:
    """From 0 to 1 at one speed."""
    return share


EASINGS: Mapping[str, Callable[[float], float]] = {"smooth": smoothstep, "linear": linear}


@dataclass(frozen=True)
class CameraPath:
    """The camera's way over a picture. canvas: the picture's size in pixels and which of its sides join.

    "smooth" comes to rest at every keyframe, "linear" passes at one speed between two of them. `loop` goes back the
    same way, so that the last frame is followed by the first. Where a side joins the other, the shorter way is taken.
    """

    keyframes: tuple[Keyframe, ...]
    canvas: Canvas
    easing: str = "smooth"
    loop: bool = False

    def __post_init__(self) -> None:
        if len(self.keyframes) < 2:
            raise ExportError(f"{len(self.keyframes)} keyframes make no way; at least 2 are needed")
        for before, after in zip(self.keyframes, self.keyframes[1:], strict=False):
            if after.seconds <= before.seconds:
                raise ExportError(
                    f"a keyframe at {after.seconds:g} s follows one at {before.seconds:g} s; seconds must grow"
                )
        if self.easing not in EASINGS:
            raise ExportError(f"no easing is called {self.easing!r}; there are {', '.join(EASINGS)}")

    @property
    def seconds(self) -> float:
        """How long it takes, the way back included; the first keyframe's time is where it starts."""
        return self._one_way * (2 if self.loop else 1)

    @property
    def _one_way(self) -> float:
        return self.keyframes[-1].seconds - self.keyframes[0].seconds

    def at(self, seconds: float, aspect: float) -> Shot:
        """The shot at a time since the start, for frames `aspect` times wider than high."""
        elapsed = self._one_way - abs(self._one_way - seconds) if self.loop else seconds
        times = [keyframe.seconds for keyframe in self.keyframes]
        now = times[0] + min(max(elapsed, 0.0), self._one_way)
        index = min(bisect_right(times, now), len(times) - 1)
        share = (now - times[index - 1]) / (times[index] - times[index - 1])
        start, end = (settled(shot, self.canvas, aspect) for shot in self._shots[index - 1 : index + 1])
        return between(start, end, EASINGS[self.easing](share), self.canvas, aspect)

    @cached_property
    def _shots(self) -> tuple[Shot, ...]:
        """The keyframes' shots; on an axis that wraps, each at the turn that is nearest to the one before."""
        shots = [self.keyframes[0].shot]
        for keyframe in self.keyframes[1:]:
            last, shot = shots[-1], keyframe.shot
            x = last.x + self._shorter(shot.x - last.x, self.canvas.width, self.canvas.topology.wraps_x)
            y = last.y + self._shorter(shot.y - last.y, self.canvas.height, self.canvas.topology.wraps_y)
            shots.append(Shot(x, y, shot.width))
        return tuple(shots)

    @staticmethod
    def _shorter(distance: float, period: int, wraps: bool) -> float:
        return (distance + period / 2) % period - period / 2 if wraps else distance


def whole_shot(canvas: Canvas, aspect: float) -> Shot:
    """The smallest shot that shows all of a picture."""
    return Shot(canvas.width / 2, canvas.height / 2, max(canvas.width, canvas.height * aspect))


def filled_shot(canvas: Canvas, aspect: float, x: float, y: float) -> Shot:
    """The largest shot that shows nothing but the picture, as near to a place as it can be."""
    return settled(Shot(x, y, min(canvas.width, canvas.height * aspect)), canvas, aspect)


def settled(shot: Shot, canvas: Canvas, aspect: float) -> Shot:
    """The nearest shot that shows nothing beyond a picture's borders, or as little as its shape allows."""
    width = min(shot.width, whole_shot(canvas, aspect).width)
    return Shot(
        shot.x if canvas.topology.wraps_x else _inside(shot.x, width, canvas.width),
        shot.y if canvas.topology.wraps_y else _inside(shot.y, width / aspect, canvas.height),
        width,
    )


def _inside(centre: float, extent: float, size: int) -> float:
    if extent >= size:
        return size / 2
    return min(max(centre, extent / 2), size - extent / 2)


def between(start: Shot, end: Shot, share: float, canvas: Canvas, aspect: float) -> Shot:
    """The shot after a share of the way: exactly `start` at 0 and `end` at 1."""
    if share <= 0 or start == end:
        return start
    if share >= 1:
        return end
    if _nested(start, end, aspect):
        return _scaled(start, end, share)
    return settled(_flown(start, end, share), canvas, aspect)


def _nested(one: Shot, other: Shot, aspect: float) -> bool:
    """Whether one of two shots lies in the other: then the point about which they are scaled lies in both."""
    room = abs(one.width - other.width) / 2
    return abs(one.x - other.x) <= room and abs(one.y - other.y) <= room / aspect


def _scaled(start: Shot, end: Shot, share: float) -> Shot:
    """The width grows or shrinks by the same factor in each moment; the borders move in proportion to it.

    w = w0 (w1 / w0)^t,    c = c0 + (c1 - c0) (w0 - w) / (w0 - w1)
    """
    width = start.width * (end.width / start.width) ** share
    moved = (start.width - width) / (start.width - end.width)
    return Shot(start.x + (end.x - start.x) * moved, start.y + (end.y - start.y) * moved, width)


def _flown(start: Shot, end: Shot, share: float) -> Shot:
    """J. J. van Wijk and W. A. A. Nuij, "Smooth and efficient zooming and panning", InfoVis 2003, equation 9.

    u1: distance between the centres; w0, w1: widths; S: length of the way; s = share * S

    b_i = (w1^2 - w0^2 + (-1)^i rho^4 u1^2) / (2 w_i rho^2 u1)      r_i = ln(sqrt(b_i^2 + 1) - b_i) = -asinh(b_i)
    u(s) = w0 / rho^2 (cosh r0 tanh(rho s + r0) - sinh r0)
    w(s) = w0 cosh r0 / cosh(rho s + r0)                            S = (r1 - r0) / rho
    """
    dx, dy = end.x - start.x, end.y - start.y
    distance = (dx * dx + dy * dy) ** 0.5
    growth, across = end.width**2 - start.width**2, RHO**4 * distance**2
    r0 = -asinh((growth + across) / (2 * start.width * RHO**2 * distance))
    r1 = -asinh((growth - across) / (2 * end.width * RHO**2 * distance))
    r = r0 + share * (r1 - r0)
    moved = start.width / RHO**2 * (cosh(r0) * tanh(r) - sinh(r0)) / distance
    return Shot(start.x + dx * moved, start.y + dy * moved, start.width * cosh(r0) / cosh(r))


def zoom_to(
    canvas: Canvas,
    aspect: float,
    x: float,
    y: float,
    zoom: float | None = None,
    seconds: float | None = None,
    *,
    easing: str = "smooth",
    loop: bool = False,
) -> CameraPath:
    """From as much of the picture as fills a frame to a place.

    zoom: a keyframe's; where it is None, full size, and two doublings at least. seconds: of the way there; where it is
    None, one for each doubling. The camera rests at both ends for an eighth of the time, at most a second. Raises
    ExportError for a place outside the picture, and for a zoom that shows no less than the start.
    """
    if not (0 <= x <= canvas.width and 0 <= y <= canvas.height):
        raise ExportError(
            f"the place {x:g},{y:g} lies outside the picture of {canvas.width} x {canvas.height} pixels"
        )
    start = filled_shot(canvas, aspect, x, y)
    least = REFERENCE_WIDTH / start.width
    zoom = max(1.0, LEAST_GROWTH * least) if zoom is None else zoom
    if not least < zoom <= LARGEST_ZOOM:
        raise ExportError(
            f"zoom {zoom:g} must be above {least:.3g}, where the way starts, and at most {LARGEST_ZOOM:g}"
        )
    if seconds is None:
        seconds = max(SHORTEST_TRAVEL, SECONDS_PER_DOUBLING * log2(zoom / least)) + 2 * LONGEST_HOLD
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ExportError(f"a video of {seconds:g} s: it must be above 0 and at most {LONGEST_SECONDS:g} s")
    hold = min(LONGEST_HOLD, seconds / 8)
    far = [Keyframe(start.x, start.y, least, time) for time in (0.0, hold)]
    near = [Keyframe(x, y, zoom, time) for time in (seconds - hold, seconds)]
    return CameraPath((*far, *near), canvas, easing, loop)


def read_keyframes(path: Path, canvas: Canvas, *, easing: str = "smooth", loop: bool = False) -> CameraPath:
    """The way that a keyframe file describes. Raises FormatError, naming file, place and limit, where it is wrong."""
    try:
        keyframes = _parsed(parse_json(read_text(path, LARGEST_FILE)), canvas)
        return CameraPath(keyframes, canvas, easing, loop)
    except ExportError as error:
        raise FormatError(f"{path}: {error}") from None
    except DocumentError as error:
        raise FormatError(f"{path} {error}; give a file that the page's zoom video panel saved") from None


def _parsed(document: Any, canvas: Canvas) -> tuple[Keyframe, ...]:
    if not isinstance(document, dict) or not isinstance(document.get("keyframes"), list):
        raise ExportError('no keyframe file: it needs an object with a list called "keyframes"')
    if document.get("format_version") != FORMAT_VERSION:
        raise ExportError(
            f"format_version is {repr(document.get('format_version'))[:40]}; this program reads {FORMAT_VERSION}"
        )
    size = document.get("width"), document.get("height")
    if size != (canvas.width, canvas.height):
        raise ExportError(
            f"made for a picture of {str(size[0])[:20]} x {str(size[1])[:20]} pixels; "
            f"this one is {canvas.width} x {canvas.height}"
        )
    return tuple(_keyframe(number, entry) for number, entry in enumerate(document["keyframes"], start=1))


def _keyframe(number: int, entry: Any) -> Keyframe:
    if not isinstance(entry, dict):
        raise ExportError(
            f"keyframe {number} is {repr(entry)[:40]}; it must be an object with x, y, zoom and seconds"
        )
    values = {name: entry.get(name) for name in ("x", "y", "zoom", "seconds")}
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ExportError(f"keyframe {number}: {name} is {repr(value)[:40]}; it must be a number")
    try:
        return Keyframe(**{name: float(value) for name, value in values.items() if value is not None})
    except (ExportError, OverflowError) as error:
        raise ExportError(f"keyframe {number}: {error}") from None
