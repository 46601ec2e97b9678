"""Knows the globe as a source of maps: views, held-out cells, wishes. Knows no network.

A view is a square of cells seen from above a place, in Lambert's azimuthal equal-area projection, at any bearing:

    p = (1 - r^2 / 2) n + sqrt(1 - r^2 / 4) (u e1 + v e2),     r^2 = u^2 + v^2     (Snyder 1987, eqs. 24-2 to 24-4)

with n the place, e1 and e2 the view's axes on the tangent plane, and u, v in radians. So continents keep their
areas, also near the poles, and one Earth gives endlessly many views; maps have no light, so mirror images serve too.

A wish is what a view is asked for: the shares of the twelve classes in its surroundings, vaguely, and the scale.

     +---------+---+         four windows, one about each corner of the view, may differ,
     |    +----|---|-+       so that a wish may change slowly over a canvas
     |    |view|   | |
     +----|----+---+ |
          +----------+
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from generation.training.classes import CLASS_NAMES, SEA_CLASSES
from generation.training.crops import majority
from generation.training.data import Bools, held_out_cells
from generation.training.earth import Bytes, Floats, build_earth
from generation.training.world_network import UNKNOWN, MapView, wish_planes

Doubles = npt.NDArray[np.float64]

MIN_SCALE, MAX_SCALE = 1.0, 4.0
"""Blocks per cell; the picture model's own cells have four."""
NULL_SHARE = 0.15
LAST_LATITUDE = 85.0
SEA_WEIGHT = 0.25
MIX_POINTS = 48
MAX_REACH = 1.8
"""Half the diagonal of the largest window, in units of the Earth's radius; the projection ends at 2."""


@dataclass(frozen=True)
class World:
    """Classes of equal steps in latitude and longitude from pole to pole, and what is held out of training."""

    classes: Bytes
    held_out: Bools

    def __post_init__(self) -> None:
        height, width = self.classes.shape
        if width != 2 * height or self.held_out.shape != self.classes.shape:
            raise ValueError(f"a world is twice as wide as high, with a flag each: found {height} x {width}")

    @property
    def step(self) -> float:
        """Radians between rows: the side of a block on the equator."""
        return float(np.pi / self.classes.shape[0])


@dataclass(frozen=True)
class GlobeView:
    """Cells of `scale` blocks around a place, turned by `bearing` radians, mirrored or not."""

    latitude: float
    longitude: float
    bearing: float
    mirrored: bool
    scale: float


def load_world(cache: Path) -> World:
    """The Earth; the first call downloads and composes it."""
    classes = build_earth(cache)[1]
    return World(classes, held_out_cells(*classes.shape))


def axes(view: GlobeView) -> tuple[Doubles, Doubles, Doubles]:
    """n, e1, e2 of the equation above."""
    lat, lon = view.latitude, view.longitude
    normal = np.array([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])
    east = np.array([-np.sin(lon), np.cos(lon), 0.0])
    south = -np.cross(normal, east)
    cos, sin = np.cos(view.bearing), np.sin(view.bearing)
    down, right = cos * south + sin * east, cos * east - sin * south
    return normal, down, -right if view.mirrored else right


def places(view: GlobeView, offsets: Doubles) -> tuple[Doubles, Doubles]:
    """(latitudes, longitudes) of a square of points, `offsets` radians from the view's centre on both axes."""
    normal, down, right = axes(view)
    u, v = offsets[:, None, None], offsets[None, :, None]
    square = u**2 + v**2
    point = (1.0 - square / 2.0) * normal + np.sqrt(1.0 - square / 4.0) * (u * down + v * right)
    return np.arcsin(np.clip(point[..., 2], -1.0, 1.0)), np.arctan2(point[..., 1], point[..., 0])


def looked_up(world: World, view: GlobeView, offsets: Doubles, held_out: bool = False) -> Bytes:
    """Classes at a square of points; UNKNOWN where held out (or, for `held_out`, where not) and at the poles."""
    latitude, longitude = places(view, offsets)
    height, width = world.classes.shape
    row = np.clip((0.5 - latitude / np.pi) * height, 0, height - 1).astype(np.intp)
    column = ((0.5 + longitude / (2 * np.pi)) * width).astype(np.intp) % width
    hidden = (world.held_out[row, column] != held_out) | (np.abs(latitude) > np.radians(LAST_LATITUDE))
    ids: Bytes = np.where(hidden, np.uint8(UNKNOWN), world.classes[row, column])
    return ids


def centred(count: int, extent: float) -> Doubles:
    """`count` evenly spaced offsets, the middles of the parts of an interval of length `extent` about zero."""
    return ((np.arange(count) + 0.5) / count - 0.5) * extent


def cells_of(world: World, view: GlobeView, side: int, held_out: bool = False) -> Bytes:
    """(side, side) majority classes of the view's cells; UNKNOWN where any of the points looked at is."""
    points = 2 if view.scale < 2.0 else 3
    fine = looked_up(world, view, centred(side * points, side * view.scale * world.step), held_out)
    cells = fine.reshape(side, points, side, points).swapaxes(1, 2).reshape(side, side, -1)
    return np.where((cells == UNKNOWN).any(axis=-1), np.uint8(UNKNOWN), majority(cells))


