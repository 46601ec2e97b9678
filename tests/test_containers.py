"""Limits of containers: control groups of both versions, drawn as folders, bound processors and memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from storage.containers import available_memory, cores

GB = 2**30
MACHINE = "MemTotal:       65536000 kB\nMemAvailable:   62914560 kB\n"
"""60 GiB are free."""
V2 = "41 31 0:38 {top} /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
V1 = "{n} 31 0:{n} {top} /sys/fs/cgroup/{name} rw,relatime - cgroup cgroup rw,{name}\n"


def written(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def of_version_2(root: Path, group: str = "/", top: str = "/", **limits: str) -> Path:
    """limits: files of the group's folder; "__" is a dot."""
    folder = Path("sys/fs/cgroup") / group.strip("/")
    return written(
        root,
        {
            "proc/self/cgroup": f"0::{group}\n",
            "proc/self/mountinfo": V2.format(top=top),
            "proc/meminfo": MACHINE,
        }
        | {f"{folder}/{name.replace('__', '.')}": text for name, text in limits.items()},
    )


def of_version_1(root: Path, group: str, top: str, cpu: dict[str, str], memory: dict[str, str]) -> Path:
    """A group as the machine calls it, and what of it is mounted here."""
    mounts = "".join(V1.format(n=n, top=top, name=name) for n, name in ((32, "cpu,cpuacct"), (35, "memory")))
    below = group.removeprefix(top).strip("/")
    files = {f"cpu,cpuacct/{below}/{name}": text for name, text in cpu.items()}
    files |= {f"memory/{below}/{name}": text for name, text in memory.items()}
    told = f"9:name=systemd:/\n4:memory:{group}\n2:cpu,cpuacct:{group}\n0::/\n"
    return written(
        root,
        {"proc/self/cgroup": told, "proc/self/mountinfo": mounts, "proc/meminfo": MACHINE}
        | {f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    )


MINE = len(os.sched_getaffinity(0))
HALF = f"{MINE * 50_000} 100000\n"


def test_without_limits_it_is_the_machine(tmp_path: Path) -> None:
    root = of_version_2(tmp_path, cpu__max="max 100000\n", memory__max="max\n", memory__current="99\n")
    assert (cores(root), available_memory(root)) == (MINE, 60 * GB)


def test_where_nothing_tells(tmp_path: Path) -> None:
    assert (cores(tmp_path), available_memory(tmp_path)) == (MINE, None)


def test_limits_of_version_2(tmp_path: Path) -> None:
    """Files in memory are given back first, so they count as free."""
    stat = f"anon {GB}\ninactive_file {GB // 2}\nactive_file {GB // 4}\nshmem 7\n"
    root = of_version_2(
        tmp_path, cpu__max=HALF, memory__max=f"{4 * GB}\n", memory__current=f"{2 * GB}\n", memory__stat=stat
    )
    assert cores(root) == -(-MINE // 2)
    assert available_memory(root) == 2 * GB + GB // 2 + GB // 4


def test_the_least_of_a_group_and_those_above_counts(tmp_path: Path) -> None:
    root = of_version_2(
        tmp_path, "/pod/worker", cpu__max="max 100000\n", memory__max="max\n", memory__current="5\n"
    )
    written(
        root / "sys/fs/cgroup/pod",
        {"cpu.max": "50000 100000\n", "memory.max": f"{3 * GB}\n", "memory.current": f"{GB}\n"},
    )
    assert (cores(root), available_memory(root)) == (1, 2 * GB)


@pytest.mark.parametrize(("group", "top"), [("/", "/"), ("/docker/ab12", "/docker/ab12"), ("/job", "/")])
def test_limits_of_version_1(group: str, top: str, tmp_path: Path) -> None:
    """Mounted whole, as its own group alone, or one group of many."""
    root = of_version_1(
        tmp_path, group, top,
        {"cpu.cfs_quota_us": f"{MINE * 50_000}\n", "cpu.cfs_period_us": "100000\n"},
        {
            "memory.limit_in_bytes": f"{8 * GB}\n", "memory.usage_in_bytes": f"{3 * GB}\n",
            "memory.stat": f"cache 3\ninactive_file 1\ntotal_inactive_file {GB}\ntotal_active_file 0\n",
        },
    )  # fmt: skip
    assert (cores(root), available_memory(root)) == (-(-MINE // 2), 6 * GB)


def test_no_limits_of_version_1(tmp_path: Path) -> None:
    root = of_version_1(
        tmp_path, "/", "/", {"cpu.cfs_quota_us": "-1\n", "cpu.cfs_period_us": "100000\n"},
        {"memory.limit_in_bytes": "9223372036854771712\n", "memory.usage_in_bytes": f"{GB}\n"},
    )  # fmt: skip
    assert (cores(root), available_memory(root)) == (MINE, 60 * GB)


def test_a_group_that_another_namespace_names(tmp_path: Path) -> None:
    """What is mounted is what can be seen, whatever the group is called outside."""
    root = of_version_2(tmp_path, "/../../elsewhere", memory__max="1\n")
    written(root / "sys/fs/cgroup", {"memory.max": f"{GB}\n", "memory.current": "0\n"})
    assert available_memory(root) == GB


def test_memory_that_is_over_its_limit_is_none(tmp_path: Path) -> None:
    root = of_version_2(tmp_path, memory__max=f"{GB}\n", memory__current=f"{2 * GB}\n")
    assert available_memory(root) == 0


def test_here_it_is_something() -> None:
    assert 1 <= cores() <= MINE
    assert (available_memory() or 0) > 100 * 2**20
