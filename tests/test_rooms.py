"""The house: which file imports which, lazily or for types alone too; no circle, and no arrow against the order."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("storage", "viewer", "generation", "cluster", "hypermosaic")
"""A file imports from its own package; hypermosaic from cluster, cluster from the others, viewer and generation from
storage."""

ROOMS = {
    "generation": ("models", "sampling", "places", "decoding", "seams", "plain", "plain_solvers", "training"),
    "cluster": (
        *("machine", "wording", "stops", "patience", "rereading"),
        *("spec", "words", "jobs", "following", "engine", "datasets", "results"),
        *("training", "viewing", "verifying", "errors", "api", "commands", "cli"),
    ),
}
"""Of each package, lowest first: a file imports from its own room and from lower ones. A file beside them is one."""


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


def room_of(name: str) -> str:
    """Of generation.sampling.fusion, sampling; of a package itself, nothing."""
    return name.split(".")[1] if "." in name else ""


def test_there_are_arrows_to_look_at() -> None:
    assert len(modules()) > 200 and sum(map(len, arrows().values())) > 700
    assert "cluster.engine.worker" in arrows()["cluster.engine.work"], "a lazy import"
    assert "cluster.engine.executors.contract" in arrows()["cluster.engine.work"], "one for types alone"


def test_no_circle() -> None:
    try:
        TopologicalSorter(arrows()).prepare()
    except CycleError as error:
        pytest.fail("a circle of imports: " + " -> ".join(reversed(error.args[1])))


def test_imports_go_one_way() -> None:
    may = {
        "storage": (),
        "viewer": ("storage",),
        "generation": ("storage",),
        "cluster": ("storage", "viewer", "generation"),
        "hypermosaic": ("cluster",),
    }
    against = [
        f"{name} -> {other}"
        for name, others in arrows().items()
        for other in others
        if (package := name.partition(".")[0]) != (to := other.partition(".")[0]) and to not in may[package]
    ]
    assert against == []


@pytest.mark.parametrize("package", ROOMS)
def test_rooms_stand_on_each_other(package: str) -> None:
    level = {room: index for index, room in enumerate(ROOMS[package])}
    names = [name for name in modules() if name.partition(".")[0] == package and room_of(name)]
    assert {room_of(name) for name in names} == set(level)
    against = [
        f"{name} -> {other}"
        for name in names
        for other in arrows()[name]
        if other.partition(".")[0] == package
        and room_of(other)
        and level[room_of(other)] > level[room_of(name)]
    ]
    assert against == []
