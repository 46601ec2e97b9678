"""The server for one job folder: what it shows, what it refuses, and the page it shows it in."""

from __future__ import annotations

import json
import re
from html import unescape
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from storage.formats.contract import PyramidFormat
from storage.formats.deep_zoom import DeepZoom
from storage.formats.ome_zarr import OmeZarr
from storage.pyramid import PyramidLayout
from storage.pyramid_writing import write_superblock
from viewer.page import Page, size_in_words, write_page
from viewer.pages import description_of
from viewer.server import build_app

LAYOUT = PyramidLayout(width=100, height=40, tile=16, superblock=128)
SECRET = "nobody may read this"


def job_folder(folder: Path, *, deep_zoom: bool, title: str = "a harbour") -> Path:
    """A finished job, with things beside the picture that are not for showing."""
    formats: list[PyramidFormat] = [OmeZarr(folder, LAYOUT)]
    if deep_zoom:
        formats.append(DeepZoom(folder, LAYOUT))
    pixels = np.full((40, 100, 3), (200, 120, 40), np.uint8)
    for output in formats:
        output.create()
    write_superblock(formats, LAYOUT, LAYOUT.task(0, 0), pixels)
    for output in formats:
        output.finish()
    write_page(folder, Page(title, LAYOUT, deep_zoom=deep_zoom))
    (folder / "spec.yaml").write_text(SECRET)
    return folder


def client_of(folder: Path) -> TestClient:
    return TestClient(build_app(folder), base_url="http://127.0.0.1:8000")


@pytest.fixture(scope="module")
def tiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_folder(tmp_path_factory.mktemp("tiled"), deep_zoom=True)


@pytest.fixture(scope="module")
def master_only(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return job_folder(tmp_path_factory.mktemp("master"), deep_zoom=False)


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/index.html", "text/html; charset=utf-8"),
        ("/viewer/page.js", "text/javascript; charset=utf-8"),
        ("/viewer/page.css", "text/css; charset=utf-8"),
        ("/viewer/openseadragon.min.js", "text/javascript; charset=utf-8"),
        ("/viewer/openseadragon.LICENSE.txt", "text/plain; charset=utf-8"),
        ("/image_files/7/6_2.jpg", "image/jpeg"),
        ("/tiles/7/6_2.jpg", "image/jpeg"),
    ],
)
def test_what_the_page_needs_is_there(tiled: Path, path: str, media_type: str) -> None:
    client = client_of(tiled)
    answer = client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, media_type)
    head = client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(answer.content))


@pytest.mark.parametrize(
    "path",
    [
        "/spec.yaml",
        "/image.zarr/zarr.json",
        "/viewer",
        "/viewer/",
        "/image_files/",
        "/image_files/7",
        "/viewer/../spec.yaml",
        "/viewer/%2e%2e/spec.yaml",
        "/viewer/..%2fspec.yaml",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/viewer/%00",
        "/image_files/7/7_0.jpg",
        "/tiles/8/0_0.jpg",
        "/tiles/7/7_0.jpg",
        "/tiles/7/0_3.jpg",
        "/tiles/-1/0_0.jpg",
        "/tiles/7/-1_0.jpg",
        "/tiles/7/0_0.png",
        "/tiles/7/0_0xjpg",
    ],
)
def test_what_is_not_there(tiled: Path, path: str) -> None:
    answer = client_of(tiled).get(path, follow_redirects=False)
    assert answer.status_code == 404
    assert SECRET not in answer.text


def test_links_out_of_the_visible_files_lead_nowhere(tmp_path: Path) -> None:
    """Each is shown where it lies in the folder, and not where a link to it does."""
    folder, finest = tmp_path / "job", LAYOUT.deep_levels - 1
    folder.mkdir()
    job_folder(folder, deep_zoom=True)
    drawn = '{"width": 9, "height": 9, "png": "data:image/png;base64,AAAA"}'
    (folder / "viewer" / "classes.js").write_text(f"window.hypermosaicClasses = {drawn};\n")
    around = '{"width": 9, "height": 9, "degrees": 90, "jpeg": "data:image/jpeg;base64,AAAA"}'
    (folder / "viewer" / "panorama.js").write_text(f"window.hypermosaicPanorama = {around};\n")
    parts = {
        "viewer/classes.js": "/viewer/classes.js",
        "viewer/panorama.js": "/viewer/panorama.js",
        f"image_files/{finest}/0_0.jpg": f"/image_files/{finest}/0_0.jpg",
        f"image_files/{finest}": f"/image_files/{finest}/1_1.jpg",
        "image.dzi": "/image.dzi",
        "image.zarr/0/c/0/0/0": f"/tiles/{finest}/0_0.jpg",
        "index.html": "/",
    }
    for part, address in parts.items():
        client = client_of(folder)
        seen = client.get(address)
        assert seen.status_code == 200 and "has not begun" not in seen.text
        elsewhere = tmp_path / part.replace("/", "-")
        (folder / part).rename(elsewhere)
        (folder / part).symlink_to(elsewhere)
        answer = client.get(address)
        assert answer.status_code in (404, 204) or "has not begun" in answer.text, part
        assert answer.content != seen.content
        (folder / part).unlink()
        elsewhere.rename(folder / part)


