"""A cluster that somebody else started, whose address is in RAY_ADDRESS: joined, measured, left as it was."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine import files_of

import cluster
from cluster.commands import doctor

pytestmark = pytest.mark.ray
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""
TOKEN = "0123456789abcdef" * 3
SMALL = ["--size", "384x256", "--num-inference-steps", "2", "--device", "cpu", "--block", "32", "--yes"]


def cluster_with(**environment: str) -> Iterator[str]:
    """The address of a cluster of one node with two processors; it ends when its standard input does."""
    started = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0"} | environment,
    )  # fmt: skip
    assert started.stdout is not None
    yield next(line.strip() for line in started.stdout if line.count(":") == 1 and line.strip()[-1].isdigit())
    started.communicate("", timeout=60)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    yield from cluster_with()


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Of a cluster that asks for a token."""
    yield from cluster_with(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)


def generate(out: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cluster.cli", "generate", "desert", *SMALL, "--out", str(out), *flags]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, cwd=out.parent, check=False
    )


def test_all_processors_of_the_cluster_work(address: str, tmp_path: Path) -> None:
    """The packages travel to its nodes; nobody said how many workers."""
    there = generate(tmp_path / "there", RAY_ADDRESS=address)
    assert there.returncode == 0, there.stderr
    assert '"workers": 2' in (tmp_path / "there" / "events.jsonl").read_text()
    cluster.generate(
        prompt="desert", width=384, height=256, num_inference_steps=2, device="cpu", block=32,
        executor="in-process", out=tmp_path / "here",
    )  # fmt: skip
    assert files_of(tmp_path / "there") == files_of(tmp_path / "here")


def test_workers_that_find_no_room_keep_nobody_waiting(address: str, tmp_path: Path) -> None:
    """More were asked for than the cluster has processors: those that are up do it all."""
    out = tmp_path / "crowded"
    told = generate(out, "--workers", "4", RAY_ADDRESS=address)
    assert told.returncode == 0, told.stderr
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    assert lines[0]["workers"] == 4
    events = {line["event"] for line in lines} - {"Waiting", "WorkersUp"}  # which a busy machine may bring
    assert events == {"JobStarted", "TaskDone", "JobFinished"}
    assert 1 <= len({line["worker"] for line in lines if line["event"] == "TaskDone"}) <= 2


def test_an_address_where_nothing_answers(tmp_path: Path) -> None:
    told = generate(tmp_path / "nowhere", RAY_ADDRESS="127.0.0.1:9")
    assert told.returncode == 1 and told.stdout == ""
    lines = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "no Ray cluster answers at 127.0.0.1:9" in lines[0], told.stderr


def test_a_cluster_that_asks_for_a_token_says_what_to_set(
    guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Soon, in a line, in doctor too; with the token it lets one in."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    told = generate(tmp_path / "job", RAY_ADDRESS=guarded, HOME=str(tmp_path))
    assert told.returncode == 1 and "gcs_client" not in told.stderr
    lines = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, told.stderr
    assert f"the Ray cluster at {guarded} asks for a token: set RAY_AUTH_MODE=token" in lines[0]
    monkeypatch.setenv("RAY_ADDRESS", guarded)
    (finding,) = doctor.ray_cluster()
    assert (finding.verdict, "set RAY_AUTH_MODE=token" in finding.text) == ("missing", True)
    let_in = generate(tmp_path / "job", "--resume", RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert let_in.returncode == 0, let_in.stderr
