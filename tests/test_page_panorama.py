"""The page to look around in: what is written for it, and that WebGL shows it, from disk too."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chromium import Browser, Screen, Tab, needs_chromium
from numpy.typing import NDArray
from picture_folders import LAYOUT, QUARTERS, four_colours, job_folder, served, share_of
from PIL import Image

from storage.geometry import Box
from storage.pyramid import PyramidLayout
from viewer.panorama import LARGEST, panorama_level, write_panorama

DRIVER = "GL Driver Message"  # of the software renderer, when screens are taken


def written(folder: Path) -> tuple[dict[str, object], NDArray[np.uint8]]:
    script = (folder / "viewer" / "panorama.js").read_text()
    panorama = json.loads(script.removeprefix("window.hypermosaicPanorama = ").removesuffix(";\n"))
    with Image.open(io.BytesIO(base64.b64decode(panorama.pop("jpeg").partition(",")[2]))) as image:
        assert image.format == "JPEG"
        return panorama, np.asarray(image)


def test_a_small_picture_is_written_as_it_is(tmp_path: Path) -> None:
    pixels = four_colours()
    write_panorama(tmp_path, LAYOUT, lambda level, box: pixels[box.slices_in(LAYOUT.whole(level).box)])
    panorama, image = written(tmp_path)
    assert panorama == {"width": 700, "height": 350, "degrees": 180.0}
    assert (
        np.abs(image.astype(int) - pixels).max(axis=2) <= 6
    ).mean() > 0.97  # rings along the borders of fields


@pytest.mark.parametrize(
    ("width", "height", "level"),
    [(4096, 2048, 0), (4097, 100, 1), (100, 2049, 1), (8192, 4096, 1), (1_000_000, 500_000, 8), (1, 1, 0)],
)
def test_only_what_fits_into_a_texture_is_read(tmp_path: Path, width: int, height: int, level: int) -> None:
    layout = PyramidLayout(width, height)
    asked = []

    def read(level: int, box: Box) -> NDArray[np.uint8]:
        asked.append((level, box))
        return np.zeros((*box.shape, 3), np.uint8)

    assert panorama_level(layout) == level
    write_panorama(tmp_path, layout, read)
    assert [at for at, _ in asked] == [level]
    assert asked[0][1].height <= LARGEST[0] and asked[0][1].width <= LARGEST[1]


def test_a_flat_ring_covers_less_than_from_pole_to_pole(tmp_path: Path) -> None:
    write_panorama(
        tmp_path, PyramidLayout(4000, 1000), lambda level, box: np.zeros((*box.shape, 3), np.uint8)
    )
    assert written(tmp_path)[0]["degrees"] == 90


def shows(tab: Tab, wanted: Callable[[dict[str, float]], bool]) -> bool:
    """Whether the page comes to show such shares of the quarters' colours."""

    def holds(screen: Screen) -> bool:
        return wanted({name: share_of(screen, colour) for name, colour in QUARTERS.items()})

    return holds(tab.screen_when(holds))


@needs_chromium
@pytest.mark.browser
def test_looking_around(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", wraps_x=True, panorama=True)
    with browser.open((folder / "index.html").as_uri(), media={"prefers-reduced-motion": "reduce"}) as tab:
        tab.settle()
        tab.press("#around")
        tab.wait("window.hypermosaicAround")
        assert shows(
            tab, lambda seen: min(seen.values()) > 0.15
        )  # the middle of the picture is straight ahead
        tab.key("ArrowRight", times=8)  # to the east: the right half alone
        assert shows(tab, lambda seen: min(seen["ne"], seen["se"]) > 0.3 and seen["nw"] + seen["sw"] < 0.05)
        tab.drag((300, 500), (300, 100))  # down
        assert shows(tab, lambda seen: seen["se"] > 0.6 and seen["ne"] < 0.2)
        tab.press("#zoom-in")
        tab.wait("Math.abs(hypermosaicAround.shown.view - 95 * 0.8) < 1e-4")
        assert [line for line in tab.complaints() if DRIVER not in line] == []
        tab.key("Escape")
        tab.wait("window.hypermosaic?.image")


@needs_chromium
@pytest.mark.browser
def test_without_webgl_or_before_the_end_one_sentence_says_so(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", wraps_x=True, panorama=True)
    without = "HTMLCanvasElement.prototype.getContext = () => null;"
    notice = "document.getElementById('notice').innerText"
    with served(folder) as address, browser.open(f"{address}panorama.html", scripts=without) as tab:
        tab.wait(notice)
        assert (
            tab.js(notice) == "Looking around needs WebGL, which this browser or this machine does not offer."
        )
        assert tab.complaints() == []
    (folder / "viewer" / "panorama.js").unlink()
    with browser.open((folder / "panorama.html").as_uri()) as tab:
        tab.wait(notice)
        assert "when the picture is finished" in tab.js(notice)


@needs_chromium
@pytest.mark.browser
def test_other_pictures_offer_nothing_to_look_around_in(browser: Browser, tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job")
    assert not (folder / "panorama.html").exists() and not (folder / "viewer" / "pannellum.js").exists()
    with browser.open((folder / "index.html").as_uri()) as tab:
        tab.settle()
        tab.key("o")
        assert tab.js("document.getElementById('around').hidden") and tab.js("location.pathname").endswith(
            "index.html"
        )
