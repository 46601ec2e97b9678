"""Folders that are wrong in many ways, beside good ones: each is a card, or a status, with its reason."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from growing_job import GrowingJob, damaged
from test_view_server_gallery import cards_of, client_of
from typer.testing import CliRunner

from cluster.commands.app import app as command_line

NO_PACE = json.dumps(
    {
        "event": "TaskDone",
        "time": "2999-01-01T00:00:00+00:00",
        "stage_name": "denoise 0",
        "seconds": float("nan"),
    }
)
DESCRIBED = '<script type="application/json" id="description">{}</script>'
STARTED = {"event": "JobStarted", "time": "2026-01-01T00:00:00+00:00"}
ENDLESS = json.dumps(STARTED | {"stages": [{"name": "denoise 0", "total": float("inf")}]})


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (f"events.jsonl:{ENDLESS}", "events.jsonl is damaged"),
        (f"events.jsonl:{'[' * 100_000}", "events.jsonl is damaged"),
        (f"job.yaml:{'[' * 2_000}", "nested more than 50 deep"),
        ("work/preview/layout.json:[]", "layout.json is damaged"),
        ('work/preview/layout.json:{"format_version": 1, "height": 20000, "width": 20000}', "20000 x 20000"),
        ("job.yaml: [", "is not YAML"), ("job.yaml:", "holds null"), ("ledger.jsonl:{}", "ledger.jsonl is damaged"),
        ("ledger.jsonl:nonsense", "ledger.jsonl is damaged"), ("ledger.jsonl:[]", "ledger.jsonl is damaged"),
        ("job.yaml:\0", "is not YAML"), ('events.jsonl:{"event": "TaskDone"}', "events.jsonl is damaged"),
    ],
)  # fmt: skip
def test_a_broken_folder_is_a_card_with_its_reason(tmp_path: Path, damage: str, words: str) -> None:
    GrowingJob(tmp_path / "good")
    bad = GrowingJob(tmp_path / "bad")
    name, _, content = damage.partition(":")
    (bad.folder / name).parent.mkdir(parents=True, exist_ok=True)
    (bad.folder / name).write_text(content + "\n")
    cards = cards_of(client_of(tmp_path))
    client = client_of(tmp_path)
    assert cards_of(client) == cards  # at every look
    (broken,) = [card for card in cards if 'data-state="broken"' in card]
    error = re.findall('class="error"[^>]*>(.*?)</p>', broken, re.DOTALL)[0]
    assert words in error
    assert "\n" not in error
    assert len(cards) == 2


def identity_of(card: str) -> str:
    return card.partition('<li id="job-')[2].partition('"')[0]


def test_folders_that_are_odd_in_other_ways_are_cards_beside_the_others(tmp_path: Path) -> None:
    """Descriptions nobody wrote, texts that UTF-8 cannot say, names that it cannot either."""
    GrowingJob(tmp_path / "good")
    described = {
        "nested": "[" * 100_000,
        "surrogate": json.dumps({"title": "a \ud800 b", "width": 64, "height": 32}),
        "endless": '{"title": "x", "width": 1e999, "height": 9}',
        "huge": f'{{"title": "x", "width": {"9" * 400}, "height": {"9" * 400}}}',
    }
    for name, description in described.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "index.html").write_text(DESCRIBED.format(description))
    named = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe named"))
    damaged(named)
    client = client_of(tmp_path)
    cards = {re.findall("<h2>(.*?)</h2>", card)[0]: card for card in cards_of(client)}
    assert set(cards) == {"islands", "a ? b", "endless", "huge", "?? named"}  # the nested one is none of ours
    broken = {title for title, card in cards.items() if 'data-state="broken"' in card}
    assert broken == {"endless", "huge", "?? named"}
    for card in cards.values():
        identity = identity_of(card)
        assert client.get(f"/jobs/{identity}/").status_code == 200
        status = client.get(f"/jobs/{identity}/api/status.json")
        assert status.status_code in (200, 404, 500)
        if status.status_code == 500:
            assert (
                status.text.startswith("this folder cannot be read: ") and "format_version 99" in status.text
            )


def test_a_page_with_an_odd_description_stops_nobody_from_looking(tmp_path: Path) -> None:
    page = tmp_path / "index.html"
    page.write_text(DESCRIBED.format("[" * 100_000))
    assert CliRunner().invoke(command_line, ["view", str(tmp_path), "--no-open"]).exit_code == 2
    GrowingJob(tmp_path / "job")
    told = json.dumps(
        {"title": "\ud800", "width": 64, "height": 32, "tile": 16, "opensFromDisk": True, "encoding": "jpg"}
    )
    page.write_text(DESCRIBED.format(told))
    assert "<title>?</title>" in client_of(tmp_path).get("/").text


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ledger.jsonl", '{"stage": 0, "block": -1}', "ledger.jsonl is damaged"),
        ("ledger.jsonl", '{"stage": 0, "block": 8, "bytes": 1}', "block 8 of stage 0 is done, and there are 8"),
        ("events.jsonl", NO_PACE, "JSON"),
    ],
)  # fmt: skip
def test_a_status_that_cannot_be_told_says_why(tmp_path: Path, name: str, content: str, words: str) -> None:
    job = GrowingJob(tmp_path / "job")
    client = client_of(job.folder)
    with (job.folder / name).open("a") as file:
        file.write(content + "\n")
    for _ in range(2):
        answer = client.get("/api/status.json")
        assert (answer.status_code, words in answer.text) == (500, True), answer.text
