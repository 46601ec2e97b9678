"""The server against those who mean it ill: paths, links, numbers, names, origins, ten thousand random addresses."""

from __future__ import annotations

import asyncio
import random
import re
from pathlib import Path

import pytest
from asgi_requests import HOST, ask, asked
from growing_job import GrowingJob
from starlette.testclient import TestClient
from starlette.types import ASGIApp

from cluster.viewing import JobTeller, find_jobs
from viewer.server import build_app, build_gallery

SECRET = "nobody may read this"


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> GrowingJob:
    root = tmp_path_factory.mktemp("jobs")
    (root / "secret.txt").write_text(SECRET)
    made = GrowingJob(root / "job")
    (made.folder / "secret.txt").write_text(SECRET)
    secret = f'{{"width": 9, "height": 9, "png": "data:image/png;base64,{SECRET.replace(" ", "")}"}}'
    (root / "secret.js").write_text(f"window.hypermosaicClasses = {secret};\n")  # one that would be sent
    (made.folder / "viewer" / "classes.js").symlink_to(root / "secret.js")
    (made.folder / "viewer" / "panorama.js").symlink_to(made.folder / "viewer" / "panorama.js")  # a loop
    for group in range(made.layout.groups):
        for index in range(made.layout.task_count(group)):
            made.paint(group, index)
    (made.folder / "image_files" / "9" / "7_9.jpg").symlink_to(root / "secret.txt")
    (made.folder / "image_files" / "77").symlink_to(root)
    (root / "5_5.jpg").write_text(SECRET)
    return made


@pytest.fixture(scope="module")
def app(job: GrowingJob) -> ASGIApp:
    return build_app(job.folder, JobTeller())


@pytest.fixture(scope="module")
def gallery(job: GrowingJob) -> ASGIApp:
    root = job.folder.parent
    return build_gallery(root, lambda: find_jobs(root), JobTeller())


# --- paths -----------------------------------------------------------------------------------------------------------

UPWARDS = [
    "..", "%2e%2e", ".%2e", "%252e%252e", "..%2f", "%2e%2e%2f", "..%5c", "..\\", "%c0%ae%c0%ae", "%e0%80%ae%e0%80%ae",
    "..%c0%af", "%uff0e%uff0e", "....//", "..;", "..%00", "%00..", "..%0d%0a", "．．",
]  # fmt: skip
SECRETS = ["secret.txt", "job.yaml", "ledger.jsonl", "image.zarr/zarr.json", "work/state-0000.zarr/zarr.json"]


@pytest.mark.parametrize("up", UPWARDS)
def test_no_encoding_of_dots_leads_anywhere(app: ASGIApp, up: str) -> None:
    for start in ("", "/viewer", "/image_files", "/image_files/9", "/tiles", "/api"):
        for secret in SECRETS:
            for target in (f"{start}/{up}/{secret}", f"{start}/{up}/{up}/{secret}", f"{start}/{up}{secret}"):
                answer = ask(app, target)
                assert 400 <= answer.status < 500, (target, answer.status)
                assert SECRET.encode() not in answer.content


@pytest.mark.parametrize(
    "target",
    [
        "//etc/passwd", "/%2fetc%2fpasswd", "/viewer//etc/passwd", "/viewer/%2fetc/passwd", "/C:/secret.txt",
        "/viewer/\\secret.txt", "/viewer/%5csecret.txt", "/viewer/page.js%00.txt", "/viewer/%00", "/%00",
        "/viewer/classes.js", "/viewer/panorama.js", "/viewer/classes.js/x",
        "/image_files/9/7_9.jpg", "/image_files/77/5_5.jpg", "/secret.txt", "/job.yaml", "/events.jsonl", "/work",
        "/viewer", "/viewer/", "/image_files/", "/viewer/" + "a" * 300, "/viewer/" + "a/" * 400, "/viewer/.",
        "/viewer/page.js/", "/viewer/page.js/x", "/index.html/", "/api/", "/api/status.json/", "/api/..", "/jobs/x/",
    ],
)  # fmt: skip
def test_what_may_not_be_seen_is_not_there(app: ASGIApp, target: str) -> None:
    answer = ask(app, target)
    assert answer.status in (404, 414, 307)  # a redirect to the same address without its slash
    if answer.status == 307:
        assert answer.headers["location"].startswith(f"http://{HOST}/")
    assert SECRET.encode() not in answer.content and SECRET.replace(" ", "").encode() not in answer.content


