"""What the server is told of jobs by whoever knows them. Knows shapes of answers; reads no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Preview: TypeAlias = tuple[NDArray[np.uint8], int]
"""(height, width, 3) sRGB pixels of the whole picture, coarse, and a number that grows when they change."""


@dataclass(frozen=True)
class Card:
    """What a gallery says of one job; all texts are plain. share: of the job that is done, in [0, 1].

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


class Teller(Protocol):
    """Answers for any folder that is shown. Called from one thread at a time; may take a while."""

    def status(self, folder: Path) -> Mapping[str, Any] | None:
        """How far the job is, as JSON values; None where the folder holds a picture and no job."""

    def preview(self, folder: Path) -> Preview | None:
        """What is known of the picture before it is decoded."""

    def card(self, folder: Path) -> Card:
        """Never raises for what is wrong with a folder: that is on the card."""


class NothingTold:
    """Of folders that are only looked at: no job, no preview."""

    def status(self, folder: Path) -> None:
        del folder

    def preview(self, folder: Path) -> None:
        del folder

    def card(self, folder: Path) -> Card:
        return Card(title=folder.name, state="finished", share=1.0)
