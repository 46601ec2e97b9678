"""Whatever is lost or damaged of a job's folder, going on with the job ends in the bytes of an undisturbed one."""

from __future__ import annotations

import json
import logging
from math import inf
from pathlib import Path
from typing import Any

import pytest
from engine import files_of, tiny_job, tiny_worker
from harm import (
    BEFORE_DECODING,
    BLOCKS,
    BOTH,
    TASKS,
    WHILE_DECODING,
    WHILE_DENOISING,
    Damage,
    cut,
    empty,
    flip,
    go_on,
    one,
    remove,
    verdict,
)  # fmt: skip

from cluster import api
from cluster.engine.closing import LEDGER
from cluster.engine.executors.in_process import InProcess
from cluster.engine.outcomes import Outcome
from cluster.following.events import Event, unheard
from cluster.following.progress import ProgressTally
from cluster.jobs.job import Job
from storage.damage import DamagedData

# --- while it runs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("harm", [remove, empty, cut, flip])
@pytest.mark.parametrize(
    ("stop_after", "pattern"),
    [
        (WHILE_DENOISING, "work/sums-*/c.*"),
        (WHILE_DENOISING, "work/state-*/c.*"),
        (BEFORE_DECODING, "latents.zarr/latents/c.*"),
        (WHILE_DECODING, "latents.zarr/latents/c.*"),
        (TASKS - 1, "image.zarr/0/c/0/*/*"),
        (TASKS - 1, "image_files/*/*.png"),
    ],
)
def test_a_piece_that_is_lost_or_damaged_is_made_again(
    harm: Damage, stop_after: int, pattern: str, tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=stop_after)
    harm(one(tmp_path, pattern))
    go_on(job)
    assert files_of(tmp_path) == undisturbed


@pytest.mark.parametrize("stop_after", [WHILE_DENOISING, BEFORE_DECODING, WHILE_DECODING])
@pytest.mark.parametrize(
    ("harm", "pattern"),
    [
        (remove, "work"),
        (remove, "work/*.zarr"),
        (remove, "work/*.zarr/zarr.json"),
        (empty, "work/*.zarr/zarr.json"),
        (remove, LEDGER),
        (empty, LEDGER),
        (cut, LEDGER),
        (flip, LEDGER),
        (remove, "image.zarr"),
        (empty, "image.zarr/0/zarr.json"),
        (empty, "image.zarr/zarr.json"),
    ],
)
def test_whole_arrays_and_ledgers_may_go(
    harm: Damage, pattern: str, stop_after: int, tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=stop_after)
    if not pattern.startswith("work/*") or stop_after == WHILE_DENOISING:  # later there is none left
        harm(one(tmp_path, pattern))
    go_on(job)
    assert files_of(tmp_path) == undisturbed


@pytest.mark.parametrize("claimed", [(1, 3), (2, 5), (4, 7), (5, 1), (0, 0)])
def test_a_task_that_was_not_done_but_is_in_the_ledger_is_done(
    claimed: tuple[int, int], tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]
) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=0)
    with (tmp_path / LEDGER).open("a") as ledger:
        ledger.write(json.dumps({"stage": claimed[0], "block": claimed[1], "bytes": 100}) + "\n")
    go_on(job)
    assert files_of(tmp_path) == undisturbed


def test_only_what_is_needed_is_made_again_and_said_in_a_line(
    tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """A chunk of the step under way needs its neighbours of the step before, whose array is still there."""
    job = tiny_job(tmp_path / "job", monkeypatch, outputs=BOTH)
    evaluated = go_on(job, stop_after=2 * BLOCKS - 1)
    remove(one(job.spec.out, "work/state-0001.zarr/c.*"))
    evaluated += go_on(job)
    whole = go_on(tiny_job(tmp_path / "straight", monkeypatch))
    assert files_of(job.spec.out) == undisturbed
    assert whole < evaluated <= whole + 12  # one block's batches, and no more
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == [
        "stored data is missing or damaged: 1 of 65 tasks are to be done again, from denoise 1 on",
        "1 task was done again; all that was missing or damaged is whole",
    ]


def test_progress_counts_what_is_made_again_once(tmp_path: Path, monkeypatch) -> None:
    """Never more than all tasks, and all of them in the end."""
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=WHILE_DENOISING)
    flip(one(tmp_path, "work/sums-*/c.*"))
    tally, shares = ProgressTally(), []

    def hear(event: Event) -> None:
        tally(event)
        groups = tally.groups.values()
        shares.append(sum(group.done for group in groups) / sum(group.total for group in groups))

    api.run(job, resume=True, on_event=hear, make=lambda work: InProcess(tiny_worker(job)))
    assert max(shares) == shares[-1] == 1.0 and min(shares) < shares[0]
    assert sum(group.total for group in tally.groups.values()) == TASKS


