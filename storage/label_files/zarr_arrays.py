"""Zarr arrays, v2 and v3, and level 0 of OME-Zarr images and labels, as chunks of labels through TensorStore.

    FOLDER/zarr.json | .zarray             an array: (h, w), or (1, ..., 1, h, w), or (1, ..., 3, h, w) bytes of colours
    FOLDER/zarr.json | .zgroup, .zattrs    OME-Zarr: the first array of its multiscales; of labels the only ones

Labels in OME-Zarr may tell the names of their classes (image-label, properties, "class"); 0 is their background.
No data is what the attributes _FillValue and missing_value say, as in CF; without them a fill value, but not 0, which
every array has and which says nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from storage.arrays import as_os_error, context
from storage.label_files.chunks import ChunkedLabels, check_chunk
from storage.label_files.contract import (
    LabelArray,
    LabelFileError,
    as_labels,
    no_data_label,
    no_data_values,
)

ARRAYS = {"zarr.json": "zarr3", ".zarray": "zarr"}
TOLD_IN = {"zarr3": "zarr.json", "zarr": ".zattrs"}
DECLARED = ("_FillValue", "missing_value")
NEUTRAL = {"scale_factor": 1, "add_offset": 0}


@dataclass(frozen=True)
class ZarrChunks:
    """Chunks of an array whose last two axes are y and x. bands: length of the axis before them, 1 or 3.

    hidden: labels that are NONE.
    """

    path: Path
    store: ts.TensorStore
    height: int
    width: int
    bands: int
    chunk: tuple[int, int]
    dtype: np.dtype[Any]
    nodata: int | None
    names: Mapping[int, str]
    hidden: tuple[int, ...]

    @property
    def colours(self) -> bool:
        return self.bands == 3

    def read_chunk(self, row: int, column: int) -> LabelArray:
        """The labels of one chunk; chunks that are not stored hold the array's fill value."""
        (rows, columns), lead = self.chunk, self.store.rank - 2
        place = (
            slice(row * rows, min((row + 1) * rows, self.height)),
            slice(column * columns, min((column + 1) * columns, self.width)),
        )
        before: list[int | slice] = [0] * lead
        if self.colours:
            before[-1] = slice(0, 3)
        try:
            values = np.asarray(self.store[(*before, *place)].read().result())
        except ValueError as error:
            raise LabelFileError(
                f"{self.path} is damaged: {as_os_error(error, f'chunk {row}, {column}')}"
            ) from error
        return as_labels(np.moveaxis(values, 0, -1) if self.colours else values, self.path, self.hidden)


def open_zarr(folder: Path) -> ChunkedLabels:
    """Raises LabelFileError where there is no array, or one that holds no labels."""
    root, names = _array_in(folder, folder)
    driver = next(kind for name, kind in ARRAYS.items() if (root / name).is_file())
    document = {"driver": driver, "kvstore": {"driver": "file", "path": f"{os.path.abspath(root)}/"}}
    try:
        store = ts.open(document, open=True, read=True, context=context()).result()
    except ValueError as error:
        raise LabelFileError(f"{folder} cannot be opened: {_told(error)}") from error
    told = _read(root / TOLD_IN[driver], folder)
    attributes = told.get("attributes", {}) if driver == "zarr3" else told
    return ChunkedLabels(_chunks(folder, store, names, attributes if isinstance(attributes, dict) else {}))


def _chunks(
    folder: Path, store: ts.TensorStore, names: Mapping[int, str], attributes: Mapping[str, Any]
) -> ZarrChunks:
    dtype = store.dtype.numpy_dtype
    if dtype.kind not in "iub":
        raise LabelFileError(f"{folder} holds {store.dtype.name} values; labels are whole numbers")
    shape = tuple(int(length) for length in store.shape)
    bands = shape[-3] if len(shape) > 2 and dtype == np.uint8 and shape[-3] == 3 else 1
    lead = shape[:-3] if bands == 3 else shape[:-2]
    if len(shape) < 2 or any(length != 1 for length in lead) or 0 in shape:
        raise LabelFileError(f"{folder} is of shape {shape}; labels are (height, width)")
    chunk = store.chunk_layout.read_chunk.shape or shape
    rows, columns = (
        min(length or whole, whole) for length, whole in zip(chunk[-2:], shape[-2:], strict=True)
    )
    check_chunk(folder, "chunks", rows, columns, bands * dtype.itemsize)
    _check_unpacked(folder, attributes)
    nodata, hidden = no_data_label(_no_data(folder, store, attributes), bands)
    labels = as_labels(np.zeros((1, 1, bands), dtype), folder, hidden).dtype
    return ZarrChunks(
        folder, store, shape[-2], shape[-1], bands, (rows, columns), labels, nodata, names, hidden
    )


def _check_unpacked(folder: Path, attributes: Mapping[str, Any]) -> None:
    """Refuse numbers that mean others than they are."""
    for name, neutral in NEUTRAL.items():
        if attributes.get(name) not in (None, neutral):
            raise LabelFileError(
                f"{folder} holds numbers packed with {name}; labels are the numbers themselves"
            )


def _no_data(folder: Path, store: ts.TensorStore, attributes: Mapping[str, Any]) -> tuple[int, ...]:
    """The values that stand for no data. Raises LabelFileError."""
    told = [attributes[name] for name in DECLARED if attributes.get(name) is not None]
    if not told:
        return (int(store.fill_value),) if store.fill_value else ()
    flat = [part for each in told for part in (each if isinstance(each, list) else [each])]
    return no_data_values(flat, store.dtype.numpy_dtype, folder)


def _array_in(folder: Path, given: Path) -> tuple[Path, Mapping[int, str]]:
    """The folder of the array that a folder stands for, and the names of its labels."""
    if (folder / ".zarray").is_file():
        return folder, {}
    document = _read(folder / "zarr.json", given)
    if document.get("node_type") == "array":
        return folder, {}
    attributes = document.get("attributes") or _read(folder / ".zattrs", given)
    if not attributes and not (folder / "zarr.json").is_file() and not (folder / ".zgroup").is_file():
        raise LabelFileError(
            f"{given} is a folder without a Zarr array; give an image, or a folder with zarr.json"
        )
    told = attributes.get("ome", attributes)
    try:
        if "multiscales" in told:
            root = folder / told["multiscales"][0]["datasets"][0]["path"]
            if not any((root / name).is_file() for name in ARRAYS):
                raise LabelFileError(f"{given} is damaged: its level {root.name} is missing")
            return root, _names(told.get("image-label", {}))
        if len(told.get("labels", ())) == 1:
            return _array_in(folder / told["labels"][0], given)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise LabelFileError(f"{given} is damaged: its OME attributes lack {error}") from error
    inside = sorted(each.parent.name for name in ARRAYS for each in folder.glob(f"*/{name}"))
    hint = f"one of {', '.join(inside[:8])}" if inside else "an array"
    raise LabelFileError(f"{given} is a Zarr group; give the folder of {hint} in it")


def _names(about: Mapping[str, Any]) -> Mapping[int, str]:
    rows = about.get("properties") or ()
    return {int(row["label-value"]): str(row["class"]) for row in rows if "class" in row}


def _read(path: Path, given: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabelFileError(f"{given} is damaged: {path.name} is not JSON ({error})") from None
    if not isinstance(document, dict):
        raise LabelFileError(f"{given} is damaged: {path.name} holds no object")
    return document


def _told(error: ValueError) -> str:
    return str(error).splitlines()[0][:200]
