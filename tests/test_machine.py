"""What a worker's process does to its own memory: each in a process of its own, for these are settings of a process."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.executors.in_process import InProcess

ROOT = Path(__file__).parents[1]
linux = pytest.mark.skipif(sys.platform != "linux", reason="glibc's heap is Linux'")


def said(program: str) -> list[str]:
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True
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


class NoWork:
    """Loads nothing."""

    at_once = 1

    def worker(self) -> object:
        return object()


def test_what_is_loaded_is_not_looked_through_until_the_executor_closes() -> None:
    gc.unfreeze()
    executor = InProcess.of(NoWork())
    assert gc.get_freeze_count() > 10_000
    executor.close()
    assert gc.get_freeze_count() == 0
