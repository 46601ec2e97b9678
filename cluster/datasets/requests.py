"""Tables of requests: CSV, JSON lines, Parquet or rows at hand, read as a stream. Knows columns; knows no model.

    id, prompt (or label), width, height     of each row, or of the flags
    seed, negative_prompt, guidance_scale, num_inference_steps, classes, ...     where a row says more

The columns are the settings whose description names one. What a row
leaves out comes from the flags; a seed that is left out is the flags' seed plus the row's number.
"""

from __future__ import annotations

import csv
import difflib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cluster.spec.fields import SETTINGS, JobSpec, SpecError
from cluster.spec.settings import aliases_of
from storage.documents import DocumentError, parse_json, text_lines

OF_ROWS = tuple(name for name, setting in SETTINGS.items() if setting.column)
"""Settings that rows may say."""
NEEDED = ("id", *(name for name in OF_ROWS if JobSpec.model_fields[name].is_required()))
COLUMNS = ("id", *OF_ROWS)
ALIASES: Mapping[str, str] = aliases_of({name: SETTINGS[name] for name in OF_ROWS})
WHOLE = tuple(name for name in OF_ROWS if SETTINGS[name].column.startswith(("int", "uint")))
NUMBERS = (*WHOLE, *(name for name in OF_ROWS if SETTINGS[name].column == "double"))
LONGEST_ID = 200
FORMATS = (".csv", ".jsonl", ".ndjson", ".parquet")

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Placed:
    """One row, where it stands ("line 3" of a file), and the columns of its table that it may leave empty."""

    place: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Table:
    """A source of requests that can be read more than once. name: as messages call it; folder: of relative paths."""

    name: str
    rows: Path | Iterable[Row]
    folder: Path = Path()

    def read(self, given: Iterable[str]) -> Iterator[Placed]:
        """Every row; columns that neither the table nor the flags give are refused. Raises SpecError."""
        known = set(given)
        checked: tuple[str, ...] = ()
        for place, row in self._rows():
            if tuple(row) != checked:
                self._check_columns(list(row), known, place)
                checked = tuple(row)
            yield Placed(f"{self.name}, {place}", self._values(row, place))

    def _rows(self) -> Iterator[tuple[str, Row]]:
        if not isinstance(self.rows, Path):
            yield from ((f"row {number}", row) for number, row in enumerate(self.rows, 1))
            return
        match self.rows.suffix.lower():
            case ".csv":
                yield from _csv_rows(self.rows)
            case ".jsonl" | ".ndjson":
                yield from _json_rows(self.rows)
            case _:
                yield from _parquet_rows(self.rows)

    def _check_columns(self, names: list[str], given: set[str], place: str) -> None:
        where = self.name if isinstance(self.rows, Path) else f"{self.name}, {place}"
        for name in names:
            if name not in COLUMNS and name not in ALIASES:
                near = difflib.get_close_matches(str(name), [*COLUMNS, *ALIASES], n=1)
                meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(COLUMNS)}"
                raise SpecError(f"{where} has an unknown column {name!r}{meant}")
        present = _by_our_names(names, where)
        missing = [name for name in NEEDED if name not in {*present, *given}]
        if missing:
            flags = {"prompt": "--label", "width": "--image-size", "height": "--image-size"}
            hint = f", or give {flags[missing[0]]}" if missing[0] in flags else ""
            raise SpecError(f"{where} has no column {missing[0]}; add it{hint}")

    def _values(self, row: Row, place: str) -> dict[str, Any]:
        """The row's values by our names, without those left empty."""
        values: dict[str, Any] = {}
        for name, value in row.items():
            ours = ALIASES.get(name, name)
            if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
                continue
            if ours in NUMBERS and not _is_number(value):
                kind = "whole number" if ours in WHOLE else "number"
                raise SpecError(
                    f"{self.name}, {place}: {ours} {value!r} cannot be used: write a {kind} such as 12"
                )
            values[ours] = _whole(value) if ours in WHOLE else value
        if "id" not in values:
            raise SpecError(f"{self.name}, {place}: the id is empty; give every request its own")
        values["id"] = str(values["id"])
        if len(values["id"]) > LONGEST_ID or not values["id"].isprintable():
            raise SpecError(
                f"{self.name}, {place}: the id {values['id'][:40]!r} cannot be used; at most {LONGEST_ID} printable "
                "characters"
            )
        return values


