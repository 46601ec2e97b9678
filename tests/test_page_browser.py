"""The page in a real browser: opened from disk, from our server and from any web host; moved, linked to, unfinished."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium
from numpy.typing import NDArray
from picture_folders import LAYOUT, QUARTERS, job_folder, plainly_hosted, served, share_of

pytestmark = [needs_chromium, pytest.mark.browser]


def page_of(folder: Path) -> str:
    return (folder / "index.html").as_uri()


def where(tab: Tab) -> tuple[float, float, float]:
    place = tab.js("hypermosaic.where(false)")
    return place["x"], place["y"], place["zoom"]


def assert_shows_the_picture(screen: NDArray[np.uint8]) -> None:
    shares = {name: share_of(screen, colour) for name, colour in QUARTERS.items()}
    assert min(shares.values()) > 0.1, shares
    height, width, _ = screen.shape
    centre = screen[height // 2 - 40 : height // 2 + 40, width // 2 - 40 : width // 2 + 40]
    for name, corner in {"nw": centre[:30, :30], "ne": centre[:30, 50:], "sw": centre[50:, :30]}.items():
        assert share_of(corner, QUARTERS[name]) > 0.9


# --- where it is opened from --------------------------------------------------------------------------------------


def test_a_folder_opens_by_double_click(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job"))) as tab:
        tab.settle()
        assert_shows_the_picture(tab.screen())
        assert tab.complaints() == []


@pytest.mark.parametrize(("names", "deep_zoom"), [(("ome-zarr", "deep-zoom"), True), (("ome-zarr",), False)])
def test_the_server_shows_it_under_its_content_policy(
    browser: Browser, tmp_path: Path, names: tuple[str, ...], deep_zoom: bool
) -> None:
    with (
        served(job_folder(tmp_path / "job", names, deep_zoom=deep_zoom, classes=True)) as address,
        browser.open(address) as tab,
    ):
        tab.settle()
        assert_shows_the_picture(tab.screen())
        tab.js("hypermosaic.layers.set({shown: true})")
        assert tab.js("document.querySelectorAll('#legend button').length") == 2
        assert [line for line in tab.complaints() if "api/status.json" not in line] == []


def test_a_plain_web_host_shows_it_and_is_asked_for_a_status_once(browser: Browser, tmp_path: Path) -> None:
    with plainly_hosted(job_folder(tmp_path / "job")) as address, browser.open(address) as tab:
        tab.settle()
        assert_shows_the_picture(tab.screen())
        tab.js("hypermosaic.greeted")
        assert [line for line in tab.complaints() if "api/status.json" not in line] == []
        assert len(tab.complaints()) <= 1
        assert tab.js("hypermosaic.served") is None


def test_from_disk_a_master_alone_says_how_to_look_at_it(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", ("ome-zarr",), deep_zoom=False)
    with browser.open(page_of(folder)) as tab:
        assert "hypermosaic view" in tab.js("document.getElementById('notice').innerText")
        assert tab.js("document.getElementById('tools').hidden") and tab.complaints() == []


def test_a_plain_web_host_of_a_master_alone_says_how_to_look_at_it(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", ("ome-zarr",), deep_zoom=False)
    with plainly_hosted(folder) as address, browser.open(address, (1600, 900)) as tab:
        tab.wait("!document.getElementById('notice').hidden")
        assert "hypermosaic view" in tab.js("document.getElementById('notice').innerText")


# --- moving -------------------------------------------------------------------------------------------------------


def test_keys_zoom_move_and_explain(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job")), (500, 400)) as tab:
        tab.settle()
        home = where(tab)
        tab.key("1")
        assert where(tab)[2] == pytest.approx(1)
        tab.key("+")
        x, y, zoom = where(tab)
        assert zoom == pytest.approx(1.6)
        tab.key("ArrowLeft")
        assert where(tab) == pytest.approx((x - 0.2 * 500 / 1.6, y, 1.6))
        tab.key("0")
        assert where(tab) == pytest.approx(home)
        tab.key("?")
        assert tab.js("document.getElementById('help').open")
        assert tab.js("document.getElementById('help').scrollTop === 0"), "it begins at its first line"
        tab.key("Escape")
        assert not tab.js("document.getElementById('help').open")


def test_wheel_drag_and_buttons_move_the_picture(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job"))) as tab:
        tab.settle()
        _, _, before = where(tab)
        tab.mouse("mouseWheel", 500, 300, deltaX=0, deltaY=-240)
        tab.wait(f"hypermosaic.where(false).zoom > {1.1 * before}")
        tab.press("#actual")
        tab.settle()
        x, y, zoom = where(tab)
        assert zoom == pytest.approx(1)
        tab.drag((500, 300), (440, 330))
        tab.settle()
        moved_x, moved_y, _ = where(tab)
        assert moved_x - x > 30 and y - moved_y > 15


def test_fingers_pinch_and_tap(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job")), (390, 844), touch=True) as tab:
        tab.settle()
        _, _, before = where(tab)
        tab.touch("touchStart", (180, 400), (210, 400))
        for spread in range(10, 100, 10):
            tab.touch("touchMove", (180 - spread, 400), (210 + spread, 400))
            time.sleep(0.02)
        tab.touch("touchEnd")
        tab.wait(f"hypermosaic.where(false).zoom > {1.5 * before}")
        tab.settle()
        tab.touch("touchStart", (200, 420))
        tab.touch("touchEnd")
        tab.wait("!document.getElementById('place').hidden")


def test_less_motion_is_no_motion(browser: Browser, tmp_path: Path) -> None:
    with browser.open(
        page_of(job_folder(tmp_path / "job")), media={"prefers-reduced-motion": "reduce"}
    ) as tab:
        tab.settle()
        after = tab.js(
            "(async () => { document.getElementById('actual').click(); await new Promise(requestAnimationFrame);"
            " return hypermosaic.where(true).zoom; })()"
        )
        assert after == pytest.approx(1)


def test_a_ring_goes_on_beyond_its_right_edge(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", wraps_x=True)), (1600, 420)) as tab:
        tab.settle()
        screen = tab.screen()
        for edge in (screen[290:310, :20], screen[290:310, -20:]):
            assert max(share_of(edge, QUARTERS["sw"]), share_of(edge, QUARTERS["se"])) > 0.9


# --- links --------------------------------------------------------------------------------------------------------


def test_a_link_opens_the_view_that_it_names(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job")) + "#600,300,2") as tab:
        tab.settle()
        assert where(tab) == pytest.approx((600, 300, 2), rel=1e-3)
        assert share_of(tab.screen()[280:360, 460:540], QUARTERS["se"]) > 0.95
        tab.js("location.hash = '#100,60,3'")
        tab.wait("Math.abs(hypermosaic.where(false).zoom - 3) < 1e-6")
        tab.settle()
        assert where(tab) == pytest.approx((100, 60, 3), rel=1e-3)
        assert share_of(tab.screen()[280:360, 460:540], QUARTERS["nw"]) > 0.95


def test_a_link_that_names_no_view_shows_the_whole_picture(browser: Browser, tmp_path: Path) -> None:
    page = page_of(job_folder(tmp_path / "job"))
    with browser.open(page) as tab:
        for hash in ("#a,b,c", "#1,2", "#10,10,-1", "#%", "#1e999,2,1", "#,,"):
            tab.js("window.old = true")
            tab.call("Page.navigate", url="about:blank")
            tab.call("Page.navigate", url=page + hash)
            tab.wait("!window.old && document.readyState === 'complete' && location.hash !== ''")
            tab.settle()
            assert tab.js("location.hash") == hash
            assert tab.js("hypermosaic.showsAll()") and tab.complaints() == [], hash


def test_the_address_follows_the_view_when_it_rests(browser: Browser, tmp_path: Path) -> None:
    counting = (
        "window.writes = 0; const write = history.replaceState.bind(history);"
        "history.replaceState = (...all) => { window.writes += 1; write(...all); };"
    )
    with browser.open(page_of(job_folder(tmp_path / "job")), scripts=counting) as tab:
        tab.settle()
        assert tab.js("location.hash") == ""
        tab.key("1")
        tab.key("ArrowLeft", times=4)
        tab.wait("location.hash")
        time.sleep(0.5)
        x, y, zoom = (float(number) for number in tab.js("location.hash")[1:].split(","))
        assert (x, y, zoom) == pytest.approx(where(tab), abs=1)
        assert tab.js("writes") <= 2
        tab.key("0")
        tab.wait("location.hash === ''")  # the whole picture needs no words


def test_links_of_a_ring_name_pixels_of_the_picture(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", wraps_x=True)) + "#690,175,2") as tab:
        tab.settle()
        tab.drag((600, 300), (400, 300))
        tab.settle()
        tab.wait("Number(location.hash.slice(1).split(',')[0]) < 350")
        assert 0 <= where(tab)[0] < 350


def test_a_link_is_copied(browser: Browser, tmp_path: Path) -> None:
    taking = "navigator.clipboard.writeText = async (text) => { window.copied = text; };"
    with (
        served(job_folder(tmp_path / "job")) as address,
        browser.open(f"{address}#400,200,2", scripts=taking) as tab,
    ):
        tab.settle()
        tab.key("l")
        tab.wait("window.copied")
        assert tab.js("copied") == f"{address}#400,200,2"
        assert "copied" in tab.js("document.getElementById('said').textContent")


# --- pictures that are not finished -------------------------------------------------------------------------------


def complaints_at_rest(tab: Tab) -> list[str]:
    """What the console said, once the view stands still and nothing more is asked for."""
    said: list[str] = []
    while not said or len(tab.complaints()) > len(said):
        said = list(tab.complaints())
        time.sleep(0.7)
    return said


def test_missing_tiles_are_few_questions_and_come_when_asked_again(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    (folder / "image_files").rename(folder / "later")
    with browser.open(page_of(folder) + "#350,175,2", (1600, 900)) as tab:
        tab.wait("document.getElementById('said').textContent")
        for key in ("ArrowLeft", "ArrowRight", "+", "-"):
            tab.key(key)
            time.sleep(0.3)
        asked = complaints_at_rest(tab)
        assert all("image_files" in line for line in asked)
        assert 0 < max(Counter(asked).values()) <= 2  # by the picture and by the map, once each
        tab.js("hypermosaic.reloadTiles()")
        tab.js("hypermosaic.reloadTiles()")
        again = Counter(complaints_at_rest(tab))
        assert len(asked) < again.total() and max(again.values()) <= 4
        shares = [share_of(tab.screen(), colour) for colour in QUARTERS.values()]
        assert max(shares) < 0.01
        (folder / "later").rename(folder / "image_files")
        tab.js("hypermosaic.reloadTiles()")
        tab.screen_when(lambda seen: share_of(seen, QUARTERS["se"]) > 0.1)
        tab.settle()
        assert_shows_the_picture(tab.screen())


def test_tiles_cover_a_preview_and_the_preview_fills_the_rest(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    shutil.rmtree(folder / "image_files")
    finest = folder / "image_files" / str(LAYOUT.deep_levels - 1)
    complete = job_folder(tmp_path / "complete") / "image_files" / finest.name
    finest.mkdir(parents=True)
    for tile in complete.glob("[0-3]_*.jpg"):  # the left 256 pixels
        shutil.copy(tile, finest)
    violet = (
        "(() => { const c = document.createElement('canvas'); c.width = 4; c.height = 2; const p = c.getContext('2d');"
        " p.fillStyle = '#c000c0'; p.fillRect(0, 0, 4, 2); return c.toDataURL(); })()"
    )
    with browser.open(page_of(folder) + "#350,175,1.25", (1000, 640)) as tab:
        tab.wait("hypermosaic.image")
        tab.js(f"hypermosaic.showPreview({violet})")
        tab.wait("hypermosaic.viewer.world.getItemCount() === 2")
        tab.js("hypermosaic.reloadTiles()")
        screen = tab.screen_when(lambda seen: share_of(seen[400:500, 100:300], QUARTERS["sw"]) > 0.95)
        assert share_of(screen[400:500, 100:300], QUARTERS["sw"]) > 0.95
        assert share_of(screen[340:500, 600:850], (0xC0, 0, 0xC0)) > 0.95
        tab.js("hypermosaic.hidePreview()")
        screen = tab.screen_when(lambda seen: share_of(seen, (0xC0, 0, 0xC0)) < 0.001)
        assert share_of(screen, (0xC0, 0, 0xC0)) < 0.001
