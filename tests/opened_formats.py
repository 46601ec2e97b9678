"""Formats of a folder by their names. Not a test itself."""

from __future__ import annotations

from pathlib import Path

from storage.formats import FORMATS
from storage.formats.contract import PyramidFormat
from storage.pyramid import PyramidLayout


def open_formats(names: list[str], folder: Path, layout: PyramidLayout) -> list[PyramidFormat]:
    return [FORMATS[name](folder, layout) for name in names]
