"""What the page saves: regions at full resolution and keyframes of zoom videos, and the commands it names."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium
from picture_folders import LAYOUT, four_colours, job_folder, plainly_hosted, served
from PIL import Image

from storage.exports.path import read_keyframes
from storage.geometry import RING, Canvas

pytestmark = [needs_chromium, pytest.mark.browser]

KEEP_FILES = """
window.saved = [];
const address = URL.createObjectURL.bind(URL);
URL.createObjectURL = (blob) => { window.saved.push(blob); return address(blob); };
HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download; };
"""


def page_of(folder: Path, hash: str = "") -> str:
    return (folder / "index.html").as_uri() + hash


def saved_file(tab: Tab) -> tuple[str, bytes]:
    tab.wait("saved.length && window.savedAs")
    data = tab.js(
        "new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result);"
        " reader.readAsDataURL(saved.at(-1)); })"
    )
    return tab.js("savedAs"), base64.b64decode(data.partition(",")[2])


def numbers(tab: Tab) -> list[int]:
    return [int(tab.js(f"document.getElementById('region-{name}').value")) for name in "xywh"]


# --- regions ------------------------------------------------------------------------------------------------------


def test_a_region_is_dragged_typed_or_what_is_on_the_screen(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job"), "#350,175,2")) as tab:
        tab.settle()
        tab.key("e")
        assert numbers(tab) == [100, 15, 500, 320]
        tab.drag((500, 320), (700, 420))
        assert numbers(tab) == [350, 175, 100, 50]
        box = tab.js(
            "(() => { const b = document.getElementById('rectangle').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        assert box == pytest.approx([500, 320, 200, 100], abs=1)
        assert tab.js("hypermosaic.where(false).x") == pytest.approx(350)  # dragging draws, and moves nothing
        tab.js(
            "(() => { const x = document.getElementById('region-x'); x.value = 690;"
            " x.dispatchEvent(new Event('change')); })()"
        )
        assert numbers(tab) == [690, 175, 10, 50]  # cut where the picture ends
        tab.press("#region-view")
        assert numbers(tab) == [100, 15, 500, 320]
        tab.key("Escape")
        tab.drag((500, 320), (600, 320))
        tab.settle()
        assert tab.js("hypermosaic.where(false).x") < 340


def test_from_disk_the_page_names_the_command(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "it's a job")
    with browser.open(page_of(folder, "#350,175,2")) as tab:
        tab.settle()
        tab.key("e")
        tab.drag((500, 320), (700, 420))
        quoted = "'" + str(folder).replace("'", "'\\''") + "'"
        expected = f"hypermosaic export {quoted} --format png --region 350,175,100,50"
        assert tab.js("document.getElementById('region-command').innerText") == expected
        assert "opened from disk" in tab.js("document.getElementById('region-note').innerText")
        assert tab.js("document.getElementById('region-png').hidden")
        assert tab.complaints() == []


def test_from_a_plain_host_the_page_puts_the_tiles_together(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    with plainly_hosted(folder) as address, browser.open(f"{address}#350,175,2", scripts=KEEP_FILES) as tab:
        tab.settle()
        tab.key("e")
        tab.drag((401, 301), (777, 455))
        x, y, w, h = numbers(tab)
        tab.press("#region-png")
        name, content = saved_file(tab)
        assert name == f"region-{x}-{y}-{w}-{h}.png"
        with Image.open(io.BytesIO(content)) as image:
            assert image.format == "PNG"
            pixels = np.asarray(image.convert("RGB")).astype(int)
        wanted = four_colours()[y : y + h, x : x + w]
        assert pixels.shape == wanted.shape
        assert (
            np.abs(pixels - wanted).max(axis=2) <= 6
        ).mean() > 0.97  # JPEG rings along the borders of fields


def test_the_server_cuts_the_region(browser: Browser, tmp_path: Path) -> None:
    answers = """
    const ask = window.fetch.bind(window);
    window.fetch = async (url, ...rest) => {
      if (url === "api/status.json") return new Response(JSON.stringify({ state: "finished" }));
      if (String(url).startsWith("region.")) window.askedFor = url;
      return ask(url, ...rest);
    };
    """
    folder = job_folder(tmp_path / "job")
    with served(folder) as address, browser.open(f"{address}#350,175,2", scripts=KEEP_FILES + answers) as tab:
        tab.settle()
        tab.js("hypermosaic.greeted")
        tab.key("e")
        tab.drag((500, 320), (700, 420))
        tab.press("#region-png")
        name, content = saved_file(tab)
        assert (name, tab.js("askedFor")) == (
            "region-350-175-100-50.png",
            "region.png?x=350&y=175&w=100&h=50",
        )
        with Image.open(io.BytesIO(content)) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert np.array_equal(pixels, four_colours()[175:225, 350:450])


def test_what_the_server_refuses_is_said(browser: Browser, tmp_path: Path) -> None:
    refusing = """
    window.fetch = async (url) => (url === "api/status.json"
      ? new Response(JSON.stringify({ state: "finished" }))
      : new Response("5 pixels are more than 4; choose a smaller region", { status: 400 }));
    """
    with (
        served(job_folder(tmp_path / "job")) as address,
        browser.open(address, scripts=KEEP_FILES + refusing) as tab,
    ):
        tab.settle()
        tab.js("hypermosaic.greeted")
        tab.key("e")
        tab.press("#region-jpg")
        tab.wait("document.getElementById('region-note').innerText.includes('choose a smaller region')")
        assert tab.js("saved.length") == 0 and not tab.js("document.getElementById('region-jpg').disabled")


# --- keyframes ----------------------------------------------------------------------------------------------------


def recorded(tab: Tab) -> dict[str, Any]:
    tab.press("#flight-save")
    name, content = saved_file(tab)
    assert name == "keyframes.json"
    parsed: dict[str, Any] = json.loads(content)
    return parsed


def test_recorded_keyframes_are_what_the_export_reads(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    with browser.open(page_of(folder, "#350,175,1.5"), (960, 640), scripts=KEEP_FILES) as tab:
        tab.settle()
        tab.key("k")
        assert tab.js("document.getElementById('flight-save').disabled")
        tab.js("location.hash = '#600,300,3'")
        tab.wait("hypermosaic.where(true).zoom > 2.999")
        tab.settle()
        tab.key("k")
        file = recorded(tab)
        assert (file["format_version"], file["width"], file["height"]) == (1, 700, 350)
        first, second = file["keyframes"]
        assert first == pytest.approx(
            {"x": 350, "y": 175, "zoom": 3, "seconds": 0}
        )  # 960 pixels wide, not 1920
        assert second == pytest.approx({"x": 600, "y": 300, "zoom": 6, "seconds": 4}, rel=1e-3)
        path = tmp_path / "keyframes.json"
        path.write_text(json.dumps(file))
        camera = read_keyframes(path, Canvas(LAYOUT.height, LAYOUT.width))
        assert camera.seconds == 4 and [frame.zoom for frame in camera.keyframes] == pytest.approx([3, 6])
        command = tab.js("document.getElementById('flight-command').innerText")
        assert command == f"hypermosaic export {folder} --format mp4 --path keyframes.json"


def test_times_are_changed_and_keyframes_removed(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job")), scripts=KEEP_FILES) as tab:
        tab.settle()
        for _ in range(3):
            tab.key("k")
        tab.js(
            "(() => { const times = document.querySelectorAll('#keyframes input'); times[1].value = 20;"
            " times[1].dispatchEvent(new Event('change')); })()"
        )
        assert [frame["seconds"] for frame in recorded(tab)["keyframes"]] == [0, 8, 20]
        tab.press("#keyframes li:nth-child(2) .close")
        assert [frame["seconds"] for frame in recorded(tab)["keyframes"]] == [0, 20]
        tab.js(
            "(() => { const times = document.querySelectorAll('#keyframes input'); times[1].value = 0;"
            " times[1].dispatchEvent(new Event('change')); })()"
        )
        seconds = [frame["seconds"] for frame in recorded(tab)["keyframes"]]
        assert seconds == sorted(set(seconds))  # no two at one time


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_playing_goes_from_the_first_to_the_last(browser: Browser, tmp_path: Path, motion: str) -> None:
    media = {"prefers-reduced-motion": motion}
    with browser.open(page_of(job_folder(tmp_path / "job"), "#200,100,1.5"), media=media) as tab:
        tab.settle()
        tab.key("k")
        tab.js("hypermosaic.go({x: 500, y: 250, zoom: 4}, true)")
        tab.key("k")
        tab.js(
            "(() => { const time = document.querySelectorAll('#keyframes input')[1]; time.value = 1;"
            " time.dispatchEvent(new Event('change')); })()"
        )
        zooms = tab.js(
            "(async () => { const seen = []; document.getElementById('flight-play').click();"
            " while (document.getElementById('flight-play').textContent === 'Stop') {"
            " await new Promise(requestAnimationFrame); seen.push(hypermosaic.where(true).zoom); } return seen; })()"
        )
        assert zooms[-1] == pytest.approx(4, rel=1e-3)
        between = [zoom for zoom in zooms if 1.51 < zoom < 3.99]
        assert (len(between) > 3) == (motion == "no-preference")
        assert between == sorted(between)
        assert tab.js("hypermosaic.where(true).x") == pytest.approx(500, abs=1)


def test_a_touch_stops_the_flight_and_rings_take_the_short_way(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", wraps_x=True)
    with browser.open(page_of(folder, "#650,175,2"), scripts=KEEP_FILES) as tab:
        tab.settle()
        tab.key("k")
        tab.js("hypermosaic.go({x: 50, y: 175, zoom: 2}, true)")
        tab.key("k")
        path = tmp_path / "keyframes.json"
        path.write_text(json.dumps(recorded(tab)))
        camera = read_keyframes(path, Canvas(LAYOUT.height, LAYOUT.width, RING))
        tab.js(
            "window.passed = [];"
            " hypermosaic.viewer.addHandler('update-viewport', () => passed.push(hypermosaic.where(true).x))"
        )
        tab.press("#flight-play")
        tab.wait("passed.some((x) => x > 640) && passed.at(-1) < 50")  # over the seam
        assert all(x > 640 or x < 60 for x in tab.js("passed"))
        tab.key("Escape")
        assert tab.js("document.getElementById('flight-play').textContent") == "Play"
        assert camera.at(2, 1.6).x % 700 == pytest.approx(0, abs=1) or camera.at(2, 1.6).x == pytest.approx(
            700
        )


def test_commands_name_no_folder_that_the_page_cannot_know(browser: Browser, tmp_path: Path) -> None:
    with plainly_hosted(job_folder(tmp_path / "job")) as address, browser.open(address) as tab:
        tab.settle()
        tab.key("k")
        tab.key("k")
        assert re.match(
            r"hypermosaic export DIR ", tab.js("document.getElementById('flight-command').innerText")
        )
