"""Knows where a user's pictures lie: a folder of files, or the rows of Parquet files. Knows no crops.

pictures/  a.jpg  b.png  b.classes.png  maps/a.png      a class map has its picture's name
*.parquet  image: bytes or struct{bytes, ...}           classes, or class_map: the same, or null
"""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from generation.training.pictures import PictureError
from storage.fingerprint import stamp

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAP_FOLDER, MAP_SUFFIX = "maps", ".classes"
IMAGE_COLUMN, MAP_COLUMNS = "image", ("classes", "class_map")
KEPT_GROUPS = 4


class PackageMissing(OSError):
    """A package that only some tasks need is not installed."""


def optional_package(module: str, package: str, purpose: str) -> Any:
    """The module, or a line that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise PackageMissing(f"{purpose} needs the package {package}: pip install {package}") from None


@dataclass(frozen=True)
class FolderShelf:
    """The pictures under a folder, in the order of their names."""

    folder: Path
    names: tuple[str, ...]

    def picture(self, index: int) -> Image.Image:
        """The file of that name."""
        return Image.open(self.folder / self.names[index])

    def class_map(self, index: int) -> Image.Image | None:
        """maps/NAME.png, or NAME.classes.png beside the picture."""
        name = Path(self.names[index])
        apart = self.folder / MAP_FOLDER / name.with_suffix(".png")
        beside = self.folder / name.with_name(f"{name.stem}{MAP_SUFFIX}.png")
        found = next((path for path in (apart, beside) if path.is_file()), None)
        return None if found is None else Image.open(found)


def folder_shelf(folder: Path) -> FolderShelf:
    """Every picture under a folder. Raises PictureError where there is none."""
    if not folder.is_dir():
        raise PictureError(f"{folder} is no folder; give a folder of {', '.join(SUFFIXES)} files")
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    pictures = [path for path in paths if path.parts[0] != MAP_FOLDER and not path.stem.endswith(MAP_SUFFIX)]
    if not pictures:
        raise PictureError(f"{folder} holds no picture; {', '.join(SUFFIXES)} files are read")
    return FolderShelf(folder, tuple(sorted(path.as_posix() for path in pictures)))


@dataclass(frozen=True)
class Row:
    """Where a row lies: its file, row group, and place in it."""

    path: Path
    group: int
    place: int


@dataclass(frozen=True)
class ParquetShelf:
    """The rows of Parquet files; a row group is read as a whole, and a few are kept."""

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    map_column: str | None

    def picture(self, index: int) -> Image.Image:
        """The row's image."""
        content = self._content(index, IMAGE_COLUMN)
        if content is None:
            raise OSError("the row has no image")
        return Image.open(io.BytesIO(content))

    def class_map(self, index: int) -> Image.Image | None:
        """The row's class map."""
        content = None if self.map_column is None else self._content(index, self.map_column)
        return None if content is None else Image.open(io.BytesIO(content))

    def _content(self, index: int, column: str) -> bytes | None:
        row = self.rows[index]
        value = read_group(row.path, stamp(row.path), row.group, self._columns())[column][row.place].as_py()
        found = value.get("bytes") if isinstance(value, dict) else value
        return found if isinstance(found, bytes) else None

    def _columns(self) -> tuple[str, ...]:
        return (IMAGE_COLUMN,) if self.map_column is None else (IMAGE_COLUMN, self.map_column)


@lru_cache(maxsize=KEPT_GROUPS)
def read_group(path: Path, key: str, group: int, columns: tuple[str, ...]) -> Any:
    """A row group's columns as a table of pyarrow. key: the file's stamp, so that a new one is read."""
    del key
    with parquet().ParquetFile(path) as file:
        return file.read_row_group(group, columns=list(columns))


def parquet() -> Any:
    """pyarrow.parquet."""
    return optional_package("pyarrow.parquet", "pyarrow", "reading Parquet")


def parquet_shelf(path: Path) -> ParquetShelf:
    """Every row of a file, or of a folder's files. Raises PictureError where there is none."""
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise PictureError(
            f"{path} is no Parquet file and holds none; give a .parquet file or a folder of them"
        )
    rows: list[Row] = []
    columns = columns_of(files[0])
    for file in files:
        rows += rows_of(file)
    names = _numbered(rows)
    return ParquetShelf(names, tuple(rows), next((name for name in MAP_COLUMNS if name in columns), None))


def columns_of(path: Path) -> Sequence[str]:
    """The columns' names; there is one of images."""
    library = parquet()
    try:
        names: list[str] = list(library.read_schema(path).names)
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]:.80}") from None
    if IMAGE_COLUMN not in names:
        raise PictureError(
            f"{path} has no column {IMAGE_COLUMN!r}, only {', '.join(names)}; rename the one of images"
        )
    return names


def rows_of(path: Path) -> list[Row]:
    """The rows of a file."""
    with parquet().ParquetFile(path) as file:
        groups = [file.metadata.row_group(index).num_rows for index in range(file.num_row_groups)]
    return [Row(path, group, place) for group, count in enumerate(groups) for place in range(count)]


def _numbered(rows: Sequence[Row]) -> tuple[str, ...]:
    """ "train.parquet row 17": rows counted within their file."""
    counts: dict[Path, int] = {}
    names = []
    for row in rows:
        counts[row.path] = counts.get(row.path, -1) + 1
        names.append(f"{row.path.name} row {counts[row.path]}")
    return tuple(names)
