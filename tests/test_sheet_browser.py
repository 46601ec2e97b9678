"""The page of a batch in a real browser: pages, filters, masks, one picture, keys, both themes, a batch that grows."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Tab, needs_chromium
from data_sets import COLOURS, data_set, row, told, write
from live_server import live
from picture_folders import share_of
from test_page_access import axe, violations

from cluster.following.events import JobFinished, RowsDone
from cluster.viewing import viewer_of

pytestmark = [needs_chromium, pytest.mark.browser]
__all__ = ["axe"]
IN_VIEW = "(image) => { const box = image.getBoundingClientRect(); return box.bottom > 0 && box.top < innerHeight; }"
IDS = "[...document.querySelectorAll('#sheet small')].map((each) => each.textContent.split(' ')[0])"
HOSTILE = "</script><img src=x onerror=document.title='broken'>"


def served(folder: Path) -> AbstractContextManager[str]:
    return live(viewer_of(folder))


def ready(tab: Tab, pictures: int) -> None:
    tab.wait(f"document.querySelectorAll('#sheet li').length === {pictures}")
    tab.wait(f"[...document.images].every((image) => image.complete || !({IN_VIEW})(image))")


def choose(tab: Tab, name: str, value: str) -> None:
    tab.js(
        f"(() => {{ const field = document.getElementById('{name}'); field.value = '{value}';"
        " for (const kind of ['input', 'change']) field.dispatchEvent(new Event(kind, {bubbles: true})); })()"
    )


def text(tab: Tab, name: str) -> str:
    return str(tab.js(f"document.getElementById('{name}').innerText"))


def test_a_sheet_of_pictures_filtered_masked_and_opened(browser: Browser, tmp_path: Path) -> None:
    more = [row(index, "many", (index % 3,)) for index in range(100, 170)]
    folder = data_set(tmp_path / "set", row(9, HOSTILE, (2,), (1400, 1100)) | {"id": HOSTILE}, *more)
    with served(folder) as address, browser.open(address, (1200, 900)) as tab:
        ready(tab, 60)
        assert tab.js(IDS)[:6] == ["r0", "r1", "r2", "r3", "r4", "</script><img"]
        assert text(tab, "said") == "1 to 60 of 79" and text(tab, "state") == "Running"
        screen = tab.screen()
        assert min(share_of(screen, colour) for colour in COLOURS) > 0.02
        # page by page
        tab.press("#next")
        ready(tab, 18)
        assert text(tab, "said") == "61 to 78 of 79" and tab.js("location.hash") == "#from=60"
        assert tab.js("document.getElementById('next').disabled")
        tab.press("#back")
        ready(tab, 60)
        # filters
        choose(tab, "text", "quiet")
        ready(tab, 3)
        assert tab.js(IDS) == ["r0", "r2", "r4"]
        choose(tab, "text", "")
        choose(tab, "prompt", "the land")
        ready(tab, 4)
        choose(tab, "prompt", "")
        choose(tab, "class", "1")
        ready(tab, 28)
        choose(tab, "text", "r1")
        ready(tab, 25)
        assert tab.js("location.hash") == "#text=r1&class=1"
        choose(tab, "text", "no such")
        tab.wait("!document.getElementById('empty').hidden")
        assert text(tab, "empty") == "No picture fits."
        choose(tab, "text", "r3")
        choose(tab, "class", "")
        ready(tab, 1)
        # the mask over it, and beside it
        tab.key("m")
        ready(tab, 1)
        cell = "document.querySelector('#sheet .view').getBoundingClientRect()"
        x, y, width, height = tab.js(
            f"(() => {{ const b = {cell}; return [b.x, b.y, b.width, b.height]; }})()"
        )
        middle = tab.screen()[int(y + height / 2)]
        left, right = middle[int(x + width / 4)].astype(int), middle[int(x + 3 * width / 4)].astype(int)
        mixed = [
            np.add(0.6 * np.array(top), 0.4 * np.array(COLOURS[0])) for top in ((16, 32, 48), (240, 224, 255))
        ]
        assert np.abs(left - mixed[0]).max() < 8 and np.abs(right - mixed[1]).max() < 8
        tab.js("document.querySelector('[value=beside]').click()")
        ready(tab, 1)
        assert tab.js("document.querySelectorAll('#sheet .view').length") == 2
        # one of them
        choose(tab, "text", "")
        ready(tab, 60)
        tab.js("document.activeElement.blur()")
        tab.key("ArrowRight")
        assert tab.js("document.activeElement === document.querySelectorAll('#sheet button')[0]")
        tab.key("ArrowRight")
        tab.key("ArrowLeft")
        tab.js("document.activeElement.click()")
        tab.wait("document.getElementById('one').open")
        facts = text(tab, "one-facts")
        for words in ("a quiet sea", "1152921504606846976", "64 × 48 pixels", "1.50"):
            assert words in facts
        tab.key("ArrowRight")
        assert text(tab, "one-title") == "the land"
        assert tab.js("document.getElementById('one-zoom').hidden")
        tab.key("ArrowRight", times=4)
        assert text(tab, "one-title") == HOSTILE
        assert not tab.js("document.getElementById('one-zoom').hidden") and "r9" not in text(tab, "one-facts")
        tab.key("Escape")
        tab.wait("document.activeElement.closest('li') === document.querySelectorAll('#sheet li')[5]")
        tab.js(
            "document.getElementById('missing').open = true; document.getElementById('missing-more').click()"
        )
        tab.wait("document.querySelectorAll('#missing-rows tr').length > 0")
        tab.js("new Promise((done) => setTimeout(done, 500))")
        assert (
            tab.js("document.querySelectorAll('#missing-rows tr').length") == 2
        )  # though they were asked for twice
        assert "numbers that are <none>" in text(tab, "missing-rows")
        assert tab.js("document.title") == "set: pictures"
        # a page of its own
        tab.js("document.querySelectorAll('#sheet button')[5].click()")
        tab.press("#one-zoom")
        tab.wait("window.hypermosaic?.image")
        tab.settle()
        assert share_of(tab.screen(), COLOURS[0]) > 0.5
        assert tab.js("document.querySelector('#all').getAttribute('href')") == "../../../"
        assert tab.complaints() == []


def test_it_follows_a_batch_that_grows(browser: Browser, tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set")
    with served(folder) as address, browser.open(address, (900, 700)) as tab:
        ready(tab, 7)
        assert "2 workers" in text(tab, "pace") and "9 of 12 requests" in text(tab, "counts")
        rows = [row(index, "the land", (1,)) for index in (6, 7, 9, 10, 11)]
        write(folder / "data" / "train-00001-of-00002.parquet", rows)
        shutil.rmtree(folder / "work" / "parts")
        told(folder, RowsDone(10, 1, 1, 2), JobFinished(9.0))
        (folder / "_SUCCESS").write_text("{}")
        tab.wait("document.querySelectorAll('#sheet li').length === 10")
        ready(tab, 10)
        assert text(tab, "state") == "Finished" and "10 pictures in 2 shards" in text(tab, "counts")
        assert tab.complaints() == []


def test_axe_finds_nothing_serious_in_either_theme(browser: Browser, tmp_path: Path, axe: str) -> None:
    folder = data_set(tmp_path / "set")
    ground = "getComputedStyle(document.body).backgroundColor"
    with (
        served(folder) as address,
        browser.open(address, (390, 844), media={"prefers-color-scheme": "dark"}) as tab,
    ):
        ready(tab, 7)
        assert tab.js("document.documentElement.scrollWidth") == 390
        dark = tab.js(ground)
        for scheme in ("dark", "light"):
            tab.media({"prefers-color-scheme": scheme})
            tab.wait(f"({ground} === '{dark}') === {str(scheme == 'dark').lower()}")
            tab.js("document.getElementById('missing').open = true")
            time.sleep(0.3)
            assert violations(tab, axe) == []
            tab.js("document.querySelector('#sheet button').click()")
            time.sleep(0.2)
            assert violations(tab, axe) == []
            tab.key("Escape")
