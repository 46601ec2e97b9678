"""What this machine offers, and what its environment asks for. Knows the operating system; knows no job.

The one place that reads environment variables of ours and of Ray.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

QUIET: dict[str, str] = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Variables that keep libraries, and the workers that inherit them, from talking; set before they are imported."""

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")


@dataclass(frozen=True)
class Machine:
    """CPU cores that this process may use, GPUs that PyTorch sees, and the address of a Ray cluster ("" for none)."""

    cores: int
    gpus: int
    ray_address: str


@cache
def local_machine() -> Machine:
    """This machine, asked once; imports torch."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return Machine(cores(), gpus, os.environ.get("RAY_ADDRESS", ""))


def cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def hush() -> None:
    """Set what is not set of QUIET."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def environment() -> dict[str, str]:
    """The variables that change what a job does, where they are set."""
    names = ("RAY_ADDRESS", "HF_HOME", "CUDA_VISIBLE_DEVICES", *OFFLINE)
    return {name: os.environ[name] for name in names if name in os.environ}


def nearest_existing(path: Path) -> Path:
    """The path, or the closest folder above it that exists."""
    whole = path.absolute()
    return next(folder for folder in (whole, *whole.parents) if folder.exists())


def give_back_memory() -> None:
    """Return freed memory to the system, where the C library can (glibc keeps it, and peaks would add up)."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def settle() -> None:
    """Do not look through what is there now for garbage again, until `gc.unfreeze`.

    Imported libraries have a million objects; visiting them all again and again was 8 % of what the engine takes beside
    the network (docs/log.md).
    """
    gc.collect()
    gc.freeze()


def gigabytes(size: int) -> str:
    """Bytes in the unit that suits them, in powers of ten."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1000:.3g} kB"