def _by_our_names(names: Iterable[str], where: str) -> dict[str, str]:
    """Our name -> the column's. Raises SpecError where two columns are the same."""
    found: dict[str, str] = {}
    for name in names:
        ours = ALIASES.get(name, name)
        if ours in found:
            both = " and ".join(sorted((found[ours], name), key=lambda one: one != ours))
            raise SpecError(f"{where} has both {both}, which are the same; leave one out")
        found[ours] = name
    return found


def table_at(path: Path) -> Table:
    """The table in a file. Raises SpecError where there is none, or of no format that is read."""
    if path.suffix.lower() not in FORMATS:
        raise SpecError(f"{path} is no table of requests; give a file that ends in {', '.join(FORMATS)}")
    if path.exists() and not path.is_file():
        raise SpecError(f"{path} is no file; give a table of requests")
    if not path.exists():
        near = difflib.get_close_matches(path.name, _tables_in(path.parent), n=1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise SpecError(f"{path} does not exist{hint}")
    return Table(path.name, path, path.parent)


def _tables_in(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*") if path.suffix.lower() in FORMATS]


def rows_at_hand(rows: Iterable[Row]) -> Table:
    """The table of rows in memory; a pyarrow Table or a pandas DataFrame will do."""
    if hasattr(rows, "to_pylist"):
        _check_once(getattr(rows, "column_names", ()), "requests")
        rows = rows.to_pylist()
    elif hasattr(rows, "to_dict"):
        _check_once(getattr(rows, "columns", ()), "requests")
        rows = rows.to_dict("records")
    return Table("requests", list(rows))


MOST_NUMBERED = 100_000_000


@dataclass(frozen=True)
class Numbered:
    """Rows 0, 1, 2, ... that say nothing but their id, made as they are read."""

    count: int

    def __iter__(self) -> Iterator[Row]:
        return ({"id": f"{index:08d}"} for index in range(self.count))


def numbered(count: int) -> Table:
    """So many pictures of the flags."""
    if count < 1:
        raise SpecError(f"n-images {count} is out of range: at least 1")
    if count > MOST_NUMBERED:
        raise SpecError(
            f"n-images {str(count)[:20]} is out of range: at most {MOST_NUMBERED:,}; make several batches, each "
            "with its own --seed"
        )
    return Table("requests", Numbered(count))


def _check_once(names: Iterable[Any], place: str) -> None:
    """A name that occurs twice would leave one of its values out."""
    (twice, count), *_ = [*Counter(names).most_common(1), (None, 0)]
    if count > 1:
        raise SpecError(f"{place} has {count} columns {twice!r}; leave all but one out")


def _csv_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        reader = csv.DictReader(text_lines(path), strict=True)
        _check_once(reader.fieldnames or (), path.name)
        for row in reader:
            if None in row or None in row.values():
                more = "more" if None in row else "fewer"
                raise SpecError(f"{path.name}, line {reader.line_num}: {more} values than columns")
            yield f"line {reader.line_num}", row
    except csv.Error as error:
        raise SpecError(f"{path.name} is not CSV in UTF-8: {error}") from None
    except DocumentError as error:
        raise SpecError(f"{path.name} {error}") from None


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    try:
        for number, line in enumerate(text_lines(path), 1):
            if line.strip():
                yield f"line {number}", _json_row(line, f"{path.name}, line {number}")
    except DocumentError as error:
        raise SpecError(f"{path.name} {error}") from None


def _json_row(line: str, place: str) -> Row:
    try:
        row = parse_json(line, partial(_once, place))
    except DocumentError as error:
        raise SpecError(f"{place} {error}") from None
    if not isinstance(row, dict):
        raise SpecError(f'{place} is no object; write it like {{"id": "a"}}')
    return row


def _once(place: str, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    _check_once((name for name, _ in pairs), place)
    return dict(pairs)


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_once(file.schema_arrow.names, path.name)
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise SpecError(
            f"{path.name} is not Parquet, or damaged: {(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None


def _is_number(value: Any) -> bool:
    """Neither a truth value, which Python counts as a number, nor digits in groups, which Python alone reads."""
    return not isinstance(value, bool) and not (isinstance(value, str) and "_" in value)


def _whole(value: Any) -> Any:
    """12.0 and "12" are whole numbers, as tables write them; anything else is left for the check to refuse."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return value
    return value
