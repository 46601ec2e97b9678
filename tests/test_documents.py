"""Bounded input: whatever lies where people name a file, a line says what is wrong, soon and in little memory."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster.commands.app import app
from cluster.datasets.requests import table_at
from cluster.spec.fields import SpecError
from cluster.spec.job_file import read_fields
from cluster.words.class_labels import READERS
from cluster.words.region_shapes import read_shapes
from generation.training.classes import EARTH
from generation.training.config import ConfigError, read_config
from generation.training.export import export
from storage.documents import DocumentError, check_values, parse_json, parse_yaml, read_text, text_lines
from storage.exports.path import read_keyframes
from storage.geometry import TOPOLOGIES, Canvas

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
"""9 to the power of 12 values, in a kilobyte."""
DEEP = "[" * 3000
BASE_60 = "seed: 1" + ":1" * 400_000
LARGE = "a: b\n" * 2**18

Reader = Callable[[Path], object]
PLANE = Canvas(64, 64, TOPOLOGIES["plane"])
YAML_READERS: list[Reader] = [read_fields, read_config, lambda path: READERS[".yaml"](path, read_text(path))]
READ: list[Reader] = [*YAML_READERS, read_shapes, lambda path: read_keyframes(path, PLANE)]


# --- what is read ----------------------------------------------------------------------------------------------------


def test_what_people_write_is_read() -> None:
    usual = "prompt: ice\nboxes: &b [1, 2]\nagain: *b\nnone: ~\n"
    assert parse_yaml(usual) == {"prompt": "ice", "boxes": [1, 2], "again": [1, 2], "none": None}
    assert parse_yaml("a: &a {x: 1}\nb:\n  <<: *a\n  y: 2\n")["b"] == {"x": 1, "y": 2}
    assert parse_yaml("") is None
    assert parse_yaml("prompt: " + "many words " * 5000)["prompt"].startswith("many")
    assert parse_json('{"a": [1]}') == {"a": [1]}


def test_a_pipe_is_read(tmp_path: Path) -> None:
    """As `--config <(generate-settings)` gives one; and one that nobody writes to is empty."""
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    assert read_text(pipe) == ""
    writer = threading.Thread(target=pipe.write_text, args=("prompt: ice\n",))
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer.start()
    writer.join()
    try:
        assert read_text(Path(f"/dev/fd/{reader}")) == "prompt: ice\n"
    finally:
        os.close(reader)


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "holds more than 100,000 values"),
        ("a: " + DEEP, "nested more than 50 deep (line 1"),
        ("a: &a [*a]", "holds itself (line 1, column 4)"),
        ("a: &a {<<: *a}", "holds itself"),
        (f"a: &a {'z' * 10_000}\nb: [{'*a,' * 900}]", "holds more than 100,000 values"),
        (BASE_60, "a number of 800,001 characters"),
        ("[" + "1," * 200_000 + "]", "holds more than 100,000 values"),
        ("a: 1" + "0" * 900 + "\nb: [", "is not YAML (line"),
        ("? [1]\n: 2", "is not YAML"),
        ("*nobody", "is not YAML (line 1"),
        ("a: 2001-99-99", "is not YAML"),
    ],
)
def test_yaml_within_bounds(text: str, words: str) -> None:
    with pytest.raises(DocumentError) as refused:
        parse_yaml(text)
    assert words in str(refused.value)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("text", [DEEP, '{"a":' * 3000, "1" * 30_000, "{", "nope" * 9000])
def test_json_within_bounds(text: str) -> None:
    with pytest.raises(DocumentError, match="is not JSON") as refused:
        parse_json(text)
    assert len(str(refused.value)) < 200


@pytest.mark.parametrize("read", READ)
def test_every_reader_has_bounds(read: Reader, tmp_path: Path) -> None:
    (tmp_path / "large.yaml").write_bytes(b"")
    os.truncate(tmp_path / "large.yaml", 2**29)
    (tmp_path / "deep.yaml").write_text("a: " + DEEP if read in YAML_READERS else DEEP)
    for path in (
        Path("/dev/zero"),
        tmp_path / "large.yaml",
        tmp_path / "deep.yaml",
        tmp_path,
        tmp_path / "none",
    ):
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            read(path)
        assert len(str(refused.value).splitlines()) == 1 and len(str(refused.value)) < 400


def test_a_model_card_has_bounds(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model card /dev/zero is a device, not a file"):
        export(tmp_path, tmp_path / "model", {}, "", EARTH, 1, Path("/dev/zero"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_endless_tables(ending: str, tmp_path: Path) -> None:
    """A device, and a file of one line."""
    (tmp_path / f"zero.{ending}").symlink_to("/dev/zero")
    (tmp_path / f"line.{ending}").write_bytes(b"")
    os.truncate(tmp_path / f"line.{ending}", 2**29)
    for name in ("zero", "line"):
        with pytest.raises(SpecError) as refused:
            list(table_at(tmp_path / f"{name}.{ending}").read({"prompt", "width", "height"}))
        assert name in str(refused.value) and len(str(refused.value)) < 300


def test_shapes_of_too_many_values_are_refused_before_these_are_made(tmp_path: Path) -> None:
    """A point of five characters takes two hundred bytes, so a few megabytes of a file would fill a memory."""
    path = tmp_path / "shapes.geojson"
    path.write_text('{"type": "FeatureCollection", "features": [' + "[0,0]," * 6_700_000 + "0]}")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SpecError) as refused:
        read_shapes(path)
    assert (
        str(refused.value)
        == f"{path} holds more than 20,000,000 values: simplify it, or draw a map of labels"
    )
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
    os.truncate(path, 401 * 2**20)
    with pytest.raises(SpecError, match="is larger than 400 MB: simplify it"):
        read_shapes(path)
    check_values('{"a": [1, 2]}', 3)
    with pytest.raises(DocumentError, match="more than 2 values"):
        check_values('{"a": [1, 2]}', 2)


def test_lines_of_any_number(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("\N{ZERO WIDTH NO-BREAK SPACE}x\n" * 3 + "y")
    assert [line.strip("\ufeff\n") for line in text_lines(tmp_path / "a", 5)] == ["x", "x", "x", "y"]
    (tmp_path / "a").write_text("x\n" + "y" * 6)
    with pytest.raises(DocumentError, match="a line of more than 5 characters"):
        list(text_lines(tmp_path / "a", 5))


# --- whole calls -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is asked of Linux")
@pytest.mark.parametrize(
    "text", [LAUGHS, "prompt: " + DEEP, BASE_60, LARGE], ids=["laughs", "deep", "base 60", "large"]
)
def test_a_line_soon_and_in_little_memory(text: str, tmp_path: Path) -> None:
    """Less than a second of work beyond the start of the program, and 200 MB with it."""
    (tmp_path / "spec.yaml").write_text(text)
    idle = cost_of("--version")
    refused = cost_of("plan", "desert", "--config", str(tmp_path / "spec.yaml"))
    assert refused[:2] == (2, 1)
    assert refused[2] < idle[2] + 1
    assert refused[3] < 200 * 2**20


PROGRAM = """
import resource, sys
from cluster.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))
    print(used.ru_utime + used.ru_stime, int(peak) * 1024)
