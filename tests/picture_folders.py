"""Small finished pictures with their pages, for tests that look at them: four fields of colour, and a class map.

+-----+-----+
| nw  | ne  |     700 x 350 pixels
+-----+-----+     classes: the left third is "sea", the rest "land"
| sw  | se  |
+-----+-----+
"""

from __future__ import annotations

import base64
import functools
import io
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from opened_formats import open_formats
from PIL import Image

from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.page import Page, write_page
from viewer.panorama import write_panorama

LAYOUT = PyramidLayout(width=700, height=350, tile=64, superblock=256)
QUARTERS = {"nw": (208, 64, 48), "ne": (64, 160, 80), "sw": (56, 88, 200), "se": (224, 192, 72)}
CLASSES = (("sea", "#102030"), ("land", "#f0e0ff"))
COLOURS = {"sea": (0x10, 0x20, 0x30), "land": (0xF0, 0xE0, 0xFF)}
ABOUT = {
    "prompt": "four fields, <seen> from above",
    "seed": 7,
    "model": "embedded",
    "scheduler": "DDIMScheduler",
    "steps": 12,
    "guidanceScale": 1.5,
    "method": "hann",
    "topology": "plane",
    "fingerprint": "0123456789abcdef",
    "version": "0.1.0",
}


def four_colours() -> NDArray[np.uint8]:
    pixels = np.empty((LAYOUT.height, LAYOUT.width, 3), np.uint8)
    y, x = LAYOUT.height // 2, LAYOUT.width // 2
    pixels[:y, :x], pixels[:y, x:] = QUARTERS["nw"], QUARTERS["ne"]
    pixels[y:, :x], pixels[y:, x:] = QUARTERS["sw"], QUARTERS["se"]
    return pixels


def job_folder(
    folder: Path,
    names: tuple[str, ...] = ("ome-zarr", "deep-zoom"),
    *,
    deep_zoom: bool = True,
    wraps_x: bool = False,
    classes: bool = False,
    panorama: bool = False,
    **about: str,
) -> Path:
    master, formats, pixels = (
        OmeZarr(folder, LAYOUT),
        open_formats(list(names), folder, LAYOUT),
        four_colours(),
    )
    for output in formats:
        output.create()
    for group in range(LAYOUT.groups):
        for task in LAYOUT.tasks(group):
            start = LAYOUT.reads(task)
            whole = LAYOUT.whole(start.level).box
            read = master.read_level(start.level, start.box) if group else pixels[start.box.slices_in(whole)]
            write_superblock(formats, LAYOUT, task, read)
    page = Page(
        ABOUT["prompt"],
        LAYOUT,
        wraps_x,
        deep_zoom,
        "jpg",
        {**ABOUT, **about},
        CLASSES if classes else (),
        panorama,
    )
    write_page(folder, page)
    if classes:
        write_classes(folder)
    if panorama:
        write_panorama(folder, LAYOUT, master.read_level)
    return folder


def write_classes(folder: Path) -> None:
    """viewer/classes.js of 60 x 30 pixels, a palette image whose left third is class 0."""
    ids = np.ones((30, 60), np.uint8)
    ids[:, :20] = 0
    image = Image.fromarray(ids, "P")
    image.putpalette([*COLOURS["sea"], *COLOURS["land"]])
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    address = "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode()
    layer = json.dumps({"width": 60, "height": 30, "png": address})
    (folder / "viewer" / "classes.js").write_text(f"window.hypermosaicClasses = {layer};\n")


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Our server in its own process, as the command line starts it."""
    script = (
        "import sys; from pathlib import Path; from viewer.server import serve\n"
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


@contextmanager
def plainly_hosted(folder: Path) -> Iterator[str]:
    """Any web host: files and nothing else."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


def share_of(screen: NDArray[np.uint8], colour: tuple[int, int, int]) -> float:
    """The fraction of the screen within JPEG's reach of a colour."""
    return float((np.abs(screen.astype(int) - colour).max(axis=2) <= 6).mean())
