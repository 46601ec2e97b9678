"""Regions, previews, and tiles cut on demand: right pixels, limits told in one line, bounded memory, one decoding."""

from __future__ import annotations

import tracemalloc
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from starlette.testclient import TestClient

from storage.formats.contract import PyramidFormat
from storage.formats.deep_zoom import DeepZoom
from storage.formats.ome_zarr import OmeZarr, image_root
from storage.geometry import Box
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer import regions, tiles
from viewer.page import Page, write_page
from viewer.regions import LARGEST, PixelSource, RegionQuery, cut
from viewer.server import build_app
from viewer.tiles import Cache

LAYOUT = PyramidLayout(width=300, height=170, tile=32, superblock=128)


def noise() -> NDArray[np.uint8]:
    return np.random.default_rng(7).integers(0, 256, (170, 300, 3), np.uint8)


def picture(
    folder: Path, *, deep_zoom: bool = False, wraps_x: bool = False, only_first: bool = False
) -> Path:
    """A picture of noise; with `only_first`, as it is when one superblock of six is decoded."""
    formats: list[PyramidFormat] = [OmeZarr(folder, LAYOUT)]
    if deep_zoom:
        formats.append(DeepZoom(folder, LAYOUT, "png"))
    for output in formats:
        output.create()
    master, pixels = OmeZarr(folder, LAYOUT), noise()
    for group in range(LAYOUT.groups):
        for task in LAYOUT.tasks(group):
            place = LAYOUT.reads(task)
            whole = LAYOUT.whole(place.level).box
            read = master.read_level(place.level, place.box) if group else pixels[place.box.slices_in(whole)]
            write_superblock(formats, LAYOUT, task, read)
            if only_first:
                write_page(folder, Page("noise", LAYOUT, wraps_x, deep_zoom))
                return folder
    for output in formats:
        output.finish()
    write_page(folder, Page("noise", LAYOUT, wraps_x, deep_zoom))
    return folder


def client_of(folder: Path) -> TestClient:
    return TestClient(build_app(folder), base_url="http://127.0.0.1:8000")


