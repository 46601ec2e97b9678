"""A running job and the gallery in a real browser: what they show follows jobs that grow while they are looked at.

A job grows by one step each time its page asks how far it is, so that nothing depends on how fast this machine is.
Skipped, with the reason, where no Chromium is installed (Debian: apt-get install chromium).
"""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing_job import BLOCKS, COARSE, FINE, STEPS, GrowingJob, damaged
from live_server import live
from numpy.typing import NDArray
from PIL import Image
from starlette.types import ASGIApp

from cluster.following.events import JobFailed
from cluster.viewing import JobTeller, find_jobs
from viewer.server import build_app, build_gallery
from viewer.told import Card

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine; apt-get install chromium"
)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--disable-quic", "--hide-scrollbars",
         "--enable-logging=stderr"]  # fmt: skip
MINUTE = 60_000  # of the page's time, which runs as fast as the server answers


class GrowingTeller(JobTeller):
    """Tells the truth, after the next step was done."""

    def __init__(self, steps: list[Callable[[], object]]) -> None:
        super().__init__()
        self.steps = steps
        self.asked = 0

    def _step(self) -> None:
        self.asked += 1
        if self.steps:
            self.steps.pop(0)()

    def status(self, folder: Path) -> Mapping[str, Any] | None:
        self._step()
        return super().status(folder)


class GrowingCards(GrowingTeller):
    """The same for a gallery: a step at each look at the first folder."""

    def card(self, folder: Path) -> Card:
        if folder.name == "first":
            self._step()
        return super().card(folder)


def looked_at(
    app: ASGIApp, scratch: Path, *flags: str, size: str = "1000,640", milliseconds: int = MINUTE
) -> tuple[NDArray[np.uint8], str, list[str]]:
    """The screen and the document after that much of the page's time, and what the console had to say."""
    assert BROWSER is not None
    shot = scratch / "shot.png"
    places = [f"--user-data-dir={scratch / 'profile'}", f"--screenshot={shot}", "--dump-dom"]
    timing = [f"--window-size={size}", f"--virtual-time-budget={milliseconds}"]
    with live(app) as address:
        run = subprocess.run(
            [BROWSER, *FLAGS, *places, *timing, *flags, address],
            check=True, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB")), run.stdout, complaints


def share_of(screen: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    return float((np.abs(screen.astype(int) - colour).max(axis=2) <= 8).mean())


def text_of(document: str, name: str) -> str:
    found = re.search(rf'id="{name}"[^>]*>(.*?)<', document, re.DOTALL)
    assert found is not None, name
    return html.unescape(found[1])


def beginning(job: GrowingJob) -> list[Callable[[], object]]:
    """Half of the denoising, and a preview of every block."""
    return [
        lambda: job.done(0, *range(BLOCKS)),
        *((lambda block=block: job.preview(block, 1)) for block in range(BLOCKS)),
        lambda: job.done(1, 0, 1, 2, 3),
    ]


def rest(job: GrowingJob) -> list[Callable[[], object]]:
    tiles = [(0, 0), (0, 1), (1, 0)]
    return [
        lambda: job.done(1, 4, 5, 6, 7),
        lambda: job.done(STEPS - 1, *range(BLOCKS)),
        *((lambda group=group, index=index: job.paint(group, index)) for group, index in tiles),
        *[lambda: None] * 6,  # time for the page to ask for the tiles, which it paces itself
        job.finish,
    ]


def test_a_page_shows_the_preview_and_how_far_its_job_is(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    teller = GrowingTeller(beginning(job))
    screen, document, complaints = looked_at(build_app(job.folder, teller), tmp_path)
    assert not teller.steps and complaints == []
    assert share_of(screen, COARSE) > 0.3
    assert share_of(screen, FINE) < 0.01
    assert "not there yet" not in document  # the panel says it
    assert text_of(document, "job-title") == "Running, 44 %"
    assert re.search(r"Denoise</dt>.*?12 / 24", document)
    assert "0 of 8 blocks have passed all 3 stages" in document


def test_tiles_take_the_previews_place_and_the_asking_ends(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    teller = GrowingTeller(beginning(job) + rest(job))
    steps = len(teller.steps)
    screen, document, _ = looked_at(build_app(job.folder, teller), tmp_path)
    assert not teller.steps
    assert share_of(screen, FINE) > 0.3
    assert share_of(screen, COARSE) < 0.01
    assert re.fullmatch("Finished in .* s", text_of(document, "job-title"))
    assert teller.asked == steps


def test_a_failed_job_says_why_and_what_to_do(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    reason = "OSError: no space <left> on device"
    teller = GrowingTeller([*beginning(job), lambda: job.tell(JobFailed(reason))])
    _, document, complaints = looked_at(build_app(job.folder, teller), tmp_path)
    assert text_of(document, "job-title") == "Failed, 44 %"
    assert text_of(document, "job-error") == reason
    assert f"hypermosaic resume {job.folder}" in document
    assert complaints == []  # tiles that are not there yet are no errors


def test_a_server_that_fails_is_asked_less_and_less(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")

    def fail() -> None:
        raise OSError("the disk is away")

    teller = GrowingTeller([lambda: job.done(0, 0), *([fail] * 50)])
    _, document, _ = looked_at(build_app(job.folder, teller), tmp_path)
    assert "The server does not answer" in text_of(document, "job-away")
    assert text_of(document, "job-title") == "Running, 3 %"
    assert 3 <= teller.asked <= 7  # after 2, 4, 8, 16 and 32 seconds


def test_the_panel_of_a_small_screen_is_closed_at_first(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    teller = GrowingTeller(beginning(job))
    _, document, _ = looked_at(build_app(job.folder, teller), tmp_path, size="500,800")
    assert re.search(r'id="job-head"[^>]*aria-expanded="false"', document)
    assert re.search(r'id="job-body"[^>]*hidden', document)


def test_a_gallery_follows_its_jobs(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    job = GrowingJob(root / "first", "</script><script>document.title = 'broken in'</script>")
    damaged(root / "damaged")
    grown: list[GrowingJob] = []
    cards = GrowingCards(
        [
            lambda: job.done(0, *range(BLOCKS)),
            lambda: grown.append(GrowingJob(root / "second", "a second harbour")),
            *beginning(job)[1:],
            *rest(job),
        ]
    )
    app = build_gallery(root, lambda: find_jobs(root), cards)
    screen, document, complaints = looked_at(app, tmp_path, milliseconds=3 * MINUTE)
    assert not cards.steps
    assert document.count("<li ") == 3
    assert "a second harbour" in document
    assert ">finished<" in document
    assert "format_version 99" in document
    assert text_of(document, "count") == "3 pictures, 1 running"
    assert "<title>jobs: pictures</title>" in document
    assert not complaints
    assert share_of(screen, FINE) > 0.02


def test_a_picture_that_cannot_be_had_leaves_its_place_empty(tmp_path: Path) -> None:
    root = tmp_path / "jobs"
    job = GrowingJob(root / "first")
    for step in rest(job):
        step()
    shutil.rmtree(job.folder / "image.zarr")
    for level in (job.folder / "image_files").iterdir():
        if level.name != "0":
            shutil.rmtree(level)
    _, document, complaints = looked_at(build_gallery(root, lambda: find_jobs(root), JobTeller()), tmp_path)
    assert re.search(r'<img src="[^"]+thumbnail[^"]+"[^>]* hidden', document)
    assert all("404" in complaint for complaint in complaints)
