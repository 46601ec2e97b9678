"""What goes wrong with a model, or with what it computes, said in one line. Knows no family and no file format."""

from __future__ import annotations

import re


class ModelError(ValueError):
    """A model cannot be found, read or used as asked; the message names the value and what is accepted."""


class UnknownModel(ModelError):
    """A name is no file, no folder, and nothing that the hub or its cache has.

    reason: why, as the end of a sentence for whoever asked for the name on somebody's behalf.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class NumericalError(ArithmeticError):
    """The network returned something that is not a usable number."""


LONGEST_CAUSE = 200
"""Characters of what a library says, within a sentence of ours."""


def first_line(error: BaseException | str, longest: int = LONGEST_CAUSE) -> str:
    """An error of a library as the end of one line of ours; the second line too, where the first announces it."""
    text = re.sub(r"<class '(?:[\w.]*\.)?(\w+)'>", r"\1", str(error))  # names of classes as people write them
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return shortened(" ".join(lines[: 2 if lines[0].endswith(":") else 1]), longest)


def shortened(line: str, longest: int) -> str:
    """A line without the middle of what somebody gave at length; its ends say what is wrong, and why or what to do."""
    return line if len(line) <= longest else f"{line[: longest // 2]} ... {line[-longest // 2 :]}"
