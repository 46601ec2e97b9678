"""Small text files that people write, read within bounds whatever lies there. Knows YAML and JSON; knows no setting.

    a file, a pipe  ->  at most so many bytes  ->  at most so deep, so long, so many values  ->  plain values

An endless device, a thousand brackets, or nine lines of aliases that stand for a thousand million values are told of
in a line, within a second and a few megabytes.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 2**20
"""Of settings; they are a few kilobytes."""
DEEPEST = 50
MOST_VALUES = 100_000
VALUE_CHARACTERS = 64
"""A text counts as one more value for each so many of its characters."""
LONGEST_NUMBER = 1000
"""Characters: YAML has numbers to the base of 60, and reading a long one takes hours."""
NUMBER = re.compile(r"[-+0-9_:.]+")
YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class DocumentError(ValueError):
    """A file that cannot be used as it is. The message has no name of the file: "is larger than 1 MB"."""


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file, in UTF-8 with or without its mark. Raises DocumentError."""
    try:
        return read_bytes(path, most_bytes).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DocumentError("is not text in UTF-8") from None


def read_bytes(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """The content of a file or a pipe, if there is no more of it. Raises DocumentError."""
    try:
        with open_file(path) as file:
            content: bytes = file.read(most_bytes + 1)
    except FileNotFoundError:
        raise DocumentError("does not exist") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from None
    if len(content) > most_bytes:
        raise DocumentError(f"is larger than {_size(most_bytes)}")
    return content


def open_file(path: Path) -> Any:
    """A file, or a pipe that somebody writes to, open for bytes. Raises OSError, and DocumentError for a device."""
    check_no_device(path)
    handle = os.open(
        path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)
    )  # a pipe that nobody writes to is empty
    os.set_blocking(handle, True)
    return os.fdopen(handle, "rb")


def text_lines(path: Path, longest: int = MOST_BYTES) -> Iterator[str]:
    """The lines of a text file, with their ends, however many. Raises DocumentError, also for an endless line."""
    try:
        with open_file(path) as file, TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            while line := text.readline(longest + 1):
                if len(line) > longest:
                    raise DocumentError(f"has a line of more than {longest:,} characters")
                yield line
    except UnicodeDecodeError:
        raise DocumentError("is not text in UTF-8") from None
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}") from None


def check_no_device(path: Path) -> None:
    """Devices have no end. Raises DocumentError for one, and OSError where there is nothing."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise DocumentError("is a folder")
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
        raise DocumentError("is a device, not a file")


def _size(count: int) -> str:
    return f"{count / 2**20:g} MB" if count >= 2**20 else f"{count:,} bytes"


# --- JSON ------------------------------------------------------------------------------------------------------------


def check_values(text: str, most: int) -> None:
    """Raise DocumentError for JSON of more values than that, which take many times its bytes, before they are made.

    Each value but the first comes after a comma or a bracket; those in quotes count, too.
    """
    if sum(map(text.count, ",[{")) > most:
        raise DocumentError(f"holds more than {most:,} values")


def parse_json(text: str | bytes, pairs: Callable[[list[tuple[str, Any]]], Any] = dict) -> Any:
    """The value of a JSON text; pairs: makes an object. Raises DocumentError."""
    try:
        return json.loads(text, object_pairs_hook=pairs)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}: {error.msg}"
        raise DocumentError(f"is not JSON ({where})") from None
    except RecursionError:
        raise DocumentError("is not JSON that can be read: it is nested too deep") from None
    except UnicodeDecodeError:
        raise DocumentError("is not text in UTF-8") from None
    except ValueError as error:
        if isinstance(error, DocumentError) or type(error) is not ValueError:
            raise  # of who makes the objects
        raise DocumentError(f"is not JSON: {str(error).splitlines()[0][:80]}") from None


# --- YAML ------------------------------------------------------------------------------------------------------------


def parse_yaml(text: str) -> Any:
    """The value of a YAML text, None for an empty one. Raises DocumentError."""
    node = compose_yaml(text)
    try:
        return None if node is None else yaml.SafeLoader("").construct_document(node)
    except yaml.YAMLError as error:
        raise DocumentError(f"is not YAML{_where(error)}") from None
    except (ValueError, TypeError, OverflowError) as error:  # keys that cannot be keys, numbers that are none
        raise DocumentError(f"is not YAML: {str(error).splitlines()[0][:80]}") from None


def compose_yaml(text: str) -> yaml.Node | None:
    """The value of a YAML text as nodes.

    Raises DocumentError where it is no YAML, or too deep or too large once it is written out.
    """
    try:
        _check_events(text)
        node: yaml.Node | None = yaml.compose(text, Loader=YAML_LOADER)
    except yaml.YAMLError as error:
        raise DocumentError(f"is not YAML{_where(error)}") from None
    if node is not None and _count(node, {}, frozenset()) > MOST_VALUES:
        raise DocumentError(f"holds more than {MOST_VALUES:,} values")
    return node


def _check_events(text: str) -> None:
    depth = 0
    for values, event in enumerate(yaml.parse(text, Loader=YAML_LOADER)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise DocumentError(f"is nested more than {DEEPEST} deep{_at(event.start_mark)}")
        if values > MOST_VALUES:
            raise DocumentError(f"holds more than {MOST_VALUES:,} values")
        if (
            isinstance(event, yaml.ScalarEvent)
            and event.style in (None, "")  # in quotes it is no number
            and len(event.value) > LONGEST_NUMBER
            and NUMBER.fullmatch(event.value)
        ):
            raise DocumentError(f"has a number of {len(event.value):,} characters{_at(event.start_mark)}")


def _count(node: yaml.Node, known: dict[int, int], above: frozenset[int]) -> int:
    """Values once every alias is written out. known: those of nodes that were counted; above: those that hold it."""
    if id(node) in above:
        raise DocumentError(f"holds itself{_at(node.start_mark)}")
    if len(above) > DEEPEST:
        raise DocumentError(f"is nested more than {DEEPEST} deep{_at(node.start_mark)}")
    if id(node) not in known:
        inside = above | {id(node)}
        size = len(node.value) // VALUE_CHARACTERS if isinstance(node, yaml.ScalarNode) else 0
        known[id(node)] = 1 + size + sum(_count(child, known, inside) for child in _children(node))
    return known[id(node)]


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _where(error: yaml.YAMLError) -> str:
    return _at(getattr(error, "problem_mark", None))


def _at(mark: Any) -> str:
    return f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
