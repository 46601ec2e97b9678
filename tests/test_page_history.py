"""The page's places in the browser's history, and that the title and the legend stay in sight."""

from __future__ import annotations

from pathlib import Path

import pytest
from chromium import Browser, Tab, needs_chromium
from data_sets import data_set, row
from live_server import live
from picture_folders import job_folder
from test_sheet_browser import served

from cluster.viewing import JobTeller
from viewer.server import build_gallery

pytestmark = [needs_chromium, pytest.mark.browser]
LONG = "a picture of many words, " * 12
IN_SIGHT = """
((selector) => {
  const part = document.querySelector(selector);
  const { left, right, top, bottom } = part.getBoundingClientRect();
  if (right <= left || bottom <= top) return false;
  const [x, y] = [(left + right) / 2, (top + bottom) / 2];
  const above = document.elementsFromPoint(x, y).find((each) => getComputedStyle(each).pointerEvents !== "none");
  return y > 0 && y < innerHeight && getComputedStyle(part).visibility === "visible"
    && ![...document.querySelectorAll(".panel, #said:not(:empty)")].some((panel) => !part.contains(panel)
      && !panel.contains(part) && panel.contains(above));
})"""


def in_sight(tab: Tab, selector: str) -> bool:
    return bool(tab.js(f"{IN_SIGHT}({selector!r})"))


def where(tab: Tab) -> tuple[float, float, float]:
    place = tab.js("hypermosaic.where(false)")
    return place["x"], place["y"], place["zoom"]


def went_back(tab: Tab, condition: str) -> None:
    tab.js("history.back()")
    tab.wait(condition)


# --- history ---------------------------------------------------------------------------------------------------------


def test_back_leads_to_the_gallery_however_far_one_moved(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "jobs" / "one", classes=True, wraps_x=True, panorama=True)
    gallery = live(build_gallery(folder.parent, lambda: [folder], JobTeller()))
    with gallery as address, browser.open(address) as tab:
        tab.wait("document.querySelector('a[href*=jobs]')")
        before = tab.js("history.length")
        tab.js("document.querySelector('a[href*=jobs]').click()")
        tab.wait("window.hypermosaic && hypermosaic.image")
        tab.settle()
        for key in ("+", "ArrowRight", "+", "c", "ArrowDown", "0", "1"):
            tab.key(key)
            tab.settle()
            tab.wait("location.hash.startsWith('#') || hypermosaic.showsAll()")
        tab.wait("location.hash.includes('classes')")
        assert tab.js("history.length") == before + 1
        tab.key("o")  # looking around and coming back leaves no more than the way back
        tab.wait("window.hypermosaicAround")
        tab.key("Escape")
        tab.wait("window.hypermosaic?.layers?.state.shown")
        assert "classes" in tab.js("location.hash")
        went_back(tab, f"location.href === '{address}'")


