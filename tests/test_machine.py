"""What a worker's process does to its own memory: each in a process of its own, for these are settings of a process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from cluster.engine.executors.hosts import Owner
from cluster.engine.executors.in_process import InProcess
from cluster.machine import HUGE_PAGES, settled

ROOT = Path(__file__).parents[1]
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap is Linux'")


def said(program: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout.split()


@linux
def test_freed_memory_goes_back() -> None:
    """Pieces too small to be mapped alone, between others that stay."""
    before, after = said(
        "from pathlib import Path; from cluster.machine import give_back_memory\n"
        "def rss(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 // 2**20\n"
        "pieces = [bytearray(100_000) for _ in range(2000)]\n"
        "del pieces[::2]; kept = rss(); give_back_memory(); print(kept, rss())"
    )
    assert int(after) < int(before) - 70


PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def huge_pages() -> str:
    """always, madvise or never."""
    return PAGES.read_text().partition("[")[2].partition("]")[0] if PAGES.is_file() else "never"


@linux
@pytest.mark.skipif(huge_pages() == "never", reason=f"this kernel gives no huge pages ({PAGES})")
def test_large_buffers_go_back_when_they_are_freed() -> None:
    """Though smaller ones that stay lie between them in time, and nothing is asked to be given back."""
    mapped, before, held, after = said(
        "from pathlib import Path; from cluster.machine import map_large_buffers\n"
        "mapped = map_large_buffers()\n"
        "import torch\n"
        "def rss(): return int(Path('/proc/self/statm').read_text().split()[1]) * 4096 // 2**20\n"
        "before, small, large = rss(), [], []\n"
        "for _ in range(40): large.append(torch.ones(2**20)); small.append(torch.ones(1000))\n"
        "held = rss(); del large; print(mapped, before, held, rss())"
    )
    assert mapped == "True"
    assert int(held) >= int(before) + 150
    assert int(after) <= int(before) + 15


@linux
@pytest.mark.skipif(huge_pages() == "always", reason="this kernel gives huge pages to whoever comes")
def test_without_huge_pages_nothing_is_mapped() -> None:
    """PyTorch has looked for the variable already; mapping pages of the usual size would cost more than it brings."""
    told = said(
        "import torch; torch.ones(1); from cluster.machine import map_large_buffers; print(map_large_buffers())"
    )
    assert told == ["False"]


class NoWork:
    """Loads nothing."""

    tasks_in_flight = 1

    def worker(self) -> object:
        return object()


class Ring:
    """Garbage, once nobody has it, that counting references does not find."""

    def __init__(self) -> None:
        self.itself = self


def test_of_all_garbage_only_that_of_loading_is_looked_for() -> None:
    """A caller's own objects, of which there may be millions, cost a small picture nothing."""
    left: list[weakref.ref[Ring]] = []

    def leave_garbage() -> None:
        left.append(weakref.ref(Ring()))

    gc.disable()
    try:
        leave_garbage()
        settled(leave_garbage)
        assert [ring() is None for ring in left] == [False, True]
    finally:
        gc.enable()
        gc.unfreeze()


def test_what_is_loaded_is_not_looked_through_until_the_executor_closes() -> None:
    gc.unfreeze()
    executor = InProcess.of(NoWork(), Owner())
    assert gc.get_freeze_count() > 10_000
    executor.close()
    assert gc.get_freeze_count() == 0