def shares(ids: Bytes) -> Doubles:
    """The twelve classes' shares of the known cells; zeros where nothing is known."""
    counts = np.bincount(ids[ids != UNKNOWN], minlength=len(CLASS_NAMES)).astype(np.float64)
    parts: Doubles = counts / max(1.0, counts.sum())
    return parts


def surroundings(world: World, view: GlobeView, side: int, reach: float) -> Doubles:
    """(2, 2, 12) shares in windows about the view's corners, `reach` times as wide as it where they can be."""
    inner = side * view.scale * world.step
    outer = min((1.0 + reach) * inner, MAX_REACH * 2**0.5)
    ids = looked_up(world, view, centred(MIX_POINTS, outer))
    window = round(MIX_POINTS * (1.0 - inner / outer))
    halves = (slice(None, window), slice(-window, None))
    return np.array([[shares(ids[rows, columns]) for columns in halves] for rows in halves])


def made_vague(corners: Doubles, random: np.random.Generator) -> Doubles:
    """Shares as one would ask for them: often the same all over, never exact, sometimes of the main classes only."""
    if random.random() < 0.6:
        corners = np.broadcast_to(corners.mean(axis=(0, 1)), corners.shape)
    corners = corners * np.exp(0.25 * random.standard_normal(corners.shape[-1]))
    if random.random() < 0.3:
        kept = np.argsort(corners.sum(axis=(0, 1)))[-int(random.integers(1, 6)) :]
        corners = corners * np.isin(np.arange(corners.shape[-1]), kept)
    total: Doubles = corners.sum(axis=-1, keepdims=True)
    return corners / np.maximum(total, 1e-6)


def spread(corners: Doubles, side: int) -> Floats:
    """(12, side, side): the four corners' shares, bilinear between them."""
    ramp = (np.arange(side) + 0.5) / side
    weights = np.stack([1.0 - ramp, ramp])
    planes: Floats = np.einsum("iy,jx,ijc->cyx", weights, weights, corners).astype(np.float32)
    return planes


class GlobeSource:
    """Draws views near a block of a class drawn with probability proportional to area ^ balance. Satisfies MapSource.

    So deserts are seen as often as the empty sea. Blocks on the other side of the held-out border are not chosen.
    """

    def __init__(self, world: World, held_out: bool = False, balance: float = 0.5) -> None:
        self.world = world
        latitude = (0.5 - (np.arange(world.classes.shape[0]) + 0.5) / world.classes.shape[0]) * np.pi
        area = np.where(world.held_out == held_out, np.cos(latitude)[:, None], 0.0)
        area[np.abs(latitude) > np.radians(LAST_LATITUDE)] = 0.0
        totals = np.bincount(world.classes.ravel(), weights=area.ravel(), minlength=len(CLASS_NAMES))
        weights = totals**balance
        weights[list(SEA_CLASSES)] *= SEA_WEIGHT
        ratio = np.divide(weights, totals, out=np.zeros_like(totals), where=totals > 0)
        self._cumulative = np.cumsum(area.ravel() * ratio[world.classes.ravel()])

    def view(self, random: np.random.Generator, side: int) -> GlobeView:
        """A view of `side` cells that a block drawn by weight lies in, at any place in it."""
        index = int(np.searchsorted(self._cumulative, random.random() * self._cumulative[-1], side="right"))
        row, column = divmod(index, self.world.classes.shape[1])
        scale = MIN_SCALE * (MAX_SCALE / MIN_SCALE) ** random.random()
        step = self.world.step
        bearing, mirrored = random.random() * 2 * np.pi, bool(random.random() < 0.5)
        block = GlobeView(
            np.pi / 2 - (row + 0.5) * step, (column + 0.5) * step - np.pi, bearing, mirrored, scale
        )
        offsets = (random.random(2) - 0.5) * side * scale * step
        latitude, longitude = (float(place[0, 1]) for place in places(block, offsets))
        return GlobeView(latitude, longitude, bearing, mirrored, scale)

    def draw(self, random: np.random.Generator, side: int) -> MapView:
        """A view that hides what is held out, and a wish that it would grant."""
        view = self.view(random, side)
        return MapView(cells_of(self.world, view, side), draw_wish(self.world, view, side, random))


def draw_wish(world: World, view: GlobeView, side: int, random: np.random.Generator) -> Floats:
    """(13, side, side) a vague wish; NULL_SHARE of them ask for no mix."""
    corners = made_vague(surroundings(world, view, side, random.uniform(0.75, 2.5)), random)
    asked = 0.0 if random.random() < NULL_SHARE else 1.0
    return wish_planes(spread(corners, side) * np.float32(asked), view.scale)


def exact_wish(world: World, view: GlobeView, side: int) -> Floats:
    """(13, side, side) the mix of a window twice as wide as the view, the same all over."""
    mix = surroundings(world, view, side, 1.0).mean(axis=(0, 1), keepdims=True)
    mix = np.broadcast_to(mix / max(float(mix.sum()), 1e-6), (2, 2, len(CLASS_NAMES)))
    return wish_planes(spread(mix, side), view.scale)