def pixels_of(answer: Any) -> NDArray[np.uint8]:
    assert answer.status_code == 200, answer.text
    with Image.open(BytesIO(answer.content)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    return client_of(picture(tmp_path_factory.mktemp("plane")))


# --- regions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("box", [(0, 0, 300, 170), (17, 23, 101, 67), (299, 169, 1, 1), (31, 31, 2, 2)])
def test_a_region_is_the_pictures_own_pixels(client: TestClient, box: tuple[int, int, int, int]) -> None:
    x, y, w, h = box
    answer = client.get(f"/region.png?x={x}&y={y}&w={w}&h={h}")
    assert np.array_equal(pixels_of(answer), noise()[y : y + h, x : x + w])
    assert answer.headers["content-length"] == str(len(answer.content))
    assert answer.headers["content-type"] == "image/png"
    assert f"region-{x}-{y}-{w}x{h}.png" in answer.headers["content-disposition"]


def test_a_region_from_deep_zoom_tiles_alone(tmp_path: Path) -> None:
    import shutil

    folder = picture(tmp_path / "job", deep_zoom=True)
    shutil.rmtree(image_root(folder))
    answer = client_of(folder).get("/region.png?x=20&y=30&w=90&h=60")
    assert np.array_equal(pixels_of(answer), noise()[30:90, 20:110])


def test_a_region_in_strips_is_the_region_in_one(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "/region.png?x=10&y=11&w=251&h=149&scale=0.7"
    whole = pixels_of(client.get(address))
    monkeypatch.setattr(regions, "STRIP_PIXELS", 1)
    monkeypatch.setattr(regions, "LEAST_ROWS", 7)
    assert whole.shape == (104, 176, 3)
    assert int(np.abs(pixels_of(client.get(address)).astype(int) - whole).max()) <= 1


@pytest.mark.parametrize("scale", ["0.5", "0.25", "0.3", ".1", "0.004"])
def test_a_scaled_region_has_the_pictures_colours(client: TestClient, scale: str) -> None:
    pixels = pixels_of(client.get(f"/region.png?x=0&y=0&w=300&h=170&scale={scale}"))
    assert pixels.shape == (max(1, round(170 * float(scale))), max(1, round(300 * float(scale))), 3)
    linear_mean = np.mean(((noise() / 255 + 0.055) / 1.055) ** 2.4)
    assert np.mean(((pixels / 255 + 0.055) / 1.055) ** 2.4) == pytest.approx(linear_mean, abs=0.03)


def test_a_jpeg_region_is_near(client: TestClient) -> None:
    answer = client.get("/region.jpg?x=0&y=0&w=100&h=100")
    assert answer.headers["content-type"] == "image/jpeg"
    assert np.abs(pixels_of(answer).astype(int) - noise()[:100, :100]).mean() < 12


@pytest.mark.parametrize("x", [280, -20, 580])
def test_a_region_of_a_ring_goes_over_its_seam(tmp_path: Path, x: int) -> None:
    ring = client_of(picture(tmp_path / "job", wraps_x=True))
    wanted = np.roll(noise(), -280, axis=1)[40:80, :50]
    assert np.array_equal(pixels_of(ring.get(f"/region.png?x={x}&y=40&w=50&h=40")), wanted)
    assert ring.get("/region.png?x=0&y=0&w=301&h=1").status_code == 400


@pytest.mark.parametrize(
    ("query", "code", "words"),
    [
        ("", 400, "x is missing"),
        ("x=1&y=2&w=3", 400, "h is missing"),
        ("x=1.5&y=0&w=9&h=9", 400, "x '1.5' is not a whole number"),
        ("x=1&y=0&w=0&h=9", 400, "0 x 9 pixels is empty"),
        ("x=1&y=0&w=-5&h=9", 400, "empty"),
        ("x=-1&y=0&w=9&h=9", 400, "leave the picture of 300 x 170"),
        ("x=292&y=0&w=9&h=9", 400, "leave the picture"),
        ("x=0&y=0&w=9&h=171", 400, "leave the picture"),
        ("x=٣&y=0&w=9&h=9", 400, "not a whole number"),
        (f"x=0&y=0&w={'9' * 400}&h=9", 400, "not a whole number"),
        ("x=0&y=0&w=9&h=9&scale=0", 400, "scale '0' is not between"),
        ("x=0&y=0&w=9&h=9&scale=2", 400, "scale '2' is not between"),
        ("x=0&y=0&w=9&h=9&scale=nan", 400, "is not a number"),
        ("x=0&y=0&w=9&h=9&scale=.", 400, "is not a number"),
        ("x=0&y=0&w=9&h=9&scale=1e-3", 400, "is not a number"),
    ],
)
def test_a_wrong_region_is_told_in_one_line(client: TestClient, query: str, code: int, words: str) -> None:
    answer = client.get(f"/region.png?{query}")
    assert (answer.status_code, answer.headers["content-type"]) == (code, "text/plain; charset=utf-8")
    assert words in answer.text
    assert "\n" not in answer.text
    assert len(answer.text) < 300


def test_too_large_a_region_names_the_limit_and_the_way_out(client: TestClient, monkeypatch: Any) -> None:
    monkeypatch.setattr(regions, "LARGEST", 10_000)
    answer = client.get("/region.png?x=0&y=0&w=300&h=170")
    assert answer.status_code == 413
    assert "10,000" in answer.text
    assert "hypermosaic export" in answer.text
    scale = answer.text.partition("scale=")[2].partition(",")[0]
    assert client.get(f"/region.png?x=0&y=0&w=300&h=170&scale={scale}").status_code == 200


def test_no_command_that_export_refuses_is_named_on_a_ring(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(regions, "LARGEST", 1_000)
    ring = client_of(picture(tmp_path / "job", wraps_x=True))
    across = ring.get("/region.png?x=-20&y=0&w=200&h=100")
    assert (across.status_code, "hypermosaic export" in across.text) == (413, False)
    assert "either side of the seam" in across.text
    beside = ring.get("/region.png?x=-250&y=0&w=200&h=100")
    assert "--region 50,0,200,100" in beside.text


def test_unknown_kinds_are_not_there(client: TestClient) -> None:
    for kind in ("gif", "PNG", "png.exe", ""):
        assert client.get(f"/region.{kind}?x=0&y=0&w=9&h=9").status_code == 404


def test_what_is_not_drawn_yet_is_no_black_region(tmp_path: Path) -> None:
    client = client_of(picture(tmp_path / "job", only_first=True))
    assert np.array_equal(pixels_of(client.get("/region.png?x=0&y=0&w=128&h=128")), noise()[:128, :128])
    answer = client.get("/region.png?x=100&y=0&w=100&h=100")
    assert (answer.status_code, "not drawn yet" in answer.text) == (409, True)
    assert client.get("/region.png?x=0&y=0&w=300&h=170&scale=0.01").status_code == 409


def test_memory_is_that_of_the_answer_and_a_strip() -> None:
    """16 megapixels of a picture of 65,000 x 65,000 pixels that is made up where it is read."""
    layout = PyramidLayout(65_000, 65_000)

    def read(level: int, box: Box) -> NDArray[np.uint8]:
        return np.full((*box.shape, 3), level, np.uint8)

    source = PixelSource(layout, wraps_x=False, read=read, missing=lambda level, box: None)
    tracemalloc.start()
    try:
        image = cut(source, RegionQuery(0, 0, 65_000, 65_000, 0.063))
        peak = tracemalloc.get_traced_memory()[
            1
        ]  # NumPy's arrays are traced, Pillow's are four bytes a pixel
    finally:
        tracemalloc.stop()
    assert image.width * image.height <= LARGEST
    assert image.getpixel((77, 4000)) == (3, 3, 3)
    assert peak < 120 * 2**20


# --- tiles on demand -------------------------------------------------------------------------------------------------


def test_a_tile_that_is_not_written_yet_is_not_there(tmp_path: Path) -> None:
    client = client_of(picture(tmp_path / "job", only_first=True))
    full = LAYOUT.deep_levels - 1
    assert client.get(f"/tiles/{full}/3_3.jpg").status_code == 200
    assert client.get(f"/tiles/{full}/4_0.jpg").status_code == 204
    assert client.get("/tiles/0/0_0.jpg").status_code == 204


def _count(monkeypatch: pytest.MonkeyPatch, decoded: list[tuple[int, Box]]) -> None:
    """Note every level and box that tiles are read from."""
    reader_of = tiles.reader_of_master

    def counted(*told: Any) -> tiles.ReadLevel:
        read = reader_of(*told)

        def noted(level: int, box: Box) -> NDArray[np.uint8]:
            decoded.append((level, box))
            return read(level, box)

        return noted

    monkeypatch.setattr(tiles, "reader_of_master", counted)


def test_who_moves_over_the_picture_finds_the_next_tile_cut_and_nobody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, Box]] = []
    _count(monkeypatch, decoded)
    client = client_of(picture(tmp_path / "job"))

    def ask(column: int, row: int) -> int:
        """How many tiles have been read when this one was answered, and what comes after it was cut."""
        assert client.get(f"/tiles/{LAYOUT.deep_levels - 1}/{column}_{row}.jpg").status_code == 200
        return len(decoded)

    assert ask(0, 1) == 1  # nobody knows where to
    assert ask(2, 3) == 2  # a jump
    assert ask(1, 1) == 4  # to the right: (2, 1) is cut, too
    assert ask(2, 1) == 5  # it was there; (3, 1) is cut
    assert ask(2, 2) == 6  # downwards, and what comes after it is there
    assert len(set(decoded)) == len(decoded)


def test_a_tile_is_decoded_once_and_revalidated_without_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[tuple[int, Box]] = []
    _count(monkeypatch, decoded)
    folder = picture(tmp_path / "job")
    client = client_of(folder)
    address = f"/tiles/{LAYOUT.deep_levels - 1}/2_1.jpg"
    first, second = client.get(address), client.get(address)
    assert first.content == second.content
    assert len(decoded) == 1
    again = client.get(address, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert len(decoded) == 1


def test_a_tile_that_was_written_anew_is_served_anew(tmp_path: Path) -> None:
    folder = picture(tmp_path / "job")
    client = client_of(folder)
    address = f"/tiles/{LAYOUT.deep_levels - 1}/0_0.jpg"
    before = client.get(address)
    OmeZarr(folder, LAYOUT).write_level(0, Box(0, 128, 0, 128), np.full((128, 128, 3), 200, np.uint8))
    after = client.get(address, headers={"If-None-Match": before.headers["etag"]})
    assert after.status_code == 200
    assert abs(int(pixels_of(after)[16, 16, 0]) - 200) <= 2


def test_a_damaged_master_is_told_in_one_line(tmp_path: Path) -> None:
    folder = picture(tmp_path / "job")
    for shard in (image_root(folder) / "0" / "c").rglob("*"):
        if shard.is_file():
            shard.write_bytes(b"not a shard at all" * 20)
    answer = client_of(folder).get(f"/tiles/{LAYOUT.deep_levels - 1}/0_0.jpg")
    assert answer.status_code == 500
    assert answer.text.startswith("the image cannot be read: ")
    assert "\n" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_cache_is_bounded_and_forgets_what_was_not_used() -> None:
    cache = Cache(limit=100)
    for name in ("a", "b", "c"):
        cache.put(name, bytes(30))
    assert cache.get("a") is not None
    cache.put("d", bytes(30))
    assert [name for name in "abcd" if cache.get(name) is not None] == ["a", "c", "d"]
    cache.put("a", bytes(10))
    assert cache.bytes == 70
    cache.put("large", bytes(101))
    assert cache.bytes <= 100
    assert cache.get("large") is None


def test_the_thumbnail_is_the_whole_picture(client: TestClient) -> None:
    answer = client.get("/thumbnail.jpg")
    assert pixels_of(answer).shape == (170, 300, 3)
    again = client.get("/thumbnail.jpg", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


def test_without_a_job_there_is_no_status_and_no_preview(client: TestClient) -> None:
    assert client.get("/api/status.json").status_code == 404
    assert client.get("/preview.png").status_code == 404
