"""What `view` shows: which folders are jobs or batches, and what the server is told of each. Knows no HTTP.

Of a running job the page hears (api/status.json):

    {"state": "running", "share": 0.35, "seconds": 130.2, "secondsLeft": 240.0, "groups": [{"name", "done", "total"}],
     "workers": 2, "retried": 0, "error": null, "patchesPerSecond": 61.5, "tilesVersion": 3, "previewVersion": 7,
     "blocks": {"rows", "columns", "block", "heightLatents", "widthLatents", "stages", "done": [of each block]},
     "map": null, "folder": "out/world", "next": "hypermosaic resume out/world"}

map: {"state", "share", "secondsLeft"} of the job that invents the class map, before this one begins.
"""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.datasets.names import is_batch
from cluster.datasets.viewing import BatchTeller
from cluster.engine.running import is_job
from cluster.following.preview import read_preview
from cluster.following.progress import EVENTS
from cluster.following.status import Follower, GroupStatus, State, Status
from cluster.spec import job_file
from cluster.spec.fields import SpecError
from cluster.spec.paths import absolute, model_in_public
from cluster.wording import one_line
from storage.fingerprint import FormatError
from storage.task_set import TaskSet
from viewer.pages import description_of
from viewer.told import Card, Preview, Sheet, reason_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from viewer.background import Serving as Serving

LOG = logging.getLogger(__name__)
STATES = "work/state-*.zarr"
"""Arrays of a job with one chunk a block, as cluster.jobs.plan names them, which is not asked: it brings PyTorch."""
MAP = "map"
"""Folder, in a job's, of the job that invents its class map first."""
DEPTH = 2
LAST_EVENT = 1024  # bytes; the event of the end is shorter
LARGEST_SIDE = 2**31  # pixels
UNFINISHED = ("not started", "running", "silent", "interrupted", "failed")


# --- folders ---------------------------------------------------------------------------------------------------------


def is_shown(folder: Path) -> bool:
    """Whether a folder has one page: a job, a batch, or a page that was put there without its job."""
    return is_job(folder) or is_batch(folder) or bool(description_of(folder))


def find_jobs(root: Path, depth: int = DEPTH) -> list[Path]:
    """Folders of jobs and batches below a folder, down to `depth`; links are not followed, nor are jobs searched."""
    return sorted(_below(root, depth))


def _below(root: Path, depth: int) -> Iterator[Path]:
    try:
        folders = [path for path in root.iterdir() if path.is_dir() and not path.is_symlink()]
    except OSError:  # it went away, or is not ours to read
        return
    for folder in folders:
        if folder.name.startswith("."):
            continue
        if is_shown(folder):
            yield folder
        elif depth > 1:
            yield from _below(folder, depth - 1)


def check_shown(folder: Path) -> bool:
    """Whether a folder is one job or batch rather than a place of several. Raises SpecError where it is neither."""
    if not folder.is_dir():
        raise SpecError(
            f"{folder} is no folder; give one that a job was written to, or one that holds such folders"
        )
    if is_shown(folder):
        return True
    if not find_jobs(folder):
        raise SpecError(
            f"{folder} holds no job and no batch, nor do the folders in it; make one with: "
            f"hypermosaic generate ... --out {shlex.quote(str(folder / 'name'))}"
        )
    return False


def viewer_of(folder: Path) -> ASGIApp:
    """The server's application for one job, or for all jobs of a folder. Raises SpecError where there is none."""
    from viewer.server import build_app, build_gallery

    folder, teller = absolute(folder), JobTeller()
    if check_shown(folder):
        return build_app(folder, teller)
    return build_gallery(folder, lambda: find_jobs(folder), teller)


def serving(folder: Path, port: int) -> Serving:
    """The same, served by a thread of this process. Raises SpecError, and OSError where the port is taken."""
    from viewer.background import Serving

    return Serving(viewer_of(folder), port)


# --- what is told ----------------------------------------------------------------------------------------------------