@pytest.mark.parametrize(
    "number",
    [
        "-1",
        "-0",
        "+1",
        "1.0",
        "1e1",
        "0x1",
        "٣",
        "９",
        "%D9%A3",
        "9" * 20,
        "9" * 900,
        "",
        " 1",
        "1%20",
        "NaN",
    ],
)
def test_a_number_is_digits_within_the_picture(app: ASGIApp, number: str) -> None:
    for target in (
        f"/tiles/{number}/0_0.jpg", f"/tiles/9/{number}_0.jpg", f"/tiles/9/0_{number}.jpg",
        f"/image_files/{number}/0_0.jpg", f"/image_files/9/{number}_0.jpg", f"/image_files/9/0_{number}.jpg",
    ):  # fmt: skip
        assert ask(app, target).status in (404, 414), target


def test_a_gallery_knows_ids_and_no_paths(gallery: ASGIApp, job: GrowingJob) -> None:
    page = ask(gallery, "/").content.decode()
    identity = page.partition('href="jobs/')[2].partition("/")[0]
    assert ask(gallery, f"/jobs/{identity}/").status == 200
    assert ask(gallery, f"/jobs/{identity}/viewer/page.js").status == 200
    others = (
        "job",
        "..",
        "%2e%2e",
        ".",
        identity.upper(),
        f"{identity}%00",
        identity[:-1],
        f"..%2f{identity}",
        "*",
    )
    for other in others:
        for rest in ("/", "/index.html", "/secret.txt"):
            answer = ask(gallery, f"/jobs/{other}{rest}")
            assert answer.status in (404, 307)
    for secret in SECRETS:
        assert ask(gallery, f"/jobs/{identity}/{secret}").status == 404
        assert ask(gallery, f"/jobs/{identity}/viewer/..%2f{secret}").status == 404
        assert ask(gallery, f"/assets/{secret}").status == 404
    for asset in (
        "/assets/x/gallery.js",
        "/assets/../gallery.js",
        "/assets/%2e%2e/server.py",
        "/assets/0/server.py",
    ):
        assert ask(gallery, asset).status == 404


# --- who asks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8000", "", "[::1]", "0.0.0.0"]
)
def test_a_foreign_name_is_refused(app: ASGIApp, gallery: ASGIApp, host: str) -> None:
    for served in (app, gallery):
        assert ask(served, "/", host=host).status == 400
        assert ask(served, "/api/status.json", host=host).status == 400


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8000", "http://localhost:8000", "",
     "http://127.0.0.1:8000.evil.example", "http://127.0.0.1:8000/", "file://"],
)  # fmt: skip
def test_a_foreign_origin_is_refused(app: ASGIApp, gallery: ASGIApp, origin: str) -> None:
    for served in (app, gallery):
        for target in ("/", "/api/status.json", "/region.png?x=0&y=0&w=9&h=9", "/nothing"):
            answer = ask(served, target, origin=origin)
            assert answer.status == 403
            assert "access-control-allow-origin" not in answer.headers
            assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_own_origin_and_links_from_elsewhere_are_welcome(app: ASGIApp) -> None:
    assert ask(app, "/api/status.json", origin=f"http://{HOST}").status == 200
    assert ask(app, "/api/status.json", host="localhost:8000", origin="http://localhost:8000").status == 200
    assert ask(app, "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate").status == 200
    assert ask(app, "/viewer/page.js", sec_fetch_site="same-origin", sec_fetch_mode="no-cors").status == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_pages_elsewhere_may_not_load_parts(app: ASGIApp, site: str) -> None:
    for target in ("/preview.png", "/region.png?x=0&y=0&w=9&h=9", "/viewer/page.js", "/tiles/9/0_0.jpg"):
        assert ask(app, target, sec_fetch_site=site, sec_fetch_mode="no-cors").status == 403


@pytest.mark.parametrize(
    "method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "PROPFIND"]
)
def test_nothing_can_be_changed(app: ASGIApp, gallery: ASGIApp, method: str) -> None:
    for served in (app, gallery):
        for target in ("/", "/api/status.json", "/viewer/page.js", "/tiles/9/0_0.jpg", "/cards.html"):
            assert ask(served, target, method).status in (404, 405)


def test_every_answer_is_guarded_and_kept_only_under_its_hash(app: ASGIApp, gallery: ASGIApp) -> None:
    for served, targets in (
        (app, ("/", "/viewer/page.js", "/tiles/9/0_0.jpg", "/image_files/9/0_0.jpg", "/nothing", "/api/status.json",
               "/region.png", "/thumbnail.jpg", "/" + "9" * 2000, "/?" + "9" * 2000)),
        (gallery, ("/", "/cards.html", "/jobs/x/", "/nothing")),
    ):  # fmt: skip
        for target in targets:
            headers = ask(served, target).headers
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["cross-origin-resource-policy"] == "same-origin"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cache-control"] == "no-cache"
            policy = headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
    page = ask(gallery, "/").content.decode()
    for name in ("gallery.css", "gallery.js", "theme.js"):
        address = page.partition(f"/{name}")[0].rpartition('"')[2]
        asset = ask(gallery, f"/{address}/{name}")
        assert (asset.status, "immutable" in asset.headers["cache-control"]) == (200, True)


