"""The page for everyone: rules of accessibility, keys alone, dark and light, small and large screens.

axe-core comes from the package index through npm; where that is not there, its test is skipped and says so.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from chromium import Browser, Tab, needs_chromium
from picture_folders import job_folder

pytestmark = [needs_chromium, pytest.mark.browser]

AXE = "axe-core@4.14.1"
OVERLAPS = """
(() => {
  const visible = (part) => {
    const { left, right, top, bottom } = part.getBoundingClientRect();
    const scroller = part.matches("#panels > *") && getComputedStyle(part).position !== "fixed" && part.parentElement;
    const frame = scroller ? scroller.getBoundingClientRect() : { left, right, top, bottom };
    return {
      left: Math.max(left, frame.left), right: Math.min(right, frame.right),
      top: Math.max(top, frame.top), bottom: Math.min(bottom, frame.bottom),
    };
  };
  const names = "#side > header, #tools, #zooms, footer, .navigator, .panel, #shown-classes, #said";
  const parts = [...document.querySelectorAll(names)];
  const boxes = parts.filter((part) => part.offsetParent !== null || getComputedStyle(part).position === "fixed")
    .filter((part) => getComputedStyle(part).visibility === "visible" && !part.hidden)
    .map((part) => [part.id || part.tagName, visible(part)])
    .filter(([, box]) => box.right > box.left && box.bottom > box.top);
  const wrong = [];
  for (const [name, box] of boxes) {
    if (box.left < -1 || box.right > innerWidth + 1 || box.top < -1 || box.bottom > innerHeight + 1) wrong.push(name);
    for (const [other, b] of boxes) {
      const across = Math.min(box.right, b.right) - Math.max(box.left, b.left);
      const down = Math.min(box.bottom, b.bottom) - Math.max(box.top, b.top);
      if (name < other && across > 1 && down > 1) wrong.push(`${name} on ${other}`);
    }
  }
  return wrong;
})()
"""


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm on this machine, which fetches axe-core")
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run([npm, "pack", AXE], cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(f"npm could not fetch {AXE}")
    with tarfile.open(next(folder.glob("axe-core-*.tgz"))) as package:
        member = package.extractfile("package/axe.min.js")
        assert member is not None
        return member.read().decode()


def violations(tab: Tab, axe: str) -> list[str]:
    """Serious and critical findings, each with its first element."""
    tab.js(f"{axe}; 0")
    found = tab.js(
        "axe.run(document).then(({ violations }) => violations.map((each) =>"
        " [each.impact, each.id, each.nodes.length, each.nodes[0].html.slice(0, 120)]))"
    )
    return [str(each) for each in found if each[0] in ("serious", "critical")]


@pytest.mark.parametrize("size", [(1440, 1400), (390, 844)])
def test_axe_finds_nothing_serious(browser: Browser, tmp_path: Path, axe: str, size: tuple[int, int]) -> None:
    folder = job_folder(tmp_path / "job", classes=True, wraps_x=True, panorama=True)
    dark, light = (
        {"prefers-color-scheme": scheme, "prefers-reduced-motion": "reduce"} for scheme in ("dark", "light")
    )

    def assert_fine(what: str) -> None:
        """In both themes."""
        for media in (light, dark):
            tab.media(media)
            tab.wait(f"document.documentElement.dataset.theme === '{media['prefers-color-scheme']}'")
            assert violations(tab, axe) == [], (what, media)

    with browser.open((folder / "index.html").as_uri(), size, media=dark) as tab:
        tab.settle()
        assert_fine("the page")
        tab.key("k")
        tab.key("k")
        tab.key("i")
        tab.key("x")
        tab.wait("document.querySelector('#legend button')")
        for panel in ("layers", "region", "place", "flight"):
            tab.js(f"hypermosaic.panels.get('{panel}').open()")
            assert_fine(panel)
        tab.key("?")
        assert_fine("help")
    with browser.open((folder / "panorama.html").as_uri(), size, media=dark) as tab:
        tab.wait("window.hypermosaicAround")
        assert_fine("around")


def test_the_theme_is_the_systems_until_chosen_and_then_remembered(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    ground = "getComputedStyle(document.body).backgroundColor"
    with browser.open((folder / "index.html").as_uri(), media={"prefers-color-scheme": "dark"}) as tab:
        tab.settle()
        dark = tab.js(ground)
        tab.media({"prefers-color-scheme": "light"})
        tab.wait(f"{ground} !== '{dark}'")
        light = tab.js(ground)
        tab.key("t")
        assert tab.js(ground) == dark
        tab.js("window.old = true")
        tab.call("Page.reload")
        tab.wait("!window.old && window.hypermosaic")
        tab.settle()
        assert tab.js(ground) == dark != light


def test_without_storage_the_page_works_all_the_same(browser: Browser, tmp_path: Path) -> None:
    refusing = (
        "Object.defineProperty(window, 'localStorage',"
        " { get() { throw new DOMException('no', 'SecurityError'); } });"
    )
    with browser.open((job_folder(tmp_path / "job") / "index.html").as_uri(), scripts=refusing) as tab:
        tab.settle()
        before = tab.js("document.documentElement.dataset.theme")
        tab.key("t")
        assert tab.js("document.documentElement.dataset.theme") != before and tab.complaints() == []


def test_panels_take_the_focus_and_give_it_back(browser: Browser, tmp_path: Path) -> None:
    with browser.open((job_folder(tmp_path / "job") / "index.html").as_uri()) as tab:
        tab.settle()
        focus = "document.activeElement.dataset.panel ?? document.activeElement.id"
        tab.press("[data-panel=region]")
        assert tab.js(focus) == "region"
        assert tab.js("document.querySelector('[data-panel=region]').getAttribute('aria-expanded')") == "true"
        tab.key("Tab")
        tab.key("Tab")
        assert tab.js(focus) == "region-x"
        tab.key("e")  # a letter in a field, not a key of the page
        assert not tab.js("document.getElementById('region').hidden")
        tab.key("Escape")
        assert tab.js("document.getElementById('region').hidden")
        assert tab.js("document.activeElement.getAttribute('aria-label')") == "Save a region"


@pytest.mark.parametrize("touch", [True, False])
def test_nothing_overlaps_or_leaves_the_screen(browser: Browser, tmp_path: Path, touch: bool) -> None:
    folder = job_folder(tmp_path / "job", classes=True, wraps_x=True, panorama=True)
    sizes = [(360, 640), (390, 844), (740, 360)] if touch else [(1000, 640), (1440, 900), (3840, 2160)]
    with browser.open((folder / "index.html").as_uri(), sizes[0], touch=touch) as tab:
        for size in sizes:
            tab.resize(size, touch=touch)
            tab.js("window.old = true")
            tab.call("Page.reload")
            tab.wait("!window.old && document.readyState === 'complete'")
            tab.settle()
            assert tab.js(OVERLAPS) == [], size
            for panel in ("layers", "place", "region", "flight"):
                tab.press(f"[data-panel={panel}]")
                tab.js("hypermosaic.greeted.then(() => document.getElementById('said').textContent = '')")
                assert tab.js(OVERLAPS) == [], (size, panel)
                tab.press(f"#{panel} .panel-head .close")


def test_h_leaves_only_the_picture(browser: Browser, tmp_path: Path) -> None:
    with browser.open((job_folder(tmp_path / "job") / "index.html").as_uri()) as tab:
        tab.settle()
        tab.key("h")
        for part in ("#tools", "#zooms", "#side", "footer", ".navigator"):
            assert tab.js(f"getComputedStyle(document.querySelector('{part}')).visibility") == "hidden"
        tab.key("h")
        assert tab.js("getComputedStyle(document.querySelector('#tools')).visibility") == "visible"