class JobTeller:
    """Answers of any folder of a job or a batch, following each from one look to the next. Of one thread."""

    def __init__(self) -> None:
        self._followers: dict[Path, Follower] = {}
        self._passed: dict[Path, Passed] = {}
        self._batches = BatchTeller()

    def status(self, folder: Path) -> Mapping[str, Any] | None:
        """api/status.json; None where there is a page and no job. Raises FormatError, OSError."""
        if is_batch(folder):
            return self._batches.status(folder)
        if not is_job(folder):
            return None
        follower = self._follower(folder)
        now = follower.look()
        blocks = blocks_of(follower, self._passed.setdefault(folder, Passed()))
        preview = self.preview(folder) if now.state in UNFINISHED else None
        before = self._map(folder, now)
        return {
            "state": now.state if before is None else _while_mapped(before),
            "share": now.share,
            "seconds": round(now.seconds, 3),
            "secondsLeft": now.seconds_left,
            "groups": [asdict(group) for group in now.groups],
            "workers": now.workers,
            "retried": now.retried,
            "error": now.error if before is None else before.error,
            "patchesPerSecond": now.patches_per_second,
            "blocks": None if blocks is None else blocks.as_json(),
            "tilesVersion": _tiles_written(now.groups),
            "previewVersion": None if preview is None else preview[1],
            "map": None if before is None else _map_told(before),
            "folder": str(folder),
            "next": next_step(now if before is None else replace(now, state=_while_mapped(before))),
        }

    def preview(self, folder: Path) -> Preview | None:
        """None once the job has finished, and before its first step."""
        return read_preview(folder)

    def card(self, folder: Path) -> Card:
        """What the gallery says of a folder; a damaged one is a card with the reason."""
        try:
            if is_batch(folder):
                return self._batches.card(folder)
            return self._card(folder) if is_job(folder) else _card_of_page(folder)
        except Exception as error:  # one that is wrong in whatever way hides no other
            LOG.debug("%s cannot be read", folder, exc_info=True)
            return Card(
                folder.name,
                "broken",
                error=one_line(reason_of(error)),
                changed=_changed(folder),
                has_page=False,
            )

    def sheet(self, folder: Path) -> Sheet | None:
        """What there is of a batch's pictures. Raises FormatError, OSError."""
        return self._batches.sheet(folder) if is_batch(folder) else None

    def missing(self, folder: Path, first: int, count: int) -> tuple[Sequence[Mapping[str, Any]], int]:
        """Requests of a batch without a picture."""
        return self._batches.missing(folder, first, count)

    def seconds(self, folder: Path, indices: Sequence[int]) -> Sequence[float | None]:
        """How long pictures of a batch took."""
        return self._batches.seconds(folder, indices)

    def _card(self, folder: Path) -> Card:
        if _has_finished(folder):  # nothing more will come: its events need not be read, nor kept
            return self._card_in(folder, "finished", 1.0)
        now = self._follower(folder).look()
        preview = self.preview(folder)
        before = self._map(folder, now)
        state = now.state if before is None else _while_mapped(before)
        error = now.error if before is None else before.error
        return replace(
            self._card_in(folder, state, now.share),
            error=one_line(error) if error else None,
            preview_version=None if preview is None else preview[1],
        )

    def _card_in(self, folder: Path, state: str, share: float) -> Card:
        """What job.yaml says of it."""
        spec = self._follower(folder).saved().spec
        return Card(
            title=spec.prompt,
            state=state,
            share=share,
            size=(spec.width, spec.height),
            facts=(f"seed {spec.seed}", model_in_public(spec.model)),
            changed=_changed(folder),
            has_page=(folder / "index.html").is_file(),
        )

    def _map(self, folder: Path, now: Status) -> Status | None:
        """A look at the job that invents a job's class map, before that job itself begins."""
        waits = now.state == "not started" and is_job(folder / MAP)
        return self._follower(folder / MAP).look() if waits else None

    def _follower(self, folder: Path) -> Follower:
        if folder not in self._followers:
            self._followers[folder] = Follower(folder)
        return self._followers[folder]


def _while_mapped(before: Status) -> State:
    """The state of a job that has done nothing but its map so far."""
    return "running" if before.state == "finished" else before.state


def _map_told(before: Status) -> Mapping[str, Any]:
    return {"state": before.state, "share": before.share, "secondsLeft": before.seconds_left}


def _has_finished(folder: Path) -> bool:
    """Whether the last event is that the job is done."""
    try:
        with (folder / EVENTS).open("rb") as events:
            events.seek(-min(LAST_EVENT, events.seek(0, 2)), 2)
            last = json.loads(events.read().rstrip(b"\n").rpartition(b"\n")[2])
    except (OSError, ValueError, RecursionError):  # no events, or a last one that is torn or long
        return False
    return isinstance(last, dict) and last.get("event") == "JobFinished"


