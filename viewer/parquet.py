"""Pictures and their facts in Parquet files, read where they are asked for. Knows columns; knows no address.

A file is read by row groups: facts without the pictures, and pictures of one row group at a time, so that memory is
that of the largest row group and not of the file.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from viewer.tiles import stamp

LARGEST = {"image": 2**30, "mask": 2**30, "facts": 2**27}
"""Bytes of a row group beyond which its pictures, or its other columns, are not read."""
PICTURES = ("image", "mask")
Made = TypeVar("Made")


class Recent:
    """What was made last, by keys that name its content; the least recently used is dropped first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """The one of that key, made where it is not held."""
        if key not in self._held:
            while len(self._held) >= self._most:  # first, so that never more than `most` are there
                self._held.popitem(last=False)
            self._held[key] = make()
        self._held.move_to_end(key)
        made: Made = self._held[key]
        return made


@dataclass(frozen=True)
class RowGroup:
    """Some rows of a file that lie together. first: how many rows of the file come before."""

    number: int
    first: int
    rows: int


@dataclass(frozen=True)
class Footer:
    """What a file says of itself. columns: at the top; sizes: bytes of the image, mask and facts of each row group."""

    columns: tuple[str, ...]
    groups: tuple[RowGroup, ...]
    sizes: Mapping[tuple[int, str], int]

    @property
    def rows(self) -> int:
        return sum(group.rows for group in self.groups)

    def group_at(self, row: int) -> RowGroup:
        """The row group of a row. Raises IndexError where the file has no such row."""
        for group in self.groups:
            if 0 <= row - group.first < group.rows:
                return group
        raise IndexError(f"row {row} of {self.rows}")


class Tables:
    """Reads Parquet files, and keeps what was read last. Of one thread at a time."""

    def __init__(self) -> None:
        self._footers = Recent(4096)
        self._facts = Recent(4)
        self._pictures = {name: Recent(1) for name in PICTURES}

    def footer(self, path: Path) -> Footer:
        """Raises OSError or ValueError where the file is none of Parquet's."""
        return self._footers.get((path, stamp(path)), lambda: _read_footer(path))

    def facts(self, path: Path, group: RowGroup) -> list[dict[str, Any]]:
        """The rows of a group without their pictures; `path` is that of the image."""
        return self._facts.get((path, stamp(path), group), lambda: self._read_facts(path, group))

    def picture(self, path: Path, row: int, column: str) -> bytes | None:
        """The bytes of a row's image or mask; None where there is none. Raises IndexError, ValueError, OSError."""
        group = self.footer(path).group_at(row)
        held = self._pictures[column].get(
            (path, stamp(path), group), lambda: self._read_pictures(path, group, column)
        )
        value = held[row - group.first].as_py() if held is not None else None
        return value if isinstance(value, bytes) else None

    def _read_facts(self, path: Path, group: RowGroup) -> list[dict[str, Any]]:
        _check_size(self.footer(path), path, group, "facts")
        columns = [name for name in self.footer(path).columns if name not in PICTURES]
        with pq.ParquetFile(path) as file:
            read = file.read_row_group(group.number, columns=[*columns, "image.path"])
        rows: list[dict[str, Any]] = read.to_pylist()
        return [{**row, "path": (row.pop("image", None) or {}).get("path")} for row in rows]

    def _read_pictures(self, path: Path, group: RowGroup, column: str) -> pa.Array | None:
        footer = self.footer(path)
        if column not in footer.columns:
            return None
        _check_size(footer, path, group, column)
        with pq.ParquetFile(path) as file:
            read = file.read_row_group(group.number, columns=[f"{column}.bytes"])
        return read[column].combine_chunks().field("bytes")


def _check_size(footer: Footer, path: Path, group: RowGroup, what: str) -> None:
    size, limit = footer.sizes[group.number, what], LARGEST[what]
    if size > limit:
        raise ValueError(
            f"row group {group.number} of {path.name} has {size:,} bytes of {what}; {limit:,} are read"
        )


def _read_footer(path: Path) -> Footer:
    with pq.ParquetFile(path) as file:
        metadata, columns = file.metadata, tuple(file.schema_arrow.names)
    groups: list[RowGroup] = []
    sizes: dict[tuple[int, str], int] = dict.fromkeys(
        ((number, name) for number in range(metadata.num_row_groups) for name in LARGEST), 0
    )
    first = 0
    for number in range(metadata.num_row_groups):
        about = metadata.row_group(number)
        groups.append(RowGroup(number, first, about.num_rows))
        first += about.num_rows
        for index in range(about.num_columns):
            leaf = about.column(index)
            name = leaf.path_in_schema.partition(".")[0]
            sizes[number, name if name in PICTURES else "facts"] += leaf.total_uncompressed_size
    return Footer(columns, tuple(groups), sizes)


def places(footers: Mapping[str, Footer], first: int) -> Iterator[tuple[int, str, RowGroup, int]]:
    """(place, name of the file, row group, row in it) of every row from the first-th of all files on."""
    before = 0
    for name, footer in footers.items():
        for group in footer.groups:
            for row in range(max(0, first - before), group.rows):
                yield before + row, name, group, row
            before += group.rows


def class_bits(ids: np.ndarray) -> int:
    """Which ids occur, as the bits of a number."""
    return sum(1 << int(value) for value in np.flatnonzero(np.bincount(ids.ravel(), minlength=256)))