def test_pages_have_no_inline_scripts(app: ASGIApp, gallery: ASGIApp) -> None:
    for served in (app, gallery):
        page = ask(served, "/").content.decode()
        for attributes, inside in re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL):
            assert "src=" in attributes or 'type="application/json"' in attributes
            assert 'type="application/json"' in attributes or not inside.strip()
        assert not re.search(r"\son[a-z]+=", page)


# --- ten thousand addresses ------------------------------------------------------------------------------------------

PIECES = [
    "tiles", "image_files", "viewer", "index.html", "region.png", "region.jpg", "api", "status.json", "preview.png",
    "thumbnail.jpg", "image.dzi", "jobs", "assets", "cards.html", "page.js", "0", "9", "0_0.jpg", "3_1.jpg", "1_1.png",
    "-1", "99999999999999999999", "٣", "..", "%2e%2e", "%2f", "%5c", "%00", "%c0%ae", "%ff%fe", "%", "%zz", "~", "*",
    "{level}", "<script>", "'", '"', "a" * 200, "", ".", " ", "\t", "%0d%0aSet-Cookie:x", "CON", "secret.txt",
]  # fmt: skip
KEYS = ["x", "y", "w", "h", "scale", "v", "", "X"]
VALUES = [
    "0",
    "1",
    "64",
    "256",
    "512",
    "-1",
    "0.5",
    "9" * 30,
    "nan",
    "1e9",
    "%00",
    "٣",
    "",
    "<b>",
    "0.0001",
    "1",
    ".",
]


def random_target(chance: random.Random) -> str:
    if chance.random() < 0.2:
        target = "/" + "".join(chr(chance.randrange(33, 0x250)) for _ in range(chance.randrange(0, 60)))
    else:
        target = "/" + "/".join(chance.choice(PIECES) for _ in range(chance.randrange(0, 6)))
    if chance.random() < 0.4:
        pairs = (f"{chance.choice(KEYS)}={chance.choice(VALUES)}" for _ in range(chance.randrange(0, 7)))
        target += "?" + "&".join(pairs)
    return target


def test_ten_thousand_random_addresses_break_nothing(app: ASGIApp, gallery: ASGIApp) -> None:
    chance = random.Random(20)
    identity = ask(gallery, "/").content.decode().partition('href="jobs/')[2].partition("/")[0]

    async def all_of_them() -> dict[int, int]:
        seen: dict[int, int] = {}
        for turn in range(10_000):
            target = random_target(chance)
            if turn % 3 == 0:
                answer = await asked(gallery, f"/jobs/{identity}{target}" if turn % 2 else target)
            else:
                answer = await asked(app, target)
            seen[answer.status] = seen.get(answer.status, 0) + 1
            assert answer.status < 500, target
            assert SECRET.encode() not in answer.content, target
            assert answer.headers["x-content-type-options"] == "nosniff"
        return seen

    seen = asyncio.run(all_of_them())
    assert {200, 400, 404} <= set(seen)


# --- prompts ---------------------------------------------------------------------------------------------------------

HOSTILE = [
    "</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)", "{id}{0}%s$x",
    "a\u202eb\u0000c\u2028", "<" * 5000, "&lt;b&gt;",
]  # fmt: skip


@pytest.mark.parametrize("prompt", HOSTILE)
def test_a_hostile_prompt_is_text_on_its_card(tmp_path: Path, prompt: str) -> None:
    made = GrowingJob(tmp_path / "jobs" / "<img src=x>", prompt)
    (tmp_path / "jobs" / "<b>broken").mkdir()
    (tmp_path / "jobs" / "<b>broken" / "job.yaml").write_text("format_version: <script>alert(2)</script>")
    root = made.folder.parent
    client = TestClient(build_gallery(root, lambda: find_jobs(root), JobTeller()), base_url=f"http://{HOST}")
    for target in ("/", "/cards.html"):
        html = client.get(target).text
        assert html.count("<li ") == 2
        assert html.count("<script") == (2 if target == "/" else 0)
        assert "<img src=x" not in html
        assert "<b>" not in html
        assert "onmouseover='" not in html
