"""The gallery's cards, what the page of a running job is told, the command `view`: from folders that grow."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from growing_job import BLOCKS, COARSE, FINE, STEPS, GrowingJob, damaged
from PIL import Image
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cluster.commands.app import app as command_line
from cluster.following.events import JobFailed, JobFinished, JobInterrupted
from cluster.following.status import Follower
from cluster.viewing import JobTeller, check_shown, find_jobs, viewer_of
from viewer.gallery import Registry
from viewer.page import Page, write_page


def client_of(folder: Path) -> TestClient:
    return TestClient(viewer_of(folder), base_url="http://127.0.0.1:8000")


def told(client: TestClient) -> dict[str, Any]:
    answer = client.get("/api/status.json")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    found: dict[str, Any] = answer.json()
    return found


# --- one job ---------------------------------------------------------------------------------------------------------


def test_what_a_page_is_told_while_its_job_grows(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    client = client_of(job.folder)
    begun = told(client)
    assert (begun["state"], begun["share"], begun["tilesVersion"], begun["previewVersion"]) == (
        "running",
        0,
        0,
        None,
    )
    job.done(0, *range(BLOCKS))
    job.done(1, 2, 3)
    job.preview(0, 1)
    under_way = told(client)
    assert under_way["blocks"] == {
        "rows": 2, "columns": 4, "block": 16, "heightLatents": 32, "widthLatents": 64, "stages": STEPS,
        "done": [1, 1, 2, 2, 1, 1, 1, 1],
    }  # fmt: skip
    assert under_way["groups"][0] == {"name": "denoise", "done": 10, "total": 24}
    assert (under_way["workers"], under_way["retried"], under_way["error"]) == (2, 0, None)
    assert (under_way["previewVersion"], under_way["next"]) == (1, None)
    job.paint(0, 0)
    drawing = told(client)
    assert drawing["tilesVersion"] == 1
    for group, index in ((0, 1), (1, 0)):
        job.paint(group, index)
    for stage in (1, 2):
        job.done(stage, *(block for block in range(BLOCKS) if stage == 2 or block not in (2, 3)))
    job.finish()
    finished = told(client)
    assert (finished["state"], finished["share"], finished["previewVersion"]) == ("finished", 1.0, None)
    assert finished["tilesVersion"] > drawing["tilesVersion"]
    assert finished["blocks"]["done"] == [STEPS] * BLOCKS


def test_a_status_that_has_not_changed_is_not_sent_again(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    client = client_of(job.folder)
    etag = client.get("/api/status.json").headers["etag"]
    assert client.get("/api/status.json", headers={"If-None-Match": etag}).status_code == 304
    job.done(0, 0)
    assert client.get("/api/status.json", headers={"If-None-Match": etag}).status_code == 200


def test_the_preview_is_the_newest(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    client = client_of(job.folder)
    assert client.get("/preview.png").status_code == 404
    job.preview(0, 1)
    first = client.get("/preview.png")
    with Image.open(BytesIO(first.content)) as image:
        assert (image.size, image.getpixel((10, 10))) == ((256, 128), COARSE)
        assert image.getpixel((100, 10)) != COARSE
    job.preview(1, 1)
    second = client.get("/preview.png", headers={"If-None-Match": first.headers["etag"]})
    with Image.open(BytesIO(second.content)) as image:
        assert image.getpixel((100, 10)) == COARSE


@pytest.mark.parametrize(
    ("end", "state", "error"),
    [
        (JobFailed("OSError: no space\nleft"), "failed", "OSError: no space\nleft"),
        (JobInterrupted(), "interrupted", None),
    ],
)
def test_a_job_that_stopped_says_what_to_do(tmp_path: Path, end: Any, state: str, error: str | None) -> None:
    job = GrowingJob(tmp_path / "my job")
    job.tell(end)
    status = told(client_of(job.folder))
    assert (status["state"], status["error"], status["secondsLeft"]) == (state, error, None)
    assert status["next"] == f"hypermosaic resume '{job.folder}'"


def test_a_job_before_its_page_has_a_page_that_waits(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    html = (job.folder / "index.html").read_bytes()
    (job.folder / "index.html").unlink()
    client = client_of(job.folder)
    waiting = client.get("/").text
    assert "has not begun" in waiting and "http-equiv" not in waiting
    for name in ("waiting.css", "waiting.js", "theme.js"):
        assert f"viewer/{name}" in waiting and client.get(f"/viewer/{name}").status_code == 200
    (job.folder / "index.html").write_bytes(html)
    assert "has not begun" not in client.get("/").text


def test_a_page_without_its_job_is_shown_without_a_status(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "job")
    write_page(tmp_path / "site" / "picture", Page("a harbour", job.layout))
    client = client_of(tmp_path / "site" / "picture")
    assert client.get("/").status_code == 200
    assert client.get("/api/status.json").status_code == 404
    assert "a harbour" in client_of(tmp_path / "site").get("/").text


# --- several jobs ----------------------------------------------------------------------------------------------------


def cards_of(client: TestClient) -> list[str]:
    return re.findall("<li .*?</li>", client.get("/cards.html").text, re.DOTALL)


def test_a_card_for_every_job_the_newest_first(tmp_path: Path) -> None:

    for age, name in ((300, "old"), (100, "deep/er"), (200, "middle")):
        job = GrowingJob(tmp_path / name, name)
        job.tell(JobInterrupted())
        for path in job.folder.iterdir():
            os.utime(path, (1e9 - age, 1e9 - age))
    damaged(tmp_path / "broken")
    GrowingJob(tmp_path / "much" / "too" / "deep")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    (tmp_path / "empty").mkdir()
    cards = cards_of(client_of(tmp_path))
    assert [re.findall("<h2>(.*?)</h2>", card)[0] for card in cards] == ["broken", "deep/er", "middle", "old"]
    assert "format_version 99" in cards[0]
    assert "<a " not in cards[0]
    assert "interrupted at 0 %" in cards[1]
    assert "512 × 256 · 0.131 megapixels" in cards[1]
    assert "seed 7 · embedded" in cards[1]


def test_cards_follow_their_jobs(tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "one", "islands & <sea>")
    client = client_of(tmp_path)
    before = client.get("/cards.html")
    assert "islands &amp; &lt;sea&gt;" in before.text
    assert "running, 0 %" in before.text
    assert "<img" not in before.text
    job.done(0, *range(BLOCKS))
    job.preview(0, 1)
    after = client.get("/cards.html", headers={"If-None-Match": before.headers["etag"]})
    assert "running, 29 %" in after.text
    thumbnail = re.findall('src="(.*?)"', after.text)[0]
    with Image.open(BytesIO(client.get(f"/{thumbnail}").content)) as image:
        assert np.abs(np.subtract(image.convert("RGB").getpixel((10, 10)), COARSE)).max() < 12
    for group, index in ((0, 0), (0, 1), (1, 0)):
        job.paint(group, index)
    job.finish()
    finished = client.get("/cards.html").text
    assert ">finished<" in finished
    drawn = re.findall('src="(.*?)"', finished)[0]
    assert drawn != thumbnail
    with Image.open(BytesIO(client.get(f"/{drawn}").content)) as image:
        assert np.abs(np.subtract(image.convert("RGB").getpixel((10, 10)), FINE)).max() < 6
    same = client.get("/cards.html")
    assert client.get("/cards.html", headers={"If-None-Match": same.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("gone", [["image.zarr", "image_files"], ["image.zarr", "image_files", "image.dzi"]])
def test_a_finished_job_without_its_picture_says_so(gone: list[str], tmp_path: Path) -> None:
    job = GrowingJob(tmp_path / "one")
    for group, index in ((0, 0), (0, 1), (1, 0)):
        job.paint(group, index)
    job.finish()
    client = client_of(tmp_path)
    assert "<img" in client.get("/cards.html").text
    for name in gone:
        path = job.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    card = client.get("/cards.html").text
    assert "<img" not in card and ">finished; nothing to show<" in card


def test_jobs_come_and_go_without_a_restart(tmp_path: Path) -> None:
    clock = [0.0]
    registry = Registry(tmp_path, lambda: find_jobs(tmp_path), lambda: clock[0])
    GrowingJob(tmp_path / "one")
    (first,) = registry.folders()
    GrowingJob(tmp_path / "two")
    assert list(registry.folders()) == [first]  # looked a moment ago
    clock[0] += 1.0
    assert len(registry.folders()) == 2
    assert registry.folders()[first] == tmp_path / "one"
    shutil.rmtree(tmp_path / "one")
    clock[0] += 1.0
    assert first not in registry.folders()
    again = Registry(tmp_path, lambda: find_jobs(tmp_path))
    assert list(again.folders()) == list(registry.folders())  # ids outlive the server


def test_a_job_of_a_gallery_leads_back_to_it(tmp_path: Path) -> None:
    GrowingJob(tmp_path / "one")
    client = client_of(tmp_path)
    (address,) = re.findall('href="(jobs/.*?/)"', client.get("/").text)
    assert client.get(f"/{address}api/status.json").json()["gallery"] == "../../"
    assert "hypermosaic" in client.get(f"/{address}index.html").text
    assert client.get(f"/{address}".rstrip("/"), follow_redirects=False).status_code == 307


def test_a_finished_job_is_not_read_for_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = GrowingJob(tmp_path / "job", "done")
    job.tell(JobFinished(3.0))
    monkeypatch.setattr(Follower, "look", lambda self, now=None: pytest.fail("read"))
    card = JobTeller().card(job.folder)
    assert (card.title, card.state, card.share, card.size) == ("done", "finished", 1.0, (512, 256))


def test_a_card_of_a_job_whose_map_is_being_invented(tmp_path: Path) -> None:
    from cluster.spec import job_file
    from cluster.spec.fields import JobSpec

    job_file.save(JobSpec(prompt="world", width=64, height=32, out=tmp_path / "job"), "f00d")
    teller = JobTeller()
    assert teller.card(tmp_path / "job").state == "not started"
    GrowingJob(tmp_path / "job" / "map", "deserts")
    card = teller.card(tmp_path / "job")
    assert (card.title, card.state, card.share, card.has_page) == ("world", "running", 0.0, False)
    assert find_jobs(tmp_path) == [tmp_path / "job"]


def test_the_page_of_a_job_is_told_of_the_map_that_is_invented_first(tmp_path: Path) -> None:
    from cluster.spec import job_file
    from cluster.spec.fields import JobSpec

    job_file.save(JobSpec(prompt="world", width=64, height=32, out=tmp_path / "job"), "f00d")
    client = client_of(tmp_path / "job")
    before = told(client)
    assert (before["state"], before["map"], before["next"]) == (
        "not started",
        None,
        f"hypermosaic resume {tmp_path / 'job'}",
    )
    first = GrowingJob(tmp_path / "job" / "map", "deserts")
    first.done(0, *range(BLOCKS))
    under_way = told(client)
    assert (under_way["state"], under_way["share"], under_way["next"]) == ("running", 0.0, None)
    assert under_way["map"]["state"] == "running"
    assert under_way["map"]["share"] == pytest.approx(8 / 27)
    first.tell(JobFailed("no memory"))
    failed = told(client)
    assert (failed["state"], failed["error"]) == ("failed", "no memory")
    assert failed["next"] == f"hypermosaic resume {tmp_path / 'job'}"
    first.tell(JobFinished(3.0))
    assert (told(client)["state"], told(client)["map"]["state"]) == ("running", "finished")
    assert "map" in told(client_of(GrowingJob(tmp_path / "other").folder))
    assert told(client_of(tmp_path / "other"))["map"] is None


# --- the command -----------------------------------------------------------------------------------------------------


def test_view_refuses_what_holds_nothing_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path, tmp_path / "nothing", tmp_path / "file"):
        result = CliRunner().invoke(command_line, ["view", str(folder), "--no-open"])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert str(folder) in result.stderr
    assert check_shown(GrowingJob(tmp_path / "job").folder)
    assert not check_shown(tmp_path)


def test_view_prints_its_address_first_and_answers_there(tmp_path: Path) -> None:
    GrowingJob(tmp_path / "job")
    command = [sys.executable, "-m", "cluster.cli", "view", str(tmp_path), "--no-open", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        try:
            address = server.stdout.readline().strip()
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
            with urllib.request.urlopen(address, timeout=20) as answer:
                assert b"islands" in answer.read()
        finally:
            server.send_signal(signal.SIGINT)
        assert server.wait(20) in (0, 130)
        assert "Traceback" not in server.stderr.read()