def _card_of_page(folder: Path) -> Card:
    """A picture that was put there without its job."""
    told = description_of(folder)
    width, height = told["width"], told["height"]
    if not all(type(side) is int and 0 < side < LARGEST_SIDE for side in (width, height)):
        raise FormatError(f"index.html tells of a picture of {width!r:.40} x {height!r:.40} pixels")
    return Card(str(told["title"]), "finished", 1.0, (width, height), changed=_changed(folder))


def _changed(folder: Path) -> float:
    """When the job last told something, or the folder was written to."""
    times = [path.stat().st_mtime for path in (folder / EVENTS, folder / job_file.NAME) if path.is_file()]
    return max(times, default=folder.stat().st_mtime if folder.is_dir() else 0.0)


def next_step(now: Status) -> str | None:
    """The command that goes on where a job stopped."""
    stopped = now.state in ("not started", "silent", "interrupted", "failed")
    return f"hypermosaic resume {shlex.quote(now.folder)}" if stopped else None


def _tiles_written(groups: tuple[GroupStatus, ...]) -> int:
    """Tasks that have written tiles: of all but the denoising stages."""
    return sum(group.done for group in groups if group.name in ("decode", "pyramid"))


# --- the map of blocks -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """How many of the denoising stages each block has passed. Lengths in latents; done: row by row."""

    rows: int
    columns: int
    block: int
    height: int
    width: int
    stages: int
    done: tuple[int, ...]

    def as_json(self) -> Mapping[str, Any]:
        return {
            "rows": self.rows,
            "columns": self.columns,
            "block": self.block,
            "heightLatents": self.height,
            "widthLatents": self.width,
            "stages": self.stages,
            "done": self.done,
        }


class Passed:
    """How many stages each block has passed; a stage is counted again only when more of its blocks are done."""

    def __init__(self) -> None:
        self._done: TaskSet | None = None
        self._counted: dict[int, tuple[int, NDArray[np.uint8]]] = {}
        self.total = np.zeros(0, np.int64)

    def count(self, done: TaskSet, stages: int, blocks: int) -> NDArray[np.int64]:
        """Counts done tasks, of `blocks` blocks, in the first `stages` stages.

        Raises FormatError where a block is not among them.
        """
        if done is not self._done or len(self.total) != blocks:
            self._done, self._counted, self.total = done, {}, np.zeros(blocks, np.int64)
        for stage in done.stages_seen:
            if stage < stages:
                self._count(done, stage)
        return self.total

    def _count(self, done: TaskSet, stage: int) -> None:
        changes, flags = self._counted.get(stage, (0, None))
        if changes == done.changes(stage):
            return
        those = done.blocks(stage)
        if those.size and those[-1] >= len(self.total):
            raise FormatError(
                f"the ledger says that block {those[-1]} of stage {stage} is done, and there are {len(self.total)}; "
                "start the job again in another folder"
            )
        now = np.zeros(len(self.total), np.uint8)
        now[those] = 1
        self.total += now if flags is None else now.astype(np.int64) - flags
        self._counted[stage] = done.changes(stage), now


def blocks_of(follower: Follower, passed: Passed) -> Blocks | None:
    """The blocks of a job as it was last looked at; None before its first array is there. Raises FormatError."""
    totals = [total for name, total in follower.events.stages if name.startswith("denoise")]
    grid = _grid(follower.folder)
    if grid is None or not totals:
        return None
    height, width, block = grid
    rows, columns = -(-height // block), -(-width // block)
    if rows * columns != totals[0]:  # arrays of another program's job
        return None
    done = passed.count(follower.done.tasks, len(totals), totals[0])
    return Blocks(rows, columns, block, height, width, len(totals), tuple(done.tolist()))


def _grid(folder: Path) -> tuple[int, int, int] | None:
    """(height, width, block) in latents, as the job's arrays have them: one chunk a block."""
    for array in (folder / job_file.LATENTS, *sorted(folder.glob(STATES))):
        try:
            metadata = json.loads((array / "zarr.json").read_bytes())
            _, height, width = metadata["shape"]
            _, *chunk = metadata["chunk_grid"]["configuration"]["chunk_shape"]
            return int(height), int(width), max(int(side) for side in chunk)
        except (OSError, ValueError, KeyError, TypeError):  # not there yet, or just deleted
            continue
    return None