def test_the_way_back_from_around_is_a_link_where_nothing_led_there(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", wraps_x=True, panorama=True)
    with browser.open((folder / "panorama.html").as_uri()) as tab:
        tab.wait("window.hypermosaicAround")
        tab.js("setTimeout(() => document.getElementById('back').click(), 0)")
        tab.wait("window.hypermosaic && location.pathname.endsWith('index.html')")


def test_a_typed_place_and_the_way_back_from_it_move_the_view(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    with browser.open((folder / "index.html").as_uri() + "#100,80,2") as tab:
        tab.settle()
        first = where(tab)
        tab.js("location.hash = '#600,300,3&classes=0.5'")
        tab.wait("hypermosaic.layers.state.shown")
        tab.settle()
        assert where(tab) == pytest.approx((600, 300, 3))
        tab.key("-")  # moves this place on, and adds none
        tab.wait("!location.hash.includes(',3&')")
        went_back(tab, "!hypermosaic.layers.state.shown")
        tab.settle()
        assert where(tab) == pytest.approx(first)
        tab.js("history.forward()")
        tab.wait("hypermosaic.layers.state.shown")
        tab.settle()
        assert where(tab)[2] < 3


def test_back_closes_a_picture_of_the_sheet_and_does_not_leave_it(browser: Browser, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set", row(9, "the large one", (2,), (1400, 1100)))
    is_open = "document.getElementById('one').open"
    with served(folder) as address, browser.open(address, (1200, 900)) as tab:
        tab.wait("document.querySelector('#sheet button')")
        length = tab.js("history.length")
        tab.js("document.querySelectorAll('#sheet button')[0].click()")
        tab.wait(is_open)
        tab.key("ArrowRight")
        tab.key("m")  # the mask, which the address keeps
        assert tab.js("history.length") == length + 1
        went_back(tab, f"!{is_open}")
        assert tab.js("location.href").startswith(address) and tab.js("location.hash") == "#show=over"
        tab.js("history.forward()")
        tab.wait(is_open)
        tab.js(
            "document.getElementById('one').close(), document.querySelectorAll('#sheet button')[0].click()"
        )
        tab.wait(f"{is_open} && history.state?.one === 0")  # at once, before the way back was gone
        went_back(tab, f"!{is_open}")
        tab.js("document.querySelectorAll('#sheet button')[0].click()")
        tab.wait(is_open)
        tab.key("Escape")
        tab.wait(f"!{is_open} && history.state === null")
        tab.js("document.querySelectorAll('#sheet button')[0].click()")
        tab.wait(is_open)
        tab.js("document.getElementById('one-same').click()")
        tab.wait("location.hash.includes('prompt=') && history.state === null")


# --- in sight --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "touch"), [((1280, 800), False), ((390, 844), True), ((740, 360), True)])
def test_the_legend_is_there_while_the_class_map_is(
    size: tuple[int, int], touch: bool, browser: Browser, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    with browser.open((folder / "index.html").as_uri() + "#350,175,1&classes=0.7", size, touch=touch) as tab:
        tab.wait("hypermosaic.layers?.state.shown && document.querySelector('#legend button')")
        tab.settle()
        tab.js("document.getElementById('said').textContent = ''")
        assert in_sight(tab, "#legend button")
        tab.press("[data-panel=layers]")
        assert in_sight(tab, "#layers #legend button")
        tab.press("#layers .close")
        assert in_sight(tab, "#shown-classes #legend button")
        tab.press("#shown-classes #legend button")  # shows this class alone, as in the panel
        assert tab.js("document.querySelector('#legend button').getAttribute('aria-pressed')") == "true"
        tab.key("c")
        tab.wait("!hypermosaic.layers.state.shown")
        assert tab.js("document.getElementById('shown-classes').hidden")


@pytest.mark.parametrize(
    ("size", "touch"), [((1280, 800), False), ((1000, 420), False), ((390, 844), True), ((740, 360), True)]
)
def test_panels_and_words_leave_the_title_in_sight(
    size: tuple[int, int], touch: bool, browser: Browser, tmp_path: Path
) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    page = folder / "index.html"
    page.write_text(page.read_text().replace("four fields, &lt;seen&gt; from above</h1>", f"{LONG}</h1>"))
    assert LONG in page.read_text()
    with browser.open(page.as_uri(), size, touch=touch) as tab:
        tab.settle()
        for panel in ("layers", "place", "region", "flight"):
            tab.js(f"hypermosaic.panels.get('{panel}').open()")
            tab.js("hypermosaic.say('some words that are said')")
            assert in_sight(tab, "h1"), panel
            assert tab.js(f"document.getElementById('{panel}').getBoundingClientRect().height > 60")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_colour_of_a_legend_has_an_edge(theme: str, browser: Browser, tmp_path: Path) -> None:
    """Ice on light and deep ocean on dark would not be seen."""
    media = {"prefers-color-scheme": theme}
    folder = job_folder(tmp_path / "job", classes=True)
    style = (
        "((part) => {{ const s = getComputedStyle(part); return [s.borderTopWidth, s.borderTopColor]; }})({})"
    )
    wanted = ["1px", "rgba(0, 0, 0, 0.52)" if theme == "light" else "rgba(255, 255, 255, 0.42)"]
    with browser.open((folder / "index.html").as_uri() + "#350,175,1&classes=0.7", media=media) as tab:
        tab.wait("document.querySelector('#legend .chip')")
        assert tab.js(style.format("document.querySelector('#legend .chip')")) == wanted
    with served(data_set(tmp_path / "set")) as address, browser.open(address, media=media) as tab:
        tab.wait("document.querySelector('#legend i')")
        assert tab.js("document.getElementById('legend').hidden"), "no mask, no legend"
        tab.key("m")
        assert in_sight(tab, "#legend i")
        assert tab.js(style.format("document.querySelector('#legend i')")) == wanted
