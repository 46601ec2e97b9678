"""Models built once for all tests; and where files go: to memory, for they sync thousands of small ones."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cluster.machine import collect_rarely

if TYPE_CHECKING:
    from chromium import Browser

SHARED_MEMORY = Path("/dev/shm")
ROOM = 2 * 2**30


def pytest_configure() -> None:
    collect_rarely()
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        usage = os.statvfs(SHARED_MEMORY)
        if usage.f_bavail * usage.f_frsize > ROOM:
            os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny networks lose time to threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each family."""
    from families import BUILDERS

    root = tmp_path_factory.mktemp("models")
    return {name: build(root / name) for name, build in BUILDERS.items()}


@pytest.fixture(scope="session")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    """The same, loaded."""
    from generation.models.loading import load

    return {name: load(str(folder)) for name, folder in folders.items()}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of engine.tiny_job, with both outputs, whose folder nobody harmed."""
    from engine import files_of, tiny_job
    from harm import BOTH, go_on

    with pytest.MonkeyPatch.context() as patch:
        job = tiny_job(tmp_path_factory.mktemp("undisturbed"), patch, outputs=BOTH)
        go_on(job)
    return files_of(job.spec.out)


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Browser"]:
    """One Chromium for all tests of pages; each opens a context of its own in it."""
    from chromium import Browser

    started = Browser(tmp_path_factory.mktemp("chromium"))
    yield started
    started.close()
