"""Pages of jobs in a real browser with the real server: one that runs, one that waits for its map, one that is done."""

from __future__ import annotations

import io
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium
from growing_job import BLOCKS, GrowingJob, damaged
from live_server import live
from PIL import Image
from test_page_access import axe, violations  # noqa: F401 - a fixture
from test_page_saving import KEEP_FILES, numbers, saved_file
from typer.testing import CliRunner

from cluster.commands.app import app as command_line
from cluster.following.events import JobFailed
from cluster.spec import job_file
from cluster.spec.fields import JobSpec
from cluster.viewing import viewer_of
from storage.exports.picture import Picture
from storage.geometry import Box

pytestmark = [needs_chromium, pytest.mark.browser]


def text(tab: Tab, name: str) -> str:
    found: str = tab.js(f"document.getElementById('{name}').innerText")
    return found


def shown(tab: Tab, selector: str) -> bool:
    return bool(
        tab.js(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)}); const b = e.getBoundingClientRect();"
            " return b.width > 0 && b.height > 0 && getComputedStyle(e).visibility === 'visible'; })()"
        )
    )


def running(folder: Path) -> GrowingJob:
    """Half of its denoising is done, in more than no time."""
    job = GrowingJob(folder)
    job.done(0, *range(BLOCKS - 1))
    time.sleep(0.05)
    job.done(0, BLOCKS - 1)
    job.done(1, 0, 1, 2, 3)
    for part in range(3):
        job.paint(*((0, 0), (0, 1), (1, 0))[part])
    return job


def test_the_page_of_a_running_job(browser: Browser, tmp_path: Path) -> None:
    folder = running(tmp_path / "it's a job").folder
    with live(viewer_of(folder)) as address, browser.open(address, (1100, 800)) as tab:
        tab.wait("document.getElementById('job-facts')?.innerText")
        assert float(text(tab, "job-facts").split(" patches/s")[0].replace(",", "")) > 0
        assert " · 2 workers · " in text(tab, "job-facts")
        assert text(tab, "job-left").endswith(" s left") and text(tab, "job-title") == "Running, 55 %"
        assert text(tab, "scale").endswith(" %") and shown(tab, "#bar")
        length = int(text(tab, "scale").split(" px")[0].replace(",", ""))
        width = tab.js("document.getElementById('bar').getBoundingClientRect().width")
        assert width == pytest.approx(length * tab.js("hypermosaic.zoomNow()"), abs=2)
        assert shown(tab, "#full") == tab.js("document.fullscreenEnabled")

        tab.js("hypermosaic.go({x: 256, y: 128, zoom: 4}, true)")
        tab.js("document.getElementById('job-map').focus()")
        tab.key("ArrowDown")
        tab.key("ArrowRight", times=9)
        assert tab.js("hypermosaic.where(false)") == {
            "x": 256,
            "y": 128,
            "zoom": 4,
        }  # the map's arrows, not the picture's
        assert text(tab, "said") == "Row 2, column 4: 1 of 3 stages"
        tab.key("Enter")
        place = tab.js("hypermosaic.where(false)")
        assert (place["x"], place["y"]) == pytest.approx((512 * 3.5 / 4, 256 * 0.75))

        quoted = "'" + str(folder).replace("'", "'\\''") + "'"
        tab.js("document.activeElement.blur()")
        tab.key("k")
        tab.key("k")
        assert (
            text(tab, "flight-command") == f"hypermosaic export {quoted} --format mp4 --path keyframes.json"
        )


def test_a_row_of_keyframes_keeps_the_focus(browser: Browser, tmp_path: Path) -> None:
    folder = running(tmp_path / "job").folder
    with browser.open((folder / "index.html").as_uri(), (1100, 800)) as tab:
        tab.wait("window.hypermosaic?.image")
        for _ in range(3):
            tab.key("k")
        seconds = "[...document.querySelectorAll('#keyframes input')].map((each) => Number(each.value))"
        label = "document.activeElement.getAttribute('aria-label')"
        before = tab.js("hypermosaic.where(false)")
        tab.js("document.querySelectorAll('#keyframes input')[1].focus()")
        tab.key("ArrowUp", times=2)
        assert tab.js(seconds) == [0, 5, 8] and tab.js(label) == "Seconds of keyframe 2"
        tab.js(
            "(() => { const e = document.activeElement; e.value = 20; e.dispatchEvent(new Event('change')); })()"
        )
        assert (
            tab.js(seconds) == [0, 8, 20] and tab.js(label) == "Seconds of keyframe 3"
        )  # it moved, and keeps it
        tab.key("ArrowUp")
        assert tab.js(seconds) == [0, 8, 20.5] and tab.js("hypermosaic.where(false)") == before
        tab.js("document.querySelectorAll('#keyframes .close')[0].focus()")
        tab.key("Enter")
        tab.js("document.activeElement.click()")
        assert tab.js(label) == "Remove keyframe 1"


@pytest.mark.parametrize(
    ("size", "at_first"), [((1100, 800), True), ((640, 900), False), ((1000, 420), False)]
)
def test_key_m_shows_and_hides_the_map(
    browser: Browser, tmp_path: Path, size: tuple[int, int], at_first: bool
) -> None:
    job = running(tmp_path / "job")
    with browser.open((job.folder / "index.html").as_uri(), size) as tab:
        tab.settle()
        for visible in (at_first, not at_first, at_first):
            assert shown(tab, ".navigator") == visible
            if visible:
                covered = tab.js(
                    "(() => { const b = document.querySelector('.navigator').getBoundingClientRect();"
                    " return !document.elementFromPoint(b.x + b.width / 2, b.y + b.height / 2).closest('.navigator')"
                    " || b.right > innerWidth || b.bottom > innerHeight; })()"
                )
                assert not covered
            tab.key("m")


