"""Regions drawn as GeoJSON (RFC 7946): polygons in pixels of the picture, y downwards. Knows the format; no canvas.

{"type": "FeatureCollection", "features": [
  {"type": "Feature", "properties": {"prompt": "a red barn", "feather": 32},
   "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [640, 0], [640, 480], [0, 480], [0, 0]]]}}]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.spec.fields import SpecError
from cluster.spec.region_fields import Told, checked_told
from storage.documents import DocumentError, check_values, parse_json, read_text

SUFFIXES = (".geojson", ".json")
MOST_BYTES = 400 * 2**20
"""Of GeoJSON; so many points with all their digits."""
MOST_POINTS = 5_000_000
VALUES_OF_A_POINT = 4
"""At most: itself, x, y, and a height that is not read."""
SIMPLER = "simplify it, or draw a map of labels"
Ring = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Shape:
    """One feature: what its place is told, and its polygons, each of rings of (x, y)."""

    name: str
    told: Told
    polygons: tuple[tuple[Ring, ...], ...]

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """x0, y0, x1, y1."""
        points = [point for polygon in self.polygons for ring in polygon for point in ring]
        xs, ys = zip(*points, strict=True)
        return min(xs), min(ys), max(xs), max(ys)


def is_shapes(path: Path) -> bool:
    """Whether a file of regions is one of shapes; any other is a map of labels."""
    return path.suffix.lower() in SUFFIXES


def read_shapes(path: Path) -> tuple[Shape, ...]:
    """The features, in order. Raises SpecError, in one line, for a file that gives none."""
    document = _document(path)
    features = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if not isinstance(features, list) or not features:
        raise SpecError(f"{path} has no features; give a FeatureCollection with at least one")
    shapes = tuple(_shape(feature, f"{path}: feature {number}") for number, feature in enumerate(features, 1))
    points = sum(len(ring) for shape in shapes for polygon in shape.polygons for ring in polygon)
    if points > MOST_POINTS:
        raise SpecError(f"{path} has {points:,} points; at most {MOST_POINTS:,} can be held: {SIMPLER}")
    return shapes


def _document(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path, MOST_BYTES)
        check_values(text, VALUES_OF_A_POINT * MOST_POINTS)
        document = parse_json(text)
    except DocumentError as error:
        advice = f": {SIMPLER}" if path.is_file() and str(error).endswith(("MB", "values")) else ""
        raise SpecError(f"{path} {error}{advice}") from None
    if not isinstance(document, dict) or document.get("type") not in ("FeatureCollection", "Feature"):
        raise SpecError(f"{path} is not GeoJSON: its type must be FeatureCollection or Feature")
    return document


def _shape(feature: object, name: str) -> Shape:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise SpecError(f"{name} is not a Feature")
    properties = feature.get("properties")
    known = {
        key: value
        for key, value in (properties if isinstance(properties, dict) else {}).items()
        if key in ("prompt", "negative_prompt", "weight", "feather")
    }  # others are a map maker's own
    if not known.get("prompt"):
        raise SpecError(f'{name} has no prompt; give it the property "prompt"')
    try:
        told = Told(**checked_told(known, name))
    except ValueError as error:
        raise SpecError(str(error)) from None
    return Shape(name, told, _polygons(feature.get("geometry"), name))


def _polygons(geometry: object, name: str) -> tuple[tuple[Ring, ...], ...]:
    kind = geometry.get("type") if isinstance(geometry, Mapping) else None
    if not isinstance(geometry, Mapping) or kind not in ("Polygon", "MultiPolygon"):
        raise SpecError(f"{name} is a {kind or 'shape without geometry'}; give a Polygon or a MultiPolygon")
    coordinates = geometry.get("coordinates")
    polygons = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(polygons, list) or not polygons:
        raise SpecError(f"{name} has no coordinates")
    return tuple(_polygon(rings, name) for rings in polygons)


def _polygon(rings: object, name: str) -> tuple[Ring, ...]:
    if not isinstance(rings, list) or not rings or not all(isinstance(ring, list) for ring in rings):
        raise SpecError(f"{name} has a polygon without rings; coordinates are [[[x, y], ...], ...]")
    found = tuple(tuple(_point(point, name) for point in ring) for ring in rings)
    for ring in found:
        if len(set(ring)) < 3:
            raise SpecError(f"{name} has a ring of {len(set(ring))} points; a ring needs at least 3")
    return found


def _point(point: object, name: str) -> tuple[float, float]:
    if isinstance(point, list) and len(point) >= 2:
        x, y = point[:2]
        if all(isinstance(value, int | float) and not isinstance(value, bool) for value in (x, y)) and all(
            math.isfinite(value) and abs(value) < 1e9 for value in (x, y)
        ):
            return float(x), float(y)
    raise SpecError(f"{name} has the point {str(point)[:40]}; a point is [x, y] in pixels")
