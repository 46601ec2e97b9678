"""What a picture is written as: the table of formats. Each is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from storage.formats.contract import PyramidFormat
    from storage.pyramid import PyramidLayout


class OpenFormat(Protocol):
    """Builds a format for a job folder; `encoding` is that of its tiles, where it has such."""

    def __call__(self, folder: Path, layout: PyramidLayout, encoding: str = "jpg") -> PyramidFormat: ...


def _ome_zarr(folder: Path, layout: PyramidLayout, encoding: str = "jpg") -> PyramidFormat:
    from storage.formats.ome_zarr import OmeZarr

    return OmeZarr(folder, layout)


def _deep_zoom(folder: Path, layout: PyramidLayout, encoding: str = "jpg") -> PyramidFormat:
    from storage.formats.deep_zoom import DeepZoom

    return DeepZoom(folder, layout, encoding)


FORMATS: dict[str, OpenFormat] = {
    "ome-zarr": _ome_zarr,
    "deep-zoom": _deep_zoom,
}