def test_every_answer_is_guarded(tiled: Path) -> None:
    client = client_of(tiled)
    for path in ("/", "/spec.yaml", "/tiles/7/0_0.jpg", "/" + "9" * 5000):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "script-src 'self';" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers
    assert client.get("/tiles/1/" + "9" * 5000 + "_1.jpg").status_code == 414
    assert client.get("/", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:1"}).status_code == 200
    assert client.post("/").status_code == 405
    assert client.post("/tiles/7/0_0.jpg").status_code == 405


def test_ranges_and_revalidation(tiled: Path) -> None:
    client = client_of(tiled)
    whole = client.get("/viewer/openseadragon.min.js")
    part = client.get("/viewer/openseadragon.min.js", headers={"Range": "bytes=2-6"})
    assert (part.status_code, part.content) == (206, whole.content[2:7])
    again = client.get("/viewer/openseadragon.min.js", headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_tiles_cut_out_of_the_master_are_those_that_deep_zoom_holds(tiled: Path, master_only: Path) -> None:
    client = client_of(master_only)
    assert client.get("/image.dzi").status_code == 404
    for level in range(LAYOUT.deep_levels):
        for file in (tiled / "image_files" / str(level)).iterdir():
            answer = client.get(f"/tiles/{level}/{file.name}")
            assert answer.content == file.read_bytes()
    with Image.open(BytesIO(client.get("/tiles/7/6_2.jpg").content)) as corner:
        assert corner.size == (4, 8)


def test_a_folder_without_a_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no index"):
        build_app(tmp_path)


def test_a_folder_without_a_master_has_no_tiles_to_cut(tmp_path: Path) -> None:
    write_page(tmp_path, Page("nothing yet", LAYOUT))
    assert client_of(tmp_path).get("/tiles/0/0_0.jpg").status_code == 404


def test_the_page_describes_its_picture(tmp_path: Path) -> None:
    write_page(tmp_path, Page("a harbour", LAYOUT, wraps_x=True))
    told = description_of(tmp_path)
    assert (told["title"], told["width"], told["height"], told["wrapsX"]) == ("a harbour", 100, 40, True)
    assert (told["tile"], told["maxLevel"], told["tiles"], told["encoding"]) == (16, 7, "image_files/", "jpg")


@pytest.mark.parametrize(
    "title", ["</script><script>alert(1)</script>", '"quoted" & <b>bold</b>', "$title ${x}", "日本"]
)
def test_a_prompt_is_only_ever_text(title: str, tmp_path: Path) -> None:
    harmless = Page("a harbour", LAYOUT, wraps_x=True).html()
    html = write_page(tmp_path, Page(title, LAYOUT, wraps_x=True)).read_text(encoding="utf-8")
    for tag in ("<script", "<b>", "<a ", "<img"):
        assert html.count(tag) == harmless.count(tag)
    heading = re.search(r"<h1[^>]*>(.*?)</h1>", html)
    assert heading is not None
    assert unescape(heading.group(1)) == title
    described = re.search(r'id="description">(.*?)</script>', html)
    assert described is not None
    assert json.loads(described.group(1))["title"] == title


def test_the_folder_stands_alone(tiled: Path) -> None:
    html = (tiled / "index.html").read_text()
    for reference in re.findall(r'<(?:script|link)[^>]+(?:src|href)="([^"]+)"', html):
        assert reference == "data:," or (tiled / reference).is_file()


def test_sizes_read_well() -> None:
    assert size_in_words(98_304, 49_152) == "98,304 × 49,152 pixels · 4,832 megapixels"
    assert size_in_words(8192, 4096) == "8,192 × 4,096 pixels · 33.6 megapixels"
    assert size_in_words(40, 30) == "40 × 30 pixels · 0.001 megapixels"