"""


def cost_of(*arguments: str) -> tuple[int, int, float, int]:
    """Exit code, lines of errors, seconds of a processor, and bytes at most."""
    command = [sys.executable, "-c", PROGRAM, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, peak = ended.stdout.split()[-2:]
    return ended.returncode, len(ended.stderr.splitlines()), float(seconds), int(peak)


LONG = "9" * 30_000


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", LONG], ["plan", "desert", "--size", LONG], ["plan", "desert", "--seed", LONG],
        ["plan", "desert", f"--{LONG}"], ["plan", "desert", "--no-calibrate", "--out", LONG],
        ["plan", "desert", "--region-box", LONG], ["plan", "desert", "--region", f"{LONG}=a"],
        ["plan", "desert", "--config", LONG], ["plan", "desert", "--model", LONG], ["plan", "desert", "--lora", LONG],
        ["plan", "desert", "--scheduler", LONG], ["plan", "desert", "--classes", LONG], ["resume", LONG],
        ["status", LONG], ["view", LONG], ["export", LONG, "--format", "png"], [LONG],
        ["batch", "--n-images", LONG, "--label", "desert"], ["batch", LONG],
        ["batch", "--n-images", "99999999999", "--label", "desert", "--image-size", "64"],
        ["batch", "--n-images", "2", "--label", "desert", "--image-size", "64", "--filter", LONG],
        ["train", "denoiser", "--data", LONG, "--out", "run"],
    ],
    ids=lambda arguments: " ".join(word[:20] for word in arguments),
)  # fmt: skip
def test_messages_do_not_echo_what_is_long(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code in (1, 2)
    assert len(result.stderr.splitlines()) == 1, result.stderr[:500]
    assert len(result.stderr) < 800
    assert "Traceback" not in result.stderr and "unexpected" not in result.stderr
