"""Reads the two kinds of files that describe a model: JSON, and the headers of safetensors. Knows no model."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

from generation.models.errors import ModelError, first_line
from storage.documents import DocumentError, open_file, parse_json, read_text

MOST_HEADER_BYTES = 100_000_000
"""As safetensors' own reader has it."""
MOST_JSON_BYTES = 50 * 2**20
"""Of configurations, and of indices of weights in many files."""


def read_header(path: Path) -> dict[str, Any]:
    """Tensor names -> dtype, shape, offsets of a safetensors file whose length agrees with them.

    The file is an 8-byte length, that many bytes of JSON, then the tensors (huggingface/safetensors, README).
    """
    try:
        with open_file(path) as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > path.stat().st_size:
                raise ValueError("its header is cut off")
            if length > MOST_HEADER_BYTES:
                raise ValueError(f"its header would have {length:,} bytes")
            header = _object(parse_json(file.read(length)))
        ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
        end = max(ends, default=0)
        if 8 + length + end != path.stat().st_size:
            raise ValueError(
                f"it has {path.stat().st_size} bytes where its header announces {8 + length + end}"
            )
    except (OSError, ValueError, KeyError, TypeError, IndexError, struct.error) as error:
        raise ModelError(
            f"{path} is not a whole safetensors file: {first_line(error)}; fetch it again"
        ) from error
    return header


def shapes_in(path: Path) -> dict[str, list[int]]:
    """Tensor names -> shapes of a safetensors file."""
    return {name: entry["shape"] for name, entry in read_header(path).items() if name != "__metadata__"}


def _end(tensor: Any) -> int:
    """Where the bytes of a header's tensor end."""
    entry = _object(tensor)
    if not isinstance(entry["shape"], list) or not isinstance(entry["dtype"], str):
        raise ValueError("its header describes no tensors")
    return int(entry["data_offsets"][1])


def _object(content: Any) -> dict[str, Any]:
    """JSON that must be an object."""
    if not isinstance(content, dict):
        raise ValueError(f"a JSON object is needed, and there is a {type(content).__name__}")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a missing or damaged file is a ModelError."""
    try:
        if path.exists():
            return _object(parse_json(read_text(path, MOST_JSON_BYTES)))
    except DocumentError as error:
        raise ModelError(f"{path} {error}") from error
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {first_line(error)}") from error
    raise ModelError(f"{path} is missing: the folder is not a model in diffusers' layout")
