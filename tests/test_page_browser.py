"""The page in a real browser, from disk and from the server: the picture's colours are on the screen.

Skipped, with the reason, where no Chromium is installed (Debian: apt-get install chromium).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from storage.formats.contract import FORMATS, open_formats
from storage.formats.ome_zarr import OmeZarr
from storage.formats.page import Page, write_page
from storage.pyramid import PyramidLayout, write_superblock

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason="no chromium on this machine; apt-get install chromium"
)

LAYOUT = PyramidLayout(width=700, height=350, tile=64, superblock=256)
QUARTERS = {"nw": (208, 64, 48), "ne": (64, 160, 80), "sw": (56, 88, 200), "se": (224, 192, 72)}
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
    "--window-size=1000,640",
    "--virtual-time-budget=12000",
]


def four_colours() -> NDArray[np.uint8]:
    pixels = np.empty((LAYOUT.height, LAYOUT.width, 3), np.uint8)
    y, x = LAYOUT.height // 2, LAYOUT.width // 2
    pixels[:y, :x], pixels[:y, x:] = QUARTERS["nw"], QUARTERS["ne"]
    pixels[y:, :x], pixels[y:, x:] = QUARTERS["sw"], QUARTERS["se"]
    return pixels


def job_folder(folder: Path, names: list[str], *, deep_zoom: bool = True, wraps_x: bool = False) -> Path:
    master, formats, pixels = OmeZarr(folder, LAYOUT), open_formats(names, folder, LAYOUT), four_colours()
    for output in formats:
        output.create()
    for group in range(LAYOUT.groups):
        for task in LAYOUT.tasks(group):
            start = LAYOUT.reads(task)
            whole = LAYOUT.whole(start.level).box
            read = master.read_level(start.level, start.box) if group else pixels[start.box.slices_in(whole)]
            write_superblock(formats, LAYOUT, task, read)
    write_page(folder, Page("four fields, <seen> from above", LAYOUT, wraps_x, deep_zoom))
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A server in its own process, as the command line starts it."""
    script = (
        "import sys; from pathlib import Path; from storage.viewer.server import serve\n"
        "serve(Path(sys.argv[1]), 0, lambda address: print(address, flush=True))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def screenshot(address: str, scratch: Path, *flags: str) -> NDArray[np.uint8]:
    """What the browser shows, and no complaint of the page on its console."""
    assert BROWSER is not None
    shot = scratch / "shot.png"
    places = [f"--user-data-dir={scratch / 'profile'}", f"--screenshot={shot}", "--enable-logging=stderr"]
    run = subprocess.run(
        [BROWSER, *FLAGS, *places, *flags, address], check=True, capture_output=True, text=True, timeout=120
    )
    complaints = [line for line in run.stderr.splitlines() if "CONSOLE" in line]
    assert not complaints, complaints
    with Image.open(shot) as image:
        return np.asarray(image.convert("RGB"))


def share_of(screen: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """The fraction of the screen within JPEG's reach of a colour."""
    return float((np.abs(screen.astype(int) - colour).max(axis=2) <= 6).mean())


def assert_shows_the_picture(screen: NDArray[np.uint8]) -> None:
    shares = {name: share_of(screen, colour) for name, colour in QUARTERS.items()}
    assert min(shares.values()) > 0.1, shares
    height, width, _ = screen.shape
    centre = screen[height // 2 - 40 : height // 2 + 40, width // 2 - 40 : width // 2 + 40]
    for name, corner in {"nw": centre[:30, :30], "ne": centre[:30, 50:], "sw": centre[50:, :30]}.items():
        assert share_of(corner, QUARTERS[name]) > 0.9


def test_a_folder_opens_by_double_click(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", list(FORMATS))
    assert_shows_the_picture(screenshot((folder / "index.html").as_uri(), tmp_path))


def test_the_server_shows_deep_zoom_tiles_under_its_content_policy(tmp_path: Path) -> None:
    with served(job_folder(tmp_path / "job", list(FORMATS))) as address:
        assert_shows_the_picture(screenshot(address, tmp_path))


def test_the_server_shows_a_master_without_deep_zoom(tmp_path: Path) -> None:
    with served(job_folder(tmp_path / "job", ["ome-zarr"], deep_zoom=False)) as address:
        assert_shows_the_picture(screenshot(address, tmp_path))


def test_a_ring_goes_on_beyond_its_right_edge(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", list(FORMATS), wraps_x=True)
    screen = screenshot((folder / "index.html").as_uri(), tmp_path, "--window-size=1600,420")
    for edge in (screen[290:310, :20], screen[290:310, -20:]):
        assert max(share_of(edge, QUARTERS["sw"]), share_of(edge, QUARTERS["se"])) > 0.9


def test_keys_zoom_move_and_explain(tmp_path: Path) -> None:
    """A script beside the page presses keys, and writes what it saw into the title."""
    folder = job_folder(tmp_path / "job", list(FORMATS))
    (folder / "probe.js").write_text(
        """
        const press = (key) => document.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
        const viewer = OpenSeadragon.getViewer("picture"), view = viewer.viewport;
        const scale = () => Math.round(100 * viewer.world.getItemAt(0).viewportToImageZoom(view.getZoom()));
        const wait = () => new Promise((done) => setTimeout(done, 1500));
        (async () => {
          await wait();
          const seen = [];
          for (const key of ["1", "+", "ArrowLeft", "0", "?"]) { press(key); await wait(); seen.push(scale()); }
          seen.push(document.getElementById("help").open);
          document.title = seen.join(" ");
        })();
        """
    )
    page = folder / "index.html"
    page.write_text(page.read_text().replace("</body>", '<script src="probe.js"></script></body>'))
    assert BROWSER is not None
    command = [
        BROWSER,
        *FLAGS,
        "--window-size=500,400",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--dump-dom",
        page.as_uri(),
    ]
    dumped = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = dumped.partition("<title>")[2].partition("</title>")[0].split()
    assert title[:3] == ["100", "160", "160"]
    assert title[3] not in ("100", "160")
    assert title[4:] == [title[3], "true"]


def test_from_disk_a_master_alone_says_how_to_look_at_it(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", ["ome-zarr"], deep_zoom=False)
    screen = screenshot((folder / "index.html").as_uri(), tmp_path)
    assert max(share_of(screen, colour) for colour in QUARTERS.values()) < 0.01
    assert screen.std() > 1  # the notice
