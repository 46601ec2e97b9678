"""The ledger: it remembers, it forgets, and what a crash or a rotten disk leaves of it costs a task and no more."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cluster.following.history import DoneTasks
from storage.fingerprint import FormatError
from storage.ledger import Ledger, LedgerRecord, Written
from storage.task_set import TaskSet

TOTALS = (12, 12, 14)


def opened(path: Path, fingerprint: str = "abc") -> Ledger:
    return Ledger(path, fingerprint, TOTALS)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A ledger of two tasks."""
    with opened(tmp_path / "ledger.jsonl") as ledger:
        ledger.record(0, 7, Written(100))
        ledger.record(1, 11, Written(200, "00000000000000ff"))
    return tmp_path / "ledger.jsonl"


def test_it_remembers_and_drops_a_torn_line(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"stage": 2, "blo')
    with opened(path) as ledger:
        assert ledger.done == {(0, 7), (1, 11)}
        ledger.record(2, 13, Written(1))
    with opened(path) as ledger:
        assert ledger.done == {(0, 7), (1, 11), (2, 13)}
        written = {done.task: done.written for done in ledger.written(range(3))}
    assert written == {(0, 7): Written(100), (1, 11): Written(200, "00000000000000ff"), (2, 13): Written(1)}


@pytest.mark.parametrize(
    "line", [b"rot", b"[]", b"{}", b'{"stage": 1}', b'{"stage": -1, "block": 0, "bytes": 1}', b"\xff\xfe",
             b'{"stage": 0, "block": 99999999999999, "bytes": 1}', b'{"stage": true, "block": 0, "bytes": 1}',
             b'{"stage": 0, "block": 1, "bytes": 1, "digest": "x"}', b'{"closed": 7}', b"[" * 3000],
)  # fmt: skip
def test_a_rotten_line_is_left_out_for_good(line: bytes, path: Path) -> None:
    """Whoever follows the job can read it again, too."""
    header, *lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, lines[0], line + b"\n", lines[1]]))
    with opened(path) as ledger:
        assert ledger.done == {(0, 7), (1, 11)}
    assert path.read_bytes() == b"".join([header, *lines])
    follower = DoneTasks(path)
    follower.look()
    assert follower.tasks == {(0, 7), (1, 11)}


def test_tasks_that_the_job_has_not_are_left_out(path: Path) -> None:
    with path.open("a") as file:
        file.write('{"stage": 0, "block": 12, "bytes": 1}\n{"stage": 3, "block": 0, "bytes": 1}\n')
    with opened(path) as ledger:
        assert ledger.done == {(0, 7), (1, 11)}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n", b"rot\n", b'{"format": "hyperm', b'{"stage": 0, "block": 1}\n', b"7\n",
        b'{"format": "hypermosaic-ledger", "verrion": 4, "fingerprint": "abc"}\n',
        b'{"format": "hypermosaic-ledger", "version": "4", "fingerprint": "abc"}\n',
        b'{"format": "hypermosaic-leiger", "version": 4, "fingerprint": "abc"}\n',
    ],
)  # fmt: skip
def test_a_file_without_a_header_is_as_good_as_none(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    with opened(path) as ledger:
        assert ledger.done == set()
        ledger.record(0, 1, Written(1))
    with opened(path) as ledger:
        assert ledger.done == {(0, 1)}


def test_it_forgets_any_set_of_tasks(path: Path) -> None:
    with opened(path) as ledger:
        ledger.close_job({"index.html": Written(5, "00000000000000aa")})
        assert ledger.closed is not None
        ledger.forget([(0, 7)])
        assert ledger.done == {(1, 11)} and ledger.closed is None
    follower = DoneTasks(path)
    follower.look()
    assert follower.tasks == {(1, 11)} and not follower.is_closed
    with opened(path) as ledger:
        assert ledger.done == {(1, 11)} and ledger.closed is None
        assert ledger.last_closed is not None and ledger.last_closed.files["index.html"].bytes == 5
        ledger.record(0, 7, Written(101))
        assert [done.written for done in ledger.written(range(1))] == [Written(101)]


def test_one_of_another_job_is_set_aside(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever opens it has looked into job.yaml, so it is the ledger that is not as it was."""
    before = path.read_bytes()
    assert LedgerRecord(path, "abd", TOTALS).done == set() and path.read_bytes() == before
    with opened(path, "abd") as ledger:
        assert ledger.done == set()
    assert path.with_name("ledger.damaged.jsonl").read_bytes() == before
    assert "is damaged: it is begun anew" in caplog.text


def test_one_of_another_version_is_refused(path: Path) -> None:
    for version in (3, 5):
        path.write_text(f'{{"format": "hypermosaic-ledger", "version": {version}, "fingerprint": "abc"}}\n')
        before = path.read_bytes()
        with pytest.raises(FormatError, match=f"version {version} of its format; this program reads 4"):
            opened(path)
        assert path.read_bytes() == before


def test_a_task_set_is_a_set() -> None:
    """Beside Python's own, over random additions and removals."""
    chance, ours, theirs = random.Random(0), TaskSet(), set()
    for _ in range(2000):
        task = (chance.randrange(3), chance.randrange(50) ** 2)
        if chance.random() < 0.6:
            ours.add(task)
            theirs.add(task)
        else:
            ours.discard(task)
            theirs.discard(task)
        assert (task in ours) == (task in theirs) and len(ours) == len(theirs)
    assert list(ours) == sorted(theirs) and ours == theirs
    for stage in range(4):
        assert ours.blocks(stage).tolist() == sorted(block for at, block in theirs if at == stage)
        assert ours.count(stage) == len(ours.blocks(stage))


def test_a_task_takes_a_bit() -> None:
    """Of a terapixel: a million blocks and fifty steps, of which a few are here."""
    tasks = TaskSet((stage, block) for stage in (0, 49) for block in range(200_000))
    assert sum(len(bits) for bits in tasks._bits.values()) <= 2 * 2 * 200_000 // 8
    assert json.dumps(tasks.count(49)) == "200000"
