"""How much of the machine this process may use: what its control groups leave of processors and memory.

Knows both versions of Linux's control groups; knows no job. Containers are made of them:

    /proc/self/cgroup       where this process is          4:memory:/docker/ab12         0::/user.slice/job
    /proc/self/mountinfo    where that can be looked up    ... /docker/ab12 /sys/fs/cgroup/memory ... cgroup memory

A group is bounded by those above it, too, so each limit is the least on the way up to where the groups are mounted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
UNLIMITED = 2**60
"""Bytes from which a limit is none: version 1 says so by the largest number of pages."""


def cores(root: Path = ROOT) -> int:
    """Processors that this process may use: those that it may run on, or what a quota leaves of them, rounded up."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in groups("cpu", root) if (quota := _quota(group)) is not None]
    return max(1, min([mine, *(math.ceil(quota) for quota in quotas)]))


def available_memory(root: Path = ROOT) -> int | None:
    """Bytes that new processes may take: of the machine, or of what a limit leaves. None where nothing tells."""
    left = [room for group in groups("memory", root) if (room := _room(group)) is not None]
    for line in _text(root / "proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            left.append(int(line.split()[1]) * 1024)
    return max(0, min(left)) if left else None


@dataclass(frozen=True)
class ControlGroup:
    """A control group's folder, and which version's files lie in it."""

    folder: Path
    version: int

    def number(self, name: str) -> int | None:
        """The first number in a file of it; None where there is no such file, and for "max"."""
        first = _text(self.folder / name).split()[:1]
        return int(first[0]) if first and first[0].lstrip("-").isdigit() else None


def groups(controller: str, root: Path = ROOT) -> Iterator[ControlGroup]:
    """The groups of this process that bound it by a controller: its own, and those above it that can be seen."""
    memberships = _memberships(_text(root / "proc/self/cgroup"))
    for version, above, mounted in _mounts(_text(root / "proc/self/mountinfo"), controller):
        path = memberships.get(controller if version == 1 else "")
        if path is None:
            continue
        top = root / mounted.lstrip("/")
        own = top / _below(path, above)
        if (
            not own.is_dir()
        ):  # the group as another namespace calls it; what is mounted is what bounds this process
            own = top
        for folder in (own, *own.parents):
            yield ControlGroup(folder, version)
            if folder == top:
                break


def _memberships(text: str) -> dict[str, str]:
    """Controller -> group; "" is the one of version 2."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _mounts(text: str, controller: str) -> Iterator[tuple[int, str, str]]:
    """(version, group at the top, folder) of each file system that may tell of a controller."""
    for line in text.splitlines():
        own, _, source = line.partition(" - ")
        fields, kinds = own.split(), source.split()
        if kinds[:1] == ["cgroup2"]:
            yield 2, fields[3], fields[4]
        elif kinds[:1] == ["cgroup"] and controller in kinds[-1].split(","):
            yield 1, fields[3], fields[4]


def _below(path: str, above: str) -> str:
    """A group's path from the one that is mounted: "." where it lies elsewhere, as another namespace sees it."""
    own = PurePosixPath(path)
    return str(own.relative_to(above)) if own.is_relative_to(above) and ".." not in own.parts else "."


def _quota(group: ControlGroup) -> float | None:
    """Processors' worth of time; None where it is not bounded."""
    if group.version == 1:
        quota, period = group.number("cpu.cfs_quota_us"), group.number("cpu.cfs_period_us")
    else:
        words = _text(group.folder / "cpu.max").split()
        quota, period = (
            (int(words[0]), int(words[1])) if len(words) == 2 and words[0] != "max" else (None, None)
        )
    return quota / period if quota and period and quota > 0 else None


def _room(group: ControlGroup) -> int | None:
    """Bytes that are left of a limit; files in memory count as free, for the kernel lets go of them first."""
    one = group.version == 1
    limit = group.number("memory.limit_in_bytes" if one else "memory.max")
    used = group.number("memory.usage_in_bytes" if one else "memory.current")
    if limit is None or used is None or limit >= UNLIMITED:
        return None
    prefix = "total_" if one else ""
    pages = {f"{prefix}inactive_file", f"{prefix}active_file"}
    lines = (line.split() for line in _text(group.folder / "memory.stat").splitlines())
    return limit - used + sum(int(value) for name, value in lines if name in pages)


def _text(path: Path) -> str:
    """ "" where there is none, or it may not be read."""
    try:
        return path.read_text()
    except OSError:
        return ""