def test_what_is_damaged_again_and_again_ends_the_job(tmp_path: Path, monkeypatch) -> None:
    job = tiny_job(tmp_path, monkeypatch)

    class RottenDisk(InProcess):
        def next(self, patience: float = inf) -> Outcome | None:
            outcome = super().next(patience)
            for path in tmp_path.glob("work/state-0001.zarr/c.0.1.1"):
                flip(path)
            return outcome

    with pytest.raises(
        DamagedData, match=r"denoise 1, block 5 was found damaged 4 times .* is the disk in order\?"
    ):
        api.run(job, resume=True, on_event=unheard, make=lambda work: RottenDisk(tiny_worker(job), 1))


# --- when it is finished ---------------------------------------------------------------------------------------------


def finished(
    tmp_path: Path, monkeypatch: Any, outputs: tuple[str, ...] = BOTH
) -> tuple[Job, dict[str, bytes]]:
    job = tiny_job(tmp_path, monkeypatch, outputs=outputs)
    go_on(job)
    return job, whole_folder(tmp_path)


def whole_folder(folder: Path) -> dict[str, bytes]:
    """Every file but those that tell of runs."""
    told = ("ledger.jsonl", "events.jsonl", "job.yaml", ".lock")
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in told)
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize(
    "pattern",
    [
        "image.zarr/0/c/0/*/*", "image.zarr/2/c/0/*/*", "image_files/*/*.png", "image_files/0/*.png", "image.dzi",
        "index.html", "viewer/*.js", "image.zarr/zarr.json", "image.zarr/0/zarr.json", "provenance.xmp",
        "latents.zarr/latents/c.*", "latents.zarr/latents/zarr.json", "latents.zarr/zarr.json",
    ],
)  # fmt: skip
@pytest.mark.parametrize("harm", [remove, cut, flip])
def test_a_finished_picture_is_repaired(harm: Damage, pattern: str, tmp_path: Path, monkeypatch) -> None:
    """Flipped bits, which no size tells of, only by those who ask for a thorough look."""
    job, before = finished(tmp_path, monkeypatch)
    harm(one(tmp_path, pattern))
    go_on(job, thorough=harm is flip)
    assert whole_folder(tmp_path) == before
    assert api.run(job, resume=True, on_event=unheard, make=no_executor).before


def no_executor(work: Any) -> Any:
    raise AssertionError("there is nothing to do")


def test_a_repair_says_what_it_will_make_again_and_then_what_it_has(
    tmp_path: Path, monkeypatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, _ = finished(tmp_path, monkeypatch)
    flip(tmp_path / "image_files/0/0_0.png")
    remove(tmp_path / "image.dzi")
    told = []

    def hear(event: Event) -> None:
        told.append((type(event).__name__, [record.message for record in caplog.records]))

    api.run(job, resume=True, on_event=hear, make=lambda work: InProcess(tiny_worker(job)), thorough=True)
    named = "pyramid 1, block 0, image.dzi"
    before = [f"{named}: missing or not as written, to be made again"]
    assert told[0] == ("JobStarted", before) and told[-1] == ("JobFinished", before)
    assert [record.message for record in caplog.records] == [*before, f"{named}: made again"]


@pytest.mark.parametrize("pattern", ["image_files/7/*.png", "image_files/3/*.png", "image_files/0/*.png"])
def test_tiles_of_a_picture_without_its_master_are_repaired(
    pattern: str, tmp_path: Path, monkeypatch
) -> None:
    job, before = finished(tmp_path, monkeypatch, ("deep-zoom",))
    assert not (tmp_path / "image.zarr").exists()
    remove(one(tmp_path, pattern))
    assert go_on(job) == 0
    assert whole_folder(tmp_path) == before


def test_everything_but_the_job_may_go(tmp_path: Path, monkeypatch) -> None:
    job, before = finished(tmp_path, monkeypatch)
    for path in tmp_path.iterdir():
        if path.name not in ("job.yaml", LEDGER):
            remove(path)
    go_on(job)
    assert whole_folder(tmp_path) == before


# --- the command `verify` --------------------------------------------------------------------------------------------


def test_verify_names_what_is_damaged_and_changes_nothing(tmp_path: Path, monkeypatch) -> None:
    finished(tmp_path, monkeypatch)
    assert verdict(tmp_path) == (True, 43, ())
    flip(tmp_path / "image_files/0/0_0.png")
    flip(one(tmp_path, "latents.zarr/latents/c.*"))
    remove(tmp_path / "image.dzi")
    before = whole_folder(tmp_path)
    assert verdict(tmp_path) == (True, 43, ("denoise 4, block 6", "pyramid 1, block 0", "image.dzi"))
    assert whole_folder(tmp_path) == before


def test_verify_reads_a_job_under_way_too(tmp_path: Path, monkeypatch, undisturbed: dict[str, bytes]) -> None:
    job = tiny_job(tmp_path, monkeypatch, outputs=BOTH)
    go_on(job, stop_after=WHILE_DENOISING)
    assert verdict(tmp_path) == (False, 18, ())
    flip(one(tmp_path, "work/sums-0002*/c.*"))
    finished, _, damaged = verdict(tmp_path)
    assert not finished and len(damaged) == 1 and damaged[0].startswith("denoise 2, block ")
    go_on(job, thorough=True)
    assert files_of(tmp_path) == undisturbed
