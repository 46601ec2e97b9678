"""What the server is told of jobs by whoever knows them. Knows shapes of answers; reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Preview: TypeAlias = tuple[NDArray[np.uint8], int]
"""(height, width, 3) sRGB pixels of the whole picture, coarse, and a number that grows when they change."""


@dataclass(frozen=True)
class Card:
    """What a gallery says of one job or batch; all texts are plain. share: of it that is done, in [0, 1].

    changed: seconds since the epoch, for the order of the cards. error: one line, where there is something wrong.
    """

    title: str
    state: str
    share: float = 0.0
    size: tuple[int, int] | None = None
    facts: Sequence[str] = ()
    changed: float = 0.0
    error: str | None = None
    has_page: bool = True
    preview_version: int | None = None
    kind: Literal["picture", "batch"] = "picture"


@dataclass(frozen=True)
class Sheet:
    """What the page of a batch is made of; all texts are plain.

    files: Parquet files by their names in addresses, in the order of their pictures. Columns: id, image and perhaps
    mask (structs of the bytes of a PNG, and a path that starts with the number of the request), prompt, seed and other
    facts; where there is a column `kind`, rows that have one are requests without a picture. legend: (name, "#rrggbb")
    of each class. facts: what holds for all pictures.
    """

    title: str
    files: Mapping[str, Path]
    legend: Sequence[tuple[str, str]] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def reason_of(error: Exception) -> str:
    """One line that says what is wrong, with the error's name where its words alone say little."""
    plain = isinstance(error, OSError | ValueError) and str(error).strip()
    return (str(error) if plain else f"{type(error).__name__}: {error}").strip().splitlines()[0]


class Teller(Protocol):
    """Answers for any folder that is shown. Called from one thread at a time; may take a while."""

    def status(self, folder: Path) -> Mapping[str, Any] | None:
        """How far the job is, as JSON values; None where the folder holds a picture and no job."""

    def preview(self, folder: Path) -> Preview | None:
        """What is known of the picture before it is decoded."""

    def card(self, folder: Path) -> Card:
        """Never raises for what is wrong with a folder: that is on the card."""

    def sheet(self, folder: Path) -> Sheet | None:
        """What is there of a batch's pictures; None where the folder is no batch."""

    def missing(self, folder: Path, first: int, count: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        """Requests without a picture, {id, index, kind, error}, from the first-th on; and how many there are."""

    def seconds(self, folder: Path, indices: Sequence[int]) -> Sequence[float | None]:
        """How long the pictures of these requests took, where it is known."""


class NothingTold:
    """What is told of folders that are only looked at: no job, no preview."""

    def status(self, folder: Path) -> Mapping[str, Any] | None:
        del folder
        return None

    def preview(self, folder: Path) -> None:
        del folder

    def card(self, folder: Path) -> Card:
        return Card(title=folder.name, state="finished", share=1.0)

    def sheet(self, folder: Path) -> None:
        del folder

    def missing(self, folder: Path, first: int, count: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        del folder, first, count
        return [], 0

    def seconds(self, folder: Path, indices: Sequence[int]) -> Sequence[float | None]:
        del folder
        return [None] * len(indices)
