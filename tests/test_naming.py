"""Errors that name arguments where they come through Python, and flags where they come through the command line."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import hypermosaic as hm
from cluster.commands.app import app
from hypermosaic.naming import arguments_by_flag, arguments_of, in_arguments

ROOT = Path(__file__).parents[1]
CALLS: list[Callable[..., Any]] = [
    getattr(hm, name) for name in hm.__all__ if inspect.isfunction(getattr(hm, name))
]


@pytest.mark.parametrize(
    ("flags", "arguments", "function"),
    [
        ("add --resume to go on, or another --out", "add resume=True to go on, or another out", hm.generate),
        ("width is missing; give pixels, as in --size 4096x2048",
         "width is missing; give pixels, as in width=4096, height=2048", hm.generate),
        ("fewer --workers, or --workers 3; a smaller --block than 128",
         "fewer workers, or workers=3; a smaller block than 128", hm.generate),
        ("try --dtype float32 or a lower --guidance-scale", "try dtype float32 or a lower guidance_scale", hm.generate),
        ("give it with --lora, or --output ome-zarr", "give it with loras, or outputs ome-zarr", hm.generate),
        ("exists; add --yes to replace it", "exists; add overwrite=True to replace it", hm.export),
        ("as in --n-images 100, or with --label", "as in n_images=100, or with prompt", hm.batch),
        ("finish it first: hypermosaic resume '/a b/c'", "finish it first: hypermosaic.resume('/a b/c')", hm.open),
        ("wait: hypermosaic status /a/b --watch", "wait: hypermosaic.status('/a/b')", hm.open),
        ("hypermosaic generate --help names them all", "help(hypermosaic.generate) names them all", hm.plan),
        ("add --scale 0.25, or a --region", "add scale=0.25, or a region", hm.export),
        ("no folder /x/--out/y, and --nonsense stays", "no folder /x/--out/y, and --nonsense stays", hm.generate),
        ("nothing to change", "nothing to change", hm.generate),
    ],
)  # fmt: skip
def test_flags_become_arguments(flags: str, arguments: str, function: Callable[..., Any]) -> None:
    assert in_arguments(flags, function) == arguments


@pytest.mark.parametrize("function", CALLS)
def test_what_a_command_calls_otherwise_is_an_argument(function: Callable[..., Any]) -> None:
    """Of the flags of the command of a function's name, each that its messages may speak of."""
    takes = arguments_of(function)
    named = arguments_by_flag(function.__name__, frozenset(takes))
    for flag in ("--out", "--workers", "--allow-pickle", "--resume", "--quality"):
        name = named[flag].removesuffix("=True")
        assert name in takes or flag.removeprefix("--").replace("-", "_") not in takes


def spoken() -> Iterator[tuple[str, str]]:
    """(file, message) of every sentence, in the modules below the command line, that names a flag."""
    for package in ("cluster", "generation", "storage"):
        for path in (ROOT / package).rglob("*.py"):
            place = path.relative_to(ROOT).as_posix()
            if place.startswith(("cluster/commands/", "cluster/training", "generation/training/")):
                continue
            for text in strings(ast.parse(path.read_text(encoding="utf-8"))):
                if re.search(r"(?<![\w-])--[a-z]", text):
                    yield place, text


def strings(tree: ast.AST) -> Iterator[str]:
    """Those that are values; prose between the lines is none."""
    alone = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in alone:
            yield node.value


def test_no_sentence_of_ours_keeps_its_flags() -> None:
    sentences = list(spoken())
    assert len(sentences) > 50
    kept = [
        (place, sentence)
        for place, sentence in sentences
        if all(re.search(r"(?<![\w-])--[a-z]", in_arguments(sentence, call)) for call in CALLS)
    ]
    assert kept == []


def refused(call: Callable[[], object]) -> str:
    with pytest.raises((hm.SpecError, hm.ModelError, hm.ExportError, OSError)) as caught:
        call()
    return str(caught.value)


def test_the_same_refusal_from_python_and_from_the_command_line(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("")
    size: Any = {"width": 64, "height": 64, "out": tmp_path}
    for arguments, fields in (
        (["--size", "64"], {}),
        (["--size", "64", "--clean-map", "4"], {"clean_map": 4}),
        (["--size", "64", "--class-labels", "x.csv"], {"class_labels": "x.csv"}),
        (["--size", "64", "--config-from", str(tmp_path)], {"config_from": str(tmp_path)}),
        (["--size", "64", "--regions", "x.png"], {"regions": "x.png"}),
    ):
        told = CliRunner().invoke(app, ["generate", "archipelago", *arguments, "--out", str(tmp_path)])
        line = told.stderr.strip().removeprefix("error: ")
        said = refused(partial(hm.generate, "archipelago", **size, **fields))
        assert told.exit_code == 2 and said == in_arguments(line, hm.generate)
        assert "--" not in said, said


def test_errors_keep_their_type_and_where_they_came_from(tmp_path: Path) -> None:
    with pytest.raises(hm.ModelError) as caught:
        hm.plan("a meadow", model="no/such/model", out=tmp_path)
    assert caught.traceback[-1].path != Path(__file__)
    with pytest.raises(hm.SpecError, match="holds no job.yaml"):
        hm.resume(tmp_path)
    with pytest.raises(hm.SpecError, match="height is missing; give pixels, as in width=4096, height=4096"):
        hm.generate("forest", width=64)
    with pytest.raises(hm.SpecError, match="unknown setting seeds; did you mean seed"):
        hm.generate("forest", seeds=4)
