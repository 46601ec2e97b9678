"""A file of a user's that is called as a package of ours: one line says which."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hypermosaic.collisions import PACKAGES, refuse_collisions

ROOT = Path(__file__).parents[1]
SCRIPT = f"import sys; sys.path.append({str(ROOT)!r})\nimport hypermosaic\n"


def ran(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a script in a folder is run: its folder comes first, ours after it."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": ""}
    )


@pytest.mark.parametrize("name", PACKAGES)
def test_a_script_beside_such_a_file_is_told_in_a_line(name: str, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / f"{name}.py").write_text("MINE = 1\n")
    found = ran(tmp_path, "script.py")
    *_, last = found.stderr.strip().splitlines()
    assert found.returncode == 1
    assert last == (
        f"ImportError: {tmp_path / name}.py hides a package of hypermosaic that is called {name!r}, too: rename it"
    )


def test_a_module_that_is_imported_already_is_found(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(f"import storage\nassert storage.MINE\n{SCRIPT}")
    (tmp_path / "storage.py").write_text("MINE = 1\n")
    assert "storage.py hides a package" in ran(tmp_path, "script.py").stderr


def test_the_command_is_told_too_where_it_is_run_as_a_module(tmp_path: Path) -> None:
    (tmp_path / "storage.py").write_text("MINE = 1\n")
    found = subprocess.run(
        [sys.executable, "-m", "hypermosaic", "--help"], cwd=tmp_path, capture_output=True, text=True,
        env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert found.returncode == 1 and len(found.stderr.splitlines()) == 1
    assert f"{tmp_path / 'storage.py'} hides a package" in found.stderr


def test_a_folder_of_that_name_hides_it_too(tmp_path: Path) -> None:
    (tmp_path / "viewer").mkdir()
    (tmp_path / "viewer" / "__init__.py").write_text("")
    (tmp_path / "script.py").write_text(SCRIPT)
    assert f"{tmp_path / 'viewer' / '__init__.py'} hides" in ran(tmp_path, "script.py").stderr


def test_files_of_other_names_hide_nothing(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT + "import storage.geometry\n")
    (tmp_path / "stores.py").write_text("")
    (tmp_path / "storage.txt").write_text("")
    found = ran(tmp_path, "script.py")
    assert (found.returncode, found.stderr) == (0, "")


def test_here_there_is_none() -> None:
    refuse_collisions()


def test_packages_that_lie_elsewhere_are_others(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"hides a package of hypermosaic that is called 'cluster', too"):
        refuse_collisions(tmp_path)
