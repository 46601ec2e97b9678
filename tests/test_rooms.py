"""The house: which file imports which, lazily or for types alone too; no circle, and no arrow against the order."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("storage", "generation", "cluster")
"""Lowest first: a file imports from its own package and from lower ones."""


@cache
def modules() -> Mapping[str, Path]:
    """Name -> file, of all packages."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Modules of ours that a file names in an import, wherever it stands."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in modules() else node.module for name in names]
        yield from (name for name in names if name in modules())


@cache
def arrows() -> Mapping[str, frozenset[str]]:
    return {name: frozenset(imported(path)) - {name} for name, path in modules().items()}


def test_there_are_arrows_to_look_at() -> None:
    assert len(modules()) > 200 and sum(map(len, arrows().values())) > 700
    assert "cluster.worker" in arrows()["cluster.work"], "a lazy import"
    assert "cluster.executors.contract" in arrows()["cluster.work"], "one for types alone"


def test_no_circle() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " -> ".join(reversed(error.args[1])))


def test_imports_go_one_way() -> None:
    level = {name: index for index, name in enumerate(PACKAGES)}
    against = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if level[other.partition(".")[0]] > level[name.partition(".")[0]]
    ]
    assert against == []
