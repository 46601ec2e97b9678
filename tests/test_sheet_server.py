"""The server of a batch's page: rows, searches, pictures, what is missing; hostile data sets and addresses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from asgi_requests import HOST, ask
from data_sets import COLOURS, LEGEND, data_set, mask, png, row, write
from PIL import Image
from starlette.testclient import TestClient

from cluster.viewing import JobTeller, find_jobs, viewer_of
from viewer import parquet, sheet
from viewer.parquet import Recent, Tables
from viewer.server import build_gallery

LARGE = (1400, 1100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return data_set(tmp_path_factory.mktemp("sets") / "set", row(9, "large", (1, 2), LARGE))


@pytest.fixture(scope="module")
def client(folder: Path) -> TestClient:
    return client_of(folder)


def client_of(folder: Path) -> TestClient:
    return TestClient(viewer_of(folder), base_url=f"http://{HOST}")


def rows_of(client: TestClient, query: str = "") -> list[str]:
    """Ids of a search, however often it has to be asked on."""
    found: list[str] = []
    at: int | None = 0
    while at is not None:
        answer = client.get(f"/rows.json?from={at}{query}")
        assert answer.status_code == 200, answer.text
        found += [each["id"] for each in answer.json()["rows"]]
        at = answer.json()["next"]
    return found


def image_of(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_come_from_whole_shards_and_from_parts_of_others(client: TestClient) -> None:
    assert rows_of(client) == [
        "r0",
        "r1",
        "r2",
        "r3",
        "r4",
        "r9",
        "r6",
        "r7",
    ]  # r8 was filtered, and r5 has failed
    first = client.get("/rows.json?count=1").json()
    assert first["rows"][0] == {
        "id": "r0", "prompt": "a quiet sea", "negative_prompt": "", "seed": str(2**60), "width": 64, "height": 48,
        "num_inference_steps": 4, "guidance_scale": 1.5, "score": None, "fingerprint": "0" * 64, "place": 0,
        "file": "0", "row": 0, "mask": True, "index": 0, "seconds": 1.5,
    }  # fmt: skip
    assert (first["next"], first["total"]) == (1, 9)
    second = client.get("/rows.json?from=4").json()["rows"]
    assert [each["seconds"] for each in second] == [None] * 4  # timings name rows 0 to 3 alone
    assert [each["file"] for each in second] == ["0", "0", "1-0", "1-0"]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("&text=QUIET", ["r0", "r2", "r4"]), ("&text=r7", ["r7"]), ("&text=nothing", []),
        ("&prompt=the%20land", ["r1", "r3", "r6", "r7"]), ("&prompt=the", []), ("&class=2", ["r9"]),
        ("&class=0", ["r0", "r1", "r2", "r3", "r4"]), ("&class=1", ["r1", "r3", "r9", "r6", "r7"]),
        ("&class=1&prompt=large", ["r9"]), ("&class=200", []),
    ],
)  # fmt: skip
def test_searches(client: TestClient, query: str, found: list[str]) -> None:
    assert rows_of(client, query) == found
    assert rows_of(client, f"{query}&count=1") == found


def test_a_search_stops_after_a_moment_and_goes_on_when_asked(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sheet, "SEARCH_SECONDS", 0.0)
    first = client.get("/rows.json?text=nothing").json()
    assert (first["rows"], first["looked"], first["next"]) == ([], 1, 1)
    assert rows_of(client, "&text=r7") == ["r7"]


@pytest.mark.parametrize(
    "query",
    ["from=-1", "from=x", "from=9999999999999", "count=1000", "class=-1", "class=255", "class=a", "text=" + "x" * 201],
)  # fmt: skip
def test_wrong_questions_are_refused_in_one_line(client: TestClient, query: str) -> None:
    answer = client.get(f"/rows.json?{query}")
    assert answer.status_code == 400 and len(answer.text.splitlines()) == 1


def test_one_row_group_of_pictures_is_in_memory(folder: Path) -> None:
    tables, path = Tables(), folder / "data" / "train-00000-of-00002.parquet"
    assert [group.rows for group in tables.footer(path).groups] == [2, 2, 2]
    for number in (0, 3, 5, 1):
        assert tables.picture(path, number, "image") is not None
        (held,) = tables._pictures["image"]._held.values()
        assert len(held) == 2
    recent, made = Recent(2), []
    for key in (1, 2, 1, 3, 2):
        recent.get(key, lambda key=key: made.append(key))
    assert made == [1, 2, 3, 2]


# --- pictures --------------------------------------------------------------------------------------------------------


def test_pictures_and_masks_as_they_are_stored_and_small(client: TestClient, folder: Path) -> None:
    stored = pq.read_table(folder / "data" / "train-00000-of-00002.parquet").to_pylist()
    assert client.get("/images/0/1.png").content == stored[1]["image"]["bytes"]
    assert client.get("/masks/0/1.png").content == stored[1]["mask"]["bytes"]
    part = client.get("/images/1-0/1.png")
    assert image_of(part.content).getpixel((3, 3)) == COLOURS[7 % 3]
    small = image_of(client.get("/small/image/0/5.jpg").content)
    assert small.format == "JPEG" and small.size == (320, 251)
    assert np.abs(np.subtract(small.getpixel((9, 9)), COLOURS[0])).max() < 6
    assert image_of(client.get("/small/view/0/5.jpg").content).size == (1280, 1006)
    classes = image_of(client.get("/small/mask/0/5.png").content)
    assert (classes.mode, set(np.unique(np.asarray(classes)))) == ("P", {1, 2})
    assert classes.convert("RGB").getpixel((0, 0)) == (0xF0, 0xE0, 0xFF)
    again = client.get(
        "/images/0/1.png", headers={"If-None-Match": client.get("/images/0/1.png").headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_card_shows_some_pictures(client: TestClient) -> None:
    card = image_of(client.get("/thumbnail.jpg").content).convert("RGB")
    assert card.size == (640, 400)
    assert np.abs(np.subtract(card.getpixel((20, 20)), COLOURS[0])).max() < 6
    assert np.abs(np.subtract(card.getpixel((180, 20)), COLOURS[1])).max() < 6


@pytest.mark.parametrize("count", [1, 2, 3, 5, 11])
def test_a_card_of_few_pictures_is_full(count: int, tmp_path: Path) -> None:
    few = data_set(tmp_path / "few")
    shutil.rmtree(few / "work")
    write(few / "data" / "train-00000-of-00002.parquet", [row(index, "sea", (0,)) for index in range(count)])
    card = np.asarray(image_of(client_of(few).get("/thumbnail.jpg").content).convert("RGB"))
    nearest = min(np.abs(card[-20:, -20:].astype(int) - colour).max() for colour in COLOURS)
    assert (card.shape, nearest < 8) == ((400, 640, 3), True)


def test_a_large_picture_has_a_page_to_zoom_in(client: TestClient) -> None:
    page = client.get("/pictures/0/5/")
    assert page.status_code == 200 and '"width": 1400' in page.text and "<title>large</title>" in page.text
    region = client.get("/pictures/0/5/region.png?x=5&y=7&w=20&h=10")
    assert np.asarray(image_of(region.content)).shape == (10, 20, 3)
    assert (np.asarray(image_of(region.content)) == COLOURS[0]).all()
    assert client.get("/pictures/0/5/tiles/11/2_2.jpg").status_code == 200
    assert client.get("/pictures/0/5/viewer/classes.js").text.startswith("window.hypermosaicClasses = ")
    assert client.get("/pictures/0/5/api/status.json").json() == {"state": "finished", "gallery": "../../../"}
    assert client.get("/pictures/0/1/").status_code == 404  # small ones need none
    assert client.get("/images/0/5.png").status_code == 200


def test_what_is_large_is_not_sent_in_one_piece(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "LARGEST_FILE", 100)
    assert client.get("/images/0/3.png").status_code == 413
    monkeypatch.setattr(sheet, "LARGEST", 64)
    assert client.get("/small/image/0/3.jpg").status_code == 413


# --- the rest of the page --------------------------------------------------------------------------------------------


def test_the_status_and_what_is_missing(client: TestClient) -> None:
    told = client.get("/api/status.json").json()
    assert (told["kind"], told["requests"], told["drawn"], told["failed"], told["filtered"]) == (
        "batch",
        13,
        8,
        1,
        1,
    )
    missing = client.get("/missing.json").json()
    assert [(each["id"], each["kind"]) for each in missing["rows"]] == [("r5", "failed"), ("r8", "filtered")]
    assert missing["total"] == 2
    second = client.get("/missing.json?from=1&count=1").json()
    assert [each["id"] for each in second["rows"]] == ["r8"] and second["total"] == 2


def test_a_gallery_has_a_card_of_it_and_does_not_look_inside(folder: Path) -> None:
    root = folder.parent
    assert find_jobs(root) == [folder]
    client = client_of(root)
    page = client.get("/").text
    assert 'data-kind="batch"' in page and "13 requests" in page and "running, 76 %" in page
    identity = page.partition('href="jobs/')[2].partition("/")[0]
    assert client.get(f"/jobs/{identity}/").status_code == 200
    assert client.get(f"/jobs/{identity}/thumbnail.jpg").status_code == 200
    assert (
        json.loads(
            client.get(f"/jobs/{identity}/").text.partition('id="description">')[2].partition("</script>")[0]
        )["gallery"]
        == "../../"
    )


# --- those who mean it ill -------------------------------------------------------------------------------------------

WORDS = ["</script><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "$name {id}\u2028\u0000"]


@pytest.mark.parametrize("words", WORDS)
def test_hostile_words_are_values_and_never_html(tmp_path: Path, words: str) -> None:
    name = words.replace("/", "").replace("\0", "")
    folder = data_set(tmp_path / name, row(9, words, (0,)) | {"id": words})
    saved = json.loads((folder / "batch.json").read_text())
    (folder / "batch.json").write_text(json.dumps(saved | {"model": words, "legend": [[words, "#102030"]]}))
    client = client_of(folder)
    page = client.get("/").text
    assert page.count("<script") == 4 and "<img" not in page and "alert(1)<" not in page
    told = json.loads(page.partition('id="description">')[2].partition("</script>")[0])
    assert told["legend"] == [[words, "#102030"]] and told["facts"]["model"] == words
    (found,) = [each for each in client.get("/rows.json").json()["rows"] if each["prompt"] == words]
    assert found["id"] == words
    assert client.get("/rows.json").headers["content-type"] == "application/json"
    gallery = client_of(tmp_path).get("/").text
    assert "<img src=x" not in gallery and gallery.count("<script") == 2


def test_a_legend_that_is_none_is_left_out(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set")
    saved = json.loads((folder / "batch.json").read_text())
    for legend in (
        [["sea", "url(http://evil.example)"]],
        [["sea"]],
        "sea",
        [["sea", "#fff", 3]],
        [["s", "#000000"]] * 300,
    ):
        (folder / "batch.json").write_text(json.dumps(saved | {"legend": legend}))
        assert JobTeller().sheet(folder).legend == ()
    (folder / "batch.json").write_text(json.dumps(saved))
    assert JobTeller().sheet(folder).legend == LEGEND


def test_addresses_lead_nowhere_else(client: TestClient, folder: Path) -> None:
    app = viewer_of(folder)
    for target in (
        "/batch.json", "/data/train-00000-of-00002.parquet", "/" + "work/requests.parquet", "/events.jsonl",
        "/x/0/0.png",
        "/images/2/0.png", "/images/0/99.png", "/images/../0.png", "/images/%2e%2e/0.png", "/images/0/-1.png",
        "/small/mask/0/0.jpg", "/small/x/0/0.png", "/images/1-1/0.png", "/pictures/0/99/", "/pictures/9/0/",
        "/pictures/0/5/../../../batch.json", "/pictures/0/5/image.zarr/zarr.json", "/assets/x/sheet.js",
        "/images/0/0.svg", "/images/0/" + "9" * 30 + ".png",
    ):  # fmt: skip
        assert ask(app, target).status == 404, target
    assert ask(app, "/rows.json", host="evil.example").status == 400
    assert ask(app, "/rows.json", origin="http://evil.example").status == 403
    assert ask(app, "/images/0/0.png", sec_fetch_site="cross-site", sec_fetch_mode="no-cors").status == 403
    assert ask(app, "/rows.json", "POST").status == 405
    for target in ("/", "/rows.json", "/images/0/0.png", "/small/image/0/0.jpg", "/missing.json"):
        headers = ask(app, target).headers
        assert (
            headers["x-content-type-options"] == "nosniff"
            and "script-src 'self';" in headers["content-security-policy"]
        )


def test_links_out_of_the_folder_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside.parquet"
    write(outside, [row(3, "secret", (0,))])
    folder = data_set(tmp_path / "set")
    (folder / "data" / "train-00001-of-00002.parquet").symlink_to(outside)
    client = client_of(folder)
    assert client.get("/images/1/0.png").status_code == 404
    assert "secret" not in client.get("/rows.json").text


def test_pictures_that_are_none_break_only_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gif = io.BytesIO()
    Image.new("RGB", (4, 4)).save(gif, "GIF")
    bad: list[bytes | None] = [
        b"<html><script>alert(1)</script>",
        gif.getvalue(),
        png((1, 2, 3), (9, 9))[:50],
        b"",
        None,
    ]
    rows = [row(20 + at, "bad", (0,)) for at in range(len(bad))]
    for each, content in zip(rows, bad, strict=True):
        each["image"] = {"bytes": content, "path": None}
        each["mask"] = {"bytes": content, "path": "../../x"}
    client = client_of(data_set(tmp_path / "set", *rows))
    for at in range(len(bad)):
        answer = client.get(f"/small/image/0/{5 + at}.jpg")
        assert answer.status_code in (404, 500) and len(answer.text.splitlines()) <= 1
        assert client.get(f"/pictures/0/{5 + at}/").status_code in (404, 500)
        whole = client.get(f"/images/0/{5 + at}.png")
        assert whole.status_code == 404 or whole.headers["content-type"] == "image/png"
    assert client.get("/small/image/0/0.jpg").status_code == 200
    assert client.get("/rows.json?prompt=bad").json()["rows"][0]["index"] == -1
    monkeypatch.setitem(parquet.LARGEST, "image", 10)
    huge = client_of(data_set(tmp_path / "other"))
    assert huge.get("/small/image/0/0.jpg").status_code == 500
    assert "are read" in huge.get("/small/image/0/0.jpg").text


def test_a_file_that_is_no_parquet_is_told_in_one_line(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set")
    (folder / "data" / "train-00000-of-00002.parquet").write_bytes(b"PAR1 nothing PAR1")
    answer = client_of(folder).get("/rows.json")
    assert answer.status_code == 500 and len(answer.text.splitlines()) == 1
    root = build_gallery(tmp_path, lambda: find_jobs(tmp_path), JobTeller())
    assert TestClient(root, base_url=f"http://{HOST}").get("/").status_code == 200


def test_columns_that_are_missing_are_facts_that_nobody_knows(tmp_path: Path) -> None:
    folder = data_set(tmp_path / "set")
    plain = pa.table({"id": ["a"], "image": pa.array([{"bytes": png((1, 2, 3), (8, 8)), "path": "1.png"}])})
    pq.write_table(plain, folder / "data" / "train-00000-of-00002.parquet")
    (found,) = client_of(folder).get("/rows.json?count=1").json()["rows"]
    assert (found["prompt"], found["mask"], found["index"]) == (None, False, 1)
    assert client_of(folder).get("/masks/0/0.png").status_code == 404


def test_a_mask_says_which_classes_it_has() -> None:
    ids = np.asarray(Image.open(io.BytesIO(mask((0, 2), (10, 4)))))
    assert parquet.class_bits(ids) == 0b101
