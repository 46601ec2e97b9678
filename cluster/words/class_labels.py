"""What the labels of a class map mean: ids, the classes that a file names, or colours. Knows labels; opens no map.

A file of labels, as YAML or JSON a mapping, as CSV rows of label and class:

    10: evergreen needleleaf forest     a class by its name, in any case, or by its id
    11-15: desert                       every label from 11 to 15
    "#1f77b4": shallow water            a colour, for maps that are RGB pictures
    nodata: none                        the value that the map declares to be none, and what is transparent
    default: grassland                  every other label; without it an unknown label is an error
"""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from cluster.spec.fields import SpecError
from storage.documents import DocumentError, compose_yaml, parse_json, parse_yaml, read_text
from storage.formats.labels import Legend
from storage.label_files import LabelFile
from storage.label_files.contract import LabelArray

NO_CLASS, UNKNOWN = -1, -2
"""The id of the null class, and of a label without a meaning."""
TABLE = 2**16
FORMATS = (".yaml", ".yml", ".json", ".csv")
WORDS = ("default", "nodata")


@dataclass(frozen=True)
class Span:
    """Labels from `low` to `high`, both included, and the id of their class."""

    low: int
    high: int
    id: int


@dataclass(frozen=True)
class Meaning:
    """Label -> class id. spans: apart from each other, ascending. otherwise: what to say of a label without meaning."""

    spans: tuple[Span, ...]
    default: int = UNKNOWN
    otherwise: str = ""

    def ids(self, labels: LabelArray) -> NDArray[np.int16]:
        """Ids of the same shape; NO_CLASS, and UNKNOWN for labels that mean nothing."""
        if not labels.size:
            return np.zeros(labels.shape, np.int16)
        low, high = int(labels.min()), int(labels.max())
        if high - low >= TABLE or high - low > labels.size:
            return self._looked_up(labels.astype(np.int64))
        table = self._looked_up(np.arange(low, high + 1, dtype=np.int64))
        places = labels if low == 0 and labels.dtype.kind == "u" else labels.astype(np.int64) - low
        return table[places]

    def _looked_up(self, labels: NDArray[np.int64]) -> NDArray[np.int16]:
        lows, highs, ids = (
            np.array([getattr(span, name) for span in self.spans], np.int64) for name in ("low", "high", "id")
        )
        place = np.searchsorted(lows, labels, side="right") - 1
        hit = (place >= 0) & (labels <= highs[place])
        return np.where(hit, ids[place], self.default).astype(np.int16)


def meaning_of(map_: LabelFile, legend: Legend, given: Path | None) -> Meaning:
    """What a map's labels mean for a model with these classes. Raises SpecError where that cannot be said.

    given: the user's file of labels. Without one, the names that the map itself tells, the colours of the legend where
    the map is a picture of colours, else the labels are ids.
    """
    if given is not None:
        return read_labels(given, legend).meaning(map_)
    if map_.names:
        return _named(map_, legend)
    if map_.colours:
        spans = [Span(colour, colour, index) for index, colour in enumerate(_colours(legend))]
        return _implied(spans, map_, _not_among("the model's colours"))
    spans = [Span(index, index, index) for index in range(len(legend))]
    return _implied(
        spans, map_,
        f"; the model knows 0 to {len(legend) - 1}: paint with those, or say with --class-labels what the labels mean",
    )  # fmt: skip


@dataclass(frozen=True)
class Labels:
    """A file of labels, read and checked. colours: whether its labels are colours. nodata: None where it says nothing.

    spans: in no order, apart from each other. default: UNKNOWN where there is none.
    """

    path: Path
    spans: tuple[Span, ...]
    colours: bool
    nodata: int | None
    default: int

    def meaning(self, map_: LabelFile) -> Meaning:
        """For the labels of one map."""
        if self.spans and self.colours != map_.colours:
            kinds = ("colours", "numbers") if self.colours else ("numbers", "colours")
            raise SpecError(
                f"{self.path} says what {kinds[0]} mean, but class map {map_.path} holds {kinds[1]}"
            )
        fallback = NO_CLASS if self.nodata is None else self.nodata
        otherwise = f", which {self.path} does not name; add it there, or a `default`"
        return _meaning(self.spans, map_, fallback, self.default, otherwise)


def read_labels(path: Path, legend: Legend) -> Labels:
    """Raises SpecError for a file that is missing or broken, and for the first line that cannot be."""
    spans: list[Span] = []
    words: dict[str, int] = {}
    kinds: set[bool] = set()
    for key, value in _rows(path):
        id = _class_id(path, key, value, legend)
        word = str(key).strip().lower()
        if word in WORDS:
            if word in words:
                raise SpecError(f"{path} says {word} twice")
            words[word] = id
            continue
        low, high, is_colour = _label(path, key)
        spans.append(Span(low, high, id))
        kinds.add(is_colour)
    if not spans and not words:
        raise SpecError(f"{path} is empty; write lines such as `10: {legend[0][0]}`")
    if len(kinds) > 1:
        raise SpecError(f"{path} names numbers and colours; a class map holds one or the other")
    _check_apart(path, spans, kinds == {True})
    return Labels(path, tuple(spans), kinds == {True}, words.get("nodata"), words.get("default", UNKNOWN))


def shown_label(label: int, colours: bool) -> str:
    """A label as people write it."""
    return (
        ("a transparent pixel" if label < 0 else f"the colour #{label:06x}") if colours else f"label {label}"
    )


