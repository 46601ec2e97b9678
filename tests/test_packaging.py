"""The repository as a whole: its cluster file, its README, its pins, and who imports whom."""

from __future__ import annotations

import ast
import copy
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PACKAGES = ("hypermosaic", "cluster", "generation", "storage", "viewer")
LONGEST_FILE = 400


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Top-level names of every import, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module


def test_storage_knows_no_torch_and_only_cluster_knows_ray() -> None:
    for package, banned in (
        ("storage", {"torch", "diffusers", "ray"}),
        ("viewer", {"torch", "diffusers", "ray"}),
        ("generation", {"ray", "tensorstore"}),
    ):
        for path in sources(package):
            assert {name.partition(".")[0] for name in imports(path)} & banned == set(), path


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources(*PACKAGES, "tests", "benchmarks")}
    assert {str(path): length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_file_says_what_it_knows() -> None:
    files = [path for path in sources(*PACKAGES) if path.read_text().strip()]
    assert [path for path in files if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_the_cluster_file_is_valid() -> None:
    pytest.importorskip("ray")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((ROOT / "ray_config.yaml").read_text())
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    assert config["head_node_type"] in prepared["available_node_types"]
    ray, python = re.search(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.M), "py311"
    assert (
        ray is not None
        and tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"] == ">=3.11"
    )
    images = [config["docker"][f"{node}_image"] for node in ("head", "worker")]
    assert images == [f"rayproject/ray:{ray[1]}-{python}", f"rayproject/ray:{ray[1]}-{python}-gpu"]
    assert "--device cuda" in (ROOT / "ray_config.yaml").read_text()  # the head, which plans, has none
    assert re.search(r"\d+\.\d+\.\d+\.\d+|://", (ROOT / "ray_config.yaml").read_text()) is None


# --- the README ------------------------------------------------------------------------------------------------------


def tree_of_readme() -> dict[str, str]:
    """Path -> what the README's tree says of it."""
    block = re.search(r"## Files.*?```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in block[1].splitlines():
        name, _, words = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        parents[depth:] = [name]
        found["".join(parents)] = words.strip()
    return found


def test_what_the_readme_lists_exists_and_is_described() -> None:
    listed = tree_of_readme()
    assert [path for path in listed if not (ROOT / path).exists()] == []
    assert [path for path, words in listed.items() if not words] == []


def test_the_readme_lists_every_file() -> None:
    listed = tree_of_readme()
    whole = ("generation/training/",)  # one line for all of it
    unlisted = [
        name
        for name in (path.relative_to(ROOT).as_posix() for path in sources(*PACKAGES))
        if not name.endswith("__init__.py") and not name.startswith(whole) and name not in listed
    ]
    assert unlisted == []


def test_the_readme_shows_a_picture_that_is_there() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert pictures
    assert [name for name in pictures if not (ROOT / name).is_file()] == []


# --- pins ------------------------------------------------------------------------------------------------------------


def project() -> dict[str, object]:
    loaded: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return loaded


def requirements() -> list[Requirement]:
    facts = project()
    lines, extras = facts["dependencies"], facts["optional-dependencies"]
    assert isinstance(lines, list)
    assert isinstance(extras, dict)
    return [Requirement(line) for line in [*lines, *(line for extra in extras.values() for line in extra)]]


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    parts = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in parts}


def test_constraints_pin_every_requirement_at_or_above_its_floor() -> None:
    pinned = pins()
    for requirement in requirements():
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no pin"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} against {version}"


def test_constraints_are_exact_versions_and_nothing_else() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line)] == []


def test_everything_that_is_imported_is_required() -> None:
    import sys

    names = {"PIL": "pillow", "yaml": "pyyaml"}
    required = {canonicalize_name(requirement.name) for requirement in requirements()}
    used = {name.partition(".")[0] for path in sources(*PACKAGES) for name in imports(path)}
    outside = used - set(sys.stdlib_module_names) - set(PACKAGES)
    assert {name for name in outside if canonicalize_name(names.get(name, name)) not in required} == set()


def test_the_licence_is_the_pristine_text() -> None:
    import hashlib

    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert project()["license"] == "Apache-2.0"
