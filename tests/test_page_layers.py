"""The page's class map: shown, faded, compared, highlighted, wrapped; and what made a place."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium
from numpy.typing import NDArray
from picture_folders import ABOUT, COLOURS, QUARTERS, job_folder, share_of

pytestmark = [needs_chromium, pytest.mark.browser]

SEA = (slice(300, 340), slice(60, 120))  # of a 1000 x 640 screen that shows the whole picture
LAND = (slice(440, 480), slice(700, 800))


def page_of(folder: Path, hash: str = "") -> str:
    return (folder / "index.html").as_uri() + hash


def mixed(top: tuple[int, int, int], bottom: tuple[int, int, int], opacity: float) -> tuple[int, int, int]:
    red, green, blue = (round(opacity * a + (1 - opacity) * b) for a, b in zip(top, bottom, strict=True))
    return red, green, blue


def screen_at_rest(tab: Tab) -> NDArray[np.uint8]:
    tab.settle()
    time.sleep(0.1)
    return tab.screen()


def divider(tab: Tab) -> int:
    return int(tab.js("document.getElementById('divider').getAttribute('aria-valuenow')"))


def test_key_c_lays_the_class_map_over_the_picture(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", classes=True))) as tab:
        before = screen_at_rest(tab)
        assert share_of(before[LAND], QUARTERS["se"]) > 0.95
        assert not tab.js("document.querySelector('script[src$=\"classes.js\"]')")  # loaded when asked for
        tab.key("c")
        tab.wait("hypermosaic.layers.state.shown && document.querySelector('#legend button')")
        after = screen_at_rest(tab)
        assert share_of(after[LAND], mixed(COLOURS["land"], QUARTERS["se"], 0.7)) > 0.95
        assert share_of(after[SEA], mixed(COLOURS["sea"], QUARTERS["nw"], 0.7)) > 0.4  # and some of sw
        tab.key("c")
        assert np.array_equal(screen_at_rest(tab)[LAND], before[LAND])
        assert tab.complaints() == []


def test_its_edges_are_where_the_classes_are_and_hard(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    with browser.open(page_of(folder, "#233.333,100,3.5&classes=1")) as tab:
        tab.wait("document.querySelector('#legend button')")
        row = screen_at_rest(tab)[200]
        sea = (np.abs(row.astype(int) - COLOURS["sea"]).max(axis=1) <= 6)[330:960]
        assert sea[:160].all() and not sea[180:].any()  # the border at a third of the picture is at x = 500


def test_the_legend_lists_what_is_there_with_its_share(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", classes=True))) as tab:
        tab.settle()
        tab.press("[data-panel=layers]")
        tab.wait("document.querySelector('#legend button')")
        rows = tab.js(
            "[...document.querySelectorAll('#legend button')].map((each) => each.innerText.split('\\n'))"
        )
        assert rows == [["land", "67 %"], ["sea", "33 %"]]
        tab.js("hypermosaic.layers.set({opacity: 1})")
        full = share_of(screen_at_rest(tab)[LAND], COLOURS["land"])
        tab.js("document.querySelectorAll('#legend button')[1].click()")  # the sea alone
        screen = tab.screen_when(lambda seen: share_of(seen[LAND], COLOURS["land"]) < 0.05)
        assert full > 0.95 and share_of(screen[LAND], COLOURS["land"]) < 0.05
        assert share_of(screen[100:140, 360:380], COLOURS["sea"]) == 0  # behind it there is land
        assert tab.js("document.querySelectorAll('#legend button')[1].getAttribute('aria-pressed')") == "true"


def test_the_divider_parts_map_and_picture_by_pointer_and_key(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", classes=True))) as tab:
        tab.settle()
        tab.key("x")
        tab.wait("!document.getElementById('divider').hidden")
        screen = screen_at_rest(tab)
        assert divider(tab) == 50
        assert share_of(screen[440:480, 380:470], COLOURS["land"]) > 0.95
        assert share_of(screen[440:480, 530:620], QUARTERS["se"]) > 0.95
        tab.drag((500, 500), (800, 420))
        assert divider(tab) == 80
        assert share_of(screen_at_rest(tab)[440:480, 530:620], COLOURS["land"]) > 0.95
        tab.key("ArrowLeft", times=5)
        assert divider(tab) == 70
        for key, percent in (("Home", 0), ("End", 100), ("PageDown", 90)):
            tab.key(key)
            assert divider(tab) == percent
        assert tab.js("document.activeElement.getAttribute('role')") == "slider"
        assert tab.js("hypermosaic.where(false).x") == pytest.approx(350)  # its keys move nothing else
        tab.key("x")
        assert tab.js("document.getElementById('divider').hidden")


def test_links_carry_the_layers(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    with browser.open(page_of(folder, "#350,175,1.5&classes=0.4&compare=0.25")) as tab:
        tab.wait("hypermosaic.layers.state.shown && document.querySelector('#legend button')")
        assert tab.js("[hypermosaic.layers.state.opacity, hypermosaic.layers.state.compare]") == [0.4, 0.25]
        tab.js("hypermosaic.layers.set({opacity: 0.9, compare: null})")
        tab.wait("location.hash.endsWith('&classes=0.9')")
        tab.js("location.hash = '#350,175,1.5'")
        tab.wait("!hypermosaic.layers.state.shown")


def test_the_map_goes_round_with_a_ring(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True, wraps_x=True)
    with browser.open(page_of(folder, "#0,175,2&classes=1"), (1000, 640)) as tab:
        tab.wait("document.querySelector('#legend button')")
        screen = screen_at_rest(tab)
        assert share_of(screen[400:480, 380:490], COLOURS["land"]) > 0.95
        assert share_of(screen[400:480, 510:620], COLOURS["sea"]) > 0.95


def test_without_classes_there_is_no_word_of_them(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job"))) as tab:
        tab.settle()
        assert tab.js("document.querySelector('[data-panel=layers]').hidden")
        tab.key("c")
        tab.key("x")
        tab.key("?")
        assert "class map" not in tab.js("document.body.innerText").lower()
        assert tab.js("document.getElementById('divider').hidden") and tab.complaints() == []


def test_a_map_that_is_not_written_yet_is_said_to_be(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    (folder / "viewer" / "classes.js").unlink()
    with browser.open(page_of(folder)) as tab:
        tab.settle()
        tab.press("[data-panel=layers]")
        tab.wait("document.getElementById('said').textContent.includes('when the picture is finished')")
        assert not tab.js("document.getElementById('overlay').checked")


# --- what made a place --------------------------------------------------------------------------------------------


def test_a_click_tells_what_made_the_place(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job", classes=True), "#350,175,1.25")) as tab:
        tab.settle()
        tab.click(600, 400)  # 100 right and 80 below the middle
        tab.wait("!document.getElementById('place').hidden && !document.getElementById('place-class').hidden")
        told = tab.js("document.getElementById('place').innerText")
        assert "x 430, y 239" in told and "land" in told
        for value in ABOUT.values():
            assert str(value) in told
        assert "700 \N{MULTIPLICATION SIGN} 350" in told
        tab.click(450, 200)
        tab.wait("document.getElementById('place').innerText.includes('x 310, y 79')")
        tab.key("Escape")
        assert tab.js("document.getElementById('place').hidden") and tab.complaints() == []


def test_a_drag_and_a_double_click_are_no_question(browser: Browser, tmp_path: Path) -> None:
    with browser.open(page_of(job_folder(tmp_path / "job"), "#350,175,1.25")) as tab:
        tab.settle()
        tab.drag((600, 400), (500, 350))
        tab.mouse("mousePressed", 600, 400)
        tab.mouse("mouseReleased", 600, 400)
        tab.mouse("mousePressed", 600, 400, clickCount=2)
        tab.mouse("mouseReleased", 600, 400, clickCount=2)
        tab.wait("hypermosaic.where(false).zoom > 2")
        time.sleep(0.5)
        assert tab.js("document.getElementById('place').hidden")