def _named(map_: LabelFile, legend: Legend) -> Meaning:
    """By the names that the file tells; 0 is then the background."""
    known = {name.lower(): index for index, (name, _) in enumerate(legend)}
    spans = []
    for label, name in sorted(map_.names.items()):
        if name.lower() not in known:
            raise SpecError(
                f"class map {map_.path} calls label {label} {name!r}, which the model does not know"
                f"{_near(name, known)}; say with --class-labels what its labels mean"
            )
        spans.append(Span(label, label, known[name.lower()]))
    if 0 not in map_.names:
        spans.append(Span(0, 0, NO_CLASS))
    return _implied(spans, map_, _not_among("the names that it tells"))


def _implied(spans: Iterable[Span], map_: LabelFile, otherwise: str) -> Meaning:
    """Without a file of labels: spans of one label each, before which goes what the map says is no data."""
    return _meaning([span for span in spans if span.low != map_.nodata], map_, NO_CLASS, UNKNOWN, otherwise)


def _meaning(spans: Iterable[Span], map_: LabelFile, nodata_id: int, default: int, otherwise: str) -> Meaning:
    """No data, as the map says of itself, has this id unless a span names it."""
    every, value = list(spans), map_.nodata
    if value is not None and not any(span.low <= value <= span.high for span in every):
        every.append(Span(value, value, nodata_id))
    ordered = tuple(sorted(every, key=lambda span: span.low))
    return Meaning(ordered or (Span(0, -1, UNKNOWN),), default, otherwise)


def _not_among(known: str) -> str:
    return f", which is not among {known}; say with --class-labels what its labels mean"


def _colours(legend: Legend) -> Iterable[int]:
    return (int(colour[1:], 16) for _, colour in legend)


# --- the file --------------------------------------------------------------------------------------------------------


def _rows(path: Path) -> list[tuple[Any, Any]]:
    """(label, class) of every line, as they are written."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"{path} is no file of labels; give one that ends in {', '.join(FORMATS)}")
    try:
        return READERS[path.suffix.lower()](path, read_text(path))
    except DocumentError as error:
        raise SpecError(f"{path} {error}") from None


def _csv_rows(path: Path, text: str) -> list[tuple[Any, Any]]:
    """The columns `label` and `class` where the first row names them, else the two that there are."""
    try:
        rows = [row for row in csv.reader(StringIO(text), strict=True) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise SpecError(f"{path} is not CSV: {error}") from None
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    at = (0, 1)
    if "label" in head and "class" in head:
        at, rows = (head.index("label"), head.index("class")), rows[1:]
    for row in rows:
        if len(row) <= max(at) or (at == (0, 1) and len(head) != len(row)):
            raise SpecError(f"{path}: {','.join(row)[:40]!r} is no row of label and class")
    return [(row[at[0]].strip(), row[at[1]].strip()) for row in rows]


def _yaml_rows(path: Path, text: str) -> list[tuple[Any, Any]]:
    try:
        node, document = compose_yaml(text), parse_yaml(text)
    except DocumentError as error:
        raise SpecError(f"{path} {error}; write one `label: class` a line") from None
    if document is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise SpecError(f"{path} holds no `label: class` lines")
    _check_once(path, [str(key.value) for key, _ in node.value])
    return list(document.items())


def _json_rows(path: Path, text: str) -> list[tuple[Any, Any]]:
    rows = parse_json(text, _Pairs) if text.strip() else _Pairs()
    if not isinstance(rows, _Pairs):
        raise SpecError(f'{path} is no object; write it like {{"10": "desert"}}')
    _check_once(path, [str(key) for key, _ in rows])
    return list(rows)


class _Pairs(list[tuple[str, Any]]):
    """An object of JSON, with keys that come twice."""


READERS: Mapping[str, Callable[[Path, str], list[tuple[Any, Any]]]] = {
    ".yaml": _yaml_rows,
    ".yml": _yaml_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
}


def _check_once(path: Path, keys: Sequence[str]) -> None:
    for index, key in enumerate(keys):
        if key in keys[:index]:
            raise SpecError(f"{path} says twice what {key} means; leave one out")


def _label(path: Path, key: Any) -> tuple[int, int, bool]:
    """(low, high, whether it is a colour)."""
    text = str(key).strip()
    if re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        return int(text[1:], 16), int(text[1:], 16), True
    span = re.fullmatch(r"(-?\d{1,18})(?:\s*-\s*(-?\d{1,18}))?", text)
    if span is None or isinstance(key, bool):
        raise SpecError(
            f'{path}: {text[:40]!r} is no label; write a number, a range such as 1-5, a colour such as "#1f77b4", '
            "default or nodata"
        )
    low, high = int(span[1]), int(span[2] or span[1])
    if high < low:
        raise SpecError(f"{path}: the range {text} ends before it begins")
    return low, high, False


def _class_id(path: Path, key: Any, value: Any, legend: Legend) -> int:
    """The class id that a name, an id or "none" stands for."""
    if value is None or str(value).strip().lower() == "none":
        return NO_CLASS
    names = {name.lower(): index for index, (name, _) in enumerate(legend)}
    text = str(value).strip()
    if text.lower() in names:
        return names[text.lower()]
    if re.fullmatch(r"-?\d+", text) and not isinstance(value, bool):
        if 0 <= int(text) < len(legend):
            return int(text)
        raise SpecError(f"{path}: {key} is class {text}; the model knows 0 to {len(legend) - 1}, or none")
    raise SpecError(f"{path}: {key} is {text[:40]!r}, which the model does not know{_near(text, names)}")


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name.lower(), list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; it knows {', '.join(names)}"


def _check_apart(path: Path, spans: list[Span], colours: bool) -> None:
    ordered = sorted(spans, key=lambda span: span.low)
    for first, second in pairwise(ordered):
        if second.low <= first.high:
            raise SpecError(f"{path} says twice what {shown_label(second.low, colours)} means; leave one out")
