"""What regions and thumbnails may cost, and what they may not be read from: slow readers, forged tiles, links."""

from __future__ import annotations

import shutil
import struct
import time
import zlib
from pathlib import Path

import pytest
from PIL.PngImagePlugin import PngImageFile
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient
from test_view_server_regions import LAYOUT, client_of, picture

from storage.formats.ome_zarr import image_root
from viewer.server import Workshop, routes_of
from viewer.shelf import Shelf
from viewer.told import NothingTold


def test_regions_that_wait_on_disk_are_counted_until_they_are_gone(tmp_path: Path) -> None:
    shelf, file = Shelf(limit=60), (tmp_path / "file").open("wb+")
    file.write(bytes(60))
    shelf.check_room()
    assert (shelf.put(file), file.tell(), shelf.held) == (60, 0, 60)
    with pytest.raises(HTTPException) as refused:
        shelf.check_room()
    assert (refused.value.status_code, (refused.value.headers or {})["Retry-After"]) == (503, "5")
    file.close()
    del file
    assert shelf.held == 0
    shelf.check_room()


def test_a_full_shelf_refuses_regions_and_nothing_else(tmp_path: Path) -> None:
    folder, shelf = picture(tmp_path / "job"), Shelf(limit=10)
    client = TestClient(
        Starlette(routes=routes_of(folder, Workshop(NothingTold(), shelf=shelf))),
        base_url="http://127.0.0.1:8000",
    )
    address = "/region.png?x=0&y=0&w=99&h=99"
    assert client.get(address).status_code == 200
    until = time.monotonic() + 20
    while shelf.held and time.monotonic() < until:  # it was read to the end, and is taken down in a moment
        time.sleep(0.01)
    assert shelf.held == 0
    shelf.held = 10
    assert client.get(address).status_code == 503
    assert client.get("/thumbnail.jpg").status_code == 200


def forged_png(width: int, height: int) -> bytes:
    """A PNG that says it is that large, and is a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [9_000, 40_000])
def test_a_tile_of_another_size_is_told_and_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int
) -> None:
    folder = picture(tmp_path / "job", deep_zoom=True)
    shutil.rmtree(image_root(folder))
    (folder / "image_files" / str(LAYOUT.deep_levels - 1) / "0_0.png").write_bytes(forged_png(side, side))
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    answer = client_of(folder).get("/region.png?x=0&y=0&w=20&h=20")
    assert (answer.status_code, "0_0.png is" in answer.text, "Error" in answer.text) == (500, True, False)


# --- links -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["0", "0/c", "0/c/0/0/0", "0/zarr.json"])
def test_a_master_whose_parts_are_links_elsewhere_is_not_cut(tmp_path: Path, link: str) -> None:
    folder = picture(tmp_path / "job")
    secret = image_root(folder) / link
    secret.rename(tmp_path / "elsewhere")
    secret.symlink_to(tmp_path / "elsewhere")
    client = client_of(folder)
    answer = client.get("/region.png?x=0&y=0&w=99&h=99")
    assert (answer.status_code, "a link leads out" in answer.text) == (404, True)
    if link != "0/zarr.json":  # which holds no pixel
        assert client.get(f"/tiles/{LAYOUT.deep_levels - 1}/0_0.jpg").status_code == 204
    assert client.get("/region.png?x=0&y=0&w=300&h=170&scale=0.25").status_code == 200  # of another level


@pytest.mark.parametrize("link", ["image_files", "image.dzi", "image_files/9", "image_files/9/0_0.png"])
def test_tiles_that_are_links_elsewhere_are_not_cut(tmp_path: Path, link: str) -> None:
    folder = picture(tmp_path / "job", deep_zoom=True)
    shutil.rmtree(image_root(folder))
    (folder / link).rename(tmp_path / "elsewhere")
    (folder / link).symlink_to(tmp_path / "elsewhere")
    client = client_of(folder)
    answer = client.get("/region.png?x=0&y=0&w=20&h=20")
    assert (answer.status_code, "a link leads out" in answer.text) == (404, True)
    assert (
        client.get("/image_files/9/0_0.png").status_code == (204 if link == "image.dzi" else 404)
        or link == "image.dzi"
    )


def test_a_thumbnail_follows_no_link_either(tmp_path: Path) -> None:
    folder = picture(tmp_path / "job")
    level = image_root(folder) / "0"
    shutil.move(level, tmp_path / "level")
    level.symlink_to(tmp_path / "level")
    assert client_of(folder).get("/thumbnail.jpg").status_code == 404
    tiled = picture(tmp_path / "tiled", deep_zoom=True)
    shutil.rmtree(image_root(tiled))
    shutil.move(tiled / "image_files" / "9" / "3_2.png", tmp_path / "tile.png")
    (tiled / "image_files" / "9" / "3_2.png").symlink_to(tmp_path / "tile.png")
    assert client_of(tiled).get("/thumbnail.jpg").status_code == 404
