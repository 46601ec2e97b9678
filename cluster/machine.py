"""What this machine offers, and what its environment asks for. Knows the operating system; knows no job.

The one place that reads environment variables of ours and of Ray.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

from storage.containers import cores

T = TypeVar("T")

QUIET: dict[str, str] = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Variables that keep libraries, and the workers that inherit them, from talking; set before they are imported."""
OF_RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_prestart_worker_first_driver": "0",
}
"""Variables that Ray starts with. By the last it starts no processes before they are asked for: actors with variables
of their own could not use them, and each would stand by with 80 MB (docs/log.md).
"""

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""Makes PyTorch ask for huge pages for buffers of 2 MiB and more; it looks when it makes its first buffer."""
OF_A_WORKER = {HUGE_PAGES: "1", "MALLOC_ARENA_MAX": "2"}
"""Variables that a worker's process begins with. glibc otherwise has a heap for almost every thread, of Ray's and of
TensorStore's too, and each keeps what it once held."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MAPPED_FROM_BYTES, KEPT_BYTES = 2 * 2**20, 16 * 2**20

NEW_OBJECTS, OLDER_GENERATIONS = 50_000, (20, 50)

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Machine:
    """CPU cores that this process may use, GPUs that PyTorch sees, and the address of a Ray cluster ("" for none)."""

    cores: int
    gpus: int
    ray_address: str


GPU_DEVICES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/nvhost-ctrl", "/dev/kfd", "/dev/dxg")
"""What the drivers of NVIDIA's and AMD's GPUs put there, boards with a GPU of their own and Windows' Linux included."""


@cache
def local_machine() -> Machine:
    """This machine, asked once; imports torch where there may be a GPU."""
    return Machine(cores(), count_gpus(), os.environ.get("RAY_ADDRESS", ""))


def count_gpus(devices: Iterable[str] = GPU_DEVICES) -> int:
    """GPUs that PyTorch can compute with. devices: files of which one is there if there are any, on Linux."""
    if sys.platform == "linux" and not any(map(os.path.exists, devices)):
        return 0  # known without PyTorch, which takes seconds to import
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def hush() -> None:
    """Set what is not set of QUIET and OF_RAY."""
    for name, value in (QUIET | OF_RAY).items():
        os.environ.setdefault(name, value)


@contextmanager
def variables_set(wanted: Mapping[str, str]) -> Iterator[None]:
    """Of these variables those that are not set are, in here alone."""
    new = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            os.environ.pop(name, None)


def ask_for_huge_pages() -> None:
    """Have PyTorch ask for them, unless the environment says otherwise; in vain once it has made a buffer."""
    os.environ.setdefault(HUGE_PAGES, "1")


def environment() -> dict[str, str]:
    """The variables that change what a job does, where they are set."""
    names = ("RAY_ADDRESS", "HF_HOME", "CUDA_VISIBLE_DEVICES", *OFFLINE)
    return {name: os.environ[name] for name in names if name in os.environ}


def nearest_existing(path: Path) -> Path:
    """The path, or the closest folder above it that exists."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def compute_with(threads: int) -> None:
    """CPU threads with which PyTorch computes for the calling thread. Imports torch.

    It asks first: a thread that was never asked takes, with its first operation, what any thread said last; and sums
    depend on the number of threads, and so do the bytes of a picture.
    """
    import torch

    torch.get_num_threads()
    torch.set_num_threads(threads)


@contextmanager
def computation_kept() -> Iterator[None]:
    """How PyTorch computes, with how many threads and by which of cuDNN's algorithms, is afterwards as it was before.

    Imports torch.
    """
    import torch

    cudnn = torch.backends.cudnn
    threads, choices = torch.get_num_threads(), (cudnn.deterministic, cudnn.benchmark)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.deterministic, cudnn.benchmark = choices


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc keeps it, and peaks would add up)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


@cache
def map_large_buffers() -> bool:
    """Let every large buffer have pages of its own, which go back when it is freed; huge ones, or it would take long.

    glibc otherwise keeps them in its heaps, where 2.36 cannot lay an aligned buffer into the hole that another left
    (docs/log.md). True where it is so from now on, for the life of this process: on Linux with glibc, with huge
    pages for those who ask, and unless PyTorch made its first buffer before it was told to. Imports torch.
    """
    ask_for_huge_pages()
    set_limit = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if set_limit is None or not _torch_gets_huge_pages():
        return False
    set_limit(M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
    set_limit(M_TRIM_THRESHOLD, KEPT_BYTES)
    return True


def _torch_gets_huge_pages() -> bool:
    import torch

    before = _huge_kilobytes()
    buffer = torch.ones(8 * 2**20, dtype=torch.uint8)
    found = _huge_kilobytes() > before
    del buffer  # not before it is counted
    return found


def _huge_kilobytes() -> int:
    """Memory of this process that lies in huge pages."""
    try:
        told = Path("/proc/self/smaps_rollup").read_text()
    except OSError:  # before Linux 4.14
        return 0
    return sum(int(line.split()[1]) for line in told.splitlines() if line.startswith("AnonHugePages:"))


def collect_rarely() -> None:
    """Look for garbage after every 50,000 new objects, not 700, from now on: for processes that are ours alone.

    Importing torch and diffusers makes a million objects, which all stay; looking through them again and again took a
    fifth of its time (docs/log.md).
    """
    gc.set_threshold(NEW_OBJECTS, *OLDER_GENERATIONS)


def settled(load: Callable[[], T]) -> T:
    """Load what stays, and leave this process' memory so that what comes after it costs little; until `gc.unfreeze`.

    Imported libraries have a million objects; looking through them for garbage again and again was 8 % of what the
    engine takes beside the network (docs/log.md). So what was there before is set aside as it is, and only what
    loading made is looked through, once.
    """
    map_large_buffers()
    gc.freeze()
    loaded = load()
    gc.collect()
    gc.freeze()
    return loaded