def test_axe_finds_nothing_serious_about_jobs(browser: Browser, tmp_path: Path, axe: str) -> None:  # noqa: F811
    """The gallery, a job that runs, one that failed, one that has not begun: dark and light."""
    root = tmp_path / "jobs"
    running(root / "running")
    failed = running(root / "failed")
    failed.tell(JobFailed("OSError: no space left on device"))
    damaged(root / "damaged")
    job_file.save(JobSpec(prompt="world", width=64, height=32, out=root / "waiting"), "f00d")
    GrowingJob(root / "waiting" / "map", "deserts").done(0, 1, 2)
    with live(viewer_of(root)) as address, browser.open(address, (1100, 900)) as tab:
        links = tab.js("[...document.querySelectorAll('li a')].map((each) => each.href)")
        assert len(links) == 2 and tab.js("document.querySelectorAll('li').length") == 4
        identity = tab.js("document.querySelector('li[data-state=running] > div').parentElement.id.slice(4)")
        waiting = f"{address}jobs/{identity}/"
        for page in (address, *links, waiting):
            tab.call("Page.navigate", url=page)
            tab.wait(f"location.href === '{page}' && document.readyState === 'complete'")
            if page in links:
                tab.wait("document.getElementById('job-facts')?.innerText")
            if page == waiting:
                tab.wait("!document.getElementById('share').hidden")
            for scheme in ("light", "dark"):
                tab.media({"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"})
                tab.wait(f"document.documentElement.dataset.theme === '{scheme}'")
                assert violations(tab, axe) == [], (page, scheme)


def test_who_waits_for_a_job_sees_its_map_and_then_its_picture(browser: Browser, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    job_file.save(JobSpec(prompt="world", width=64, height=32, out=folder), "f00d")
    hurried = "const later = setTimeout; window.setTimeout = (work, wait) => later(work, wait / 10);"
    with live(viewer_of(folder)) as address, browser.open(address, (700, 500), scripts=hurried) as tab:
        tab.wait("!document.getElementById('next').hidden")
        assert "has not begun" in text(tab, "heading") and f"hypermosaic resume {folder}" in text(tab, "next")
        first = GrowingJob(folder / "map", "deserts")
        first.done(0, *range(BLOCKS))
        tab.wait("document.getElementById('told').innerText.startsWith('29 % of it, about')")
        assert text(tab, "heading") == "The class map is invented first"
        assert tab.js("document.getElementById('share').value") == pytest.approx(8 / 27)
        first.tell(JobFailed("no memory"))
        tab.wait("document.getElementById('error').innerText === 'no memory'")
        assert "failed at 29 %" in text(tab, "told") and "hypermosaic resume" in text(tab, "next")
        shutil.rmtree(folder)
        GrowingJob(folder)
        tab.wait("window.hypermosaic?.image")
        assert tab.complaints() == []


def test_a_region_over_the_seam_of_a_real_ring_is_saved(browser: Browser, tmp_path: Path) -> None:
    """`generate`, `view` and the browser: what is drawn over the seam is what the file holds."""
    folder = tmp_path / "ring"
    made = CliRunner().invoke(
        command_line,
        ["generate", "archipelago", "--size", "512x256", "--num-inference-steps", "1", "--topology", "ring",
         "--executor", "in-process", "--out", str(folder)],
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    with live(viewer_of(folder)) as address, browser.open(f"{address}#0,128,2", scripts=KEEP_FILES) as tab:
        tab.settle()
        tab.js("hypermosaic.greeted")
        tab.key("e")
        tab.drag((400, 300), (580, 380))
        x, y, w, h = numbers(tab)
        assert (x, w, h) == (512 - 50, 90, 40)  # 50 pixels west of the seam, 40 east of it
        tab.press("#region-png")
        name, content = saved_file(tab)
        assert name == f"region-{x}-{y}-{w}-{h}.png"
        assert [line for line in tab.complaints() if "Failed to load" in line] == []
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.asarray(image.convert("RGB"))
    whole = Picture.open(folder).read(0, Box(0, 256, 0, 512))
    assert np.array_equal(pixels, np.roll(whole, -x, axis=1)[y : y + h, :w])
    assert pixels.std() > 2  # no plain colour, which would be right anywhere


def test_from_elsewhere_a_region_over_the_seam_is_put_together_or_explained(
    browser: Browser, tmp_path: Path
) -> None:
    from picture_folders import four_colours, job_folder, plainly_hosted

    folder = job_folder(tmp_path / "job", wraps_x=True)
    with plainly_hosted(folder) as address, browser.open(f"{address}#0,100,2", scripts=KEEP_FILES) as tab:
        tab.settle()
        tab.key("e")
        tab.drag((400, 300), (580, 380))
        x, y, w, h = numbers(tab)
        assert (x, w) == (650, 90)
        tab.press("#region-png")
        with Image.open(io.BytesIO(saved_file(tab)[1])) as image:
            pixels = np.asarray(image.convert("RGB")).astype(int)
        wanted = np.roll(four_colours(), -x, axis=1)[y : y + h, :w]
        assert (np.abs(pixels - wanted).max(axis=2) <= 6).mean() > 0.9
    with browser.open((folder / "index.html").as_uri() + "#0,100,2") as tab:
        tab.settle()
        tab.key("e")
        tab.drag((400, 300), (580, 380))
        assert "goes over the seam" in text(tab, "region-note") and not shown(tab, "#region-command")
        tab.drag((520, 300), (580, 380))
        assert shown(tab, "#region-command") and numbers(tab)[0] == 10
