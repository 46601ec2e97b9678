"""`doctor`: what works on this machine, what is missing, what to do about it. Knows the machine; knows no job."""

from __future__ import annotations

import importlib
import json
import platform
import shutil
import socket
import sys
import urllib.request
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import typer
from rich.markup import escape
from rich.table import Table

from cluster.commands.making import Json
from cluster.commands.streams import console
from cluster.engine.executors.ray_tokens import NotLetIn, check_admission
from cluster.machine import environment, nearest_existing
from cluster.wording import gigabytes
from generation.models.errors import first_line
from storage.containers import cores

LEAST_PYTHON = (3, 11)
LEAST_DISK, LEAST_MEMORY = 2 * 10**9, 2 * 10**9
PATIENCE = 3.0
"""Seconds for which others are given time to answer."""
LIBRARIES = (
    "torch",
    "diffusers",
    "transformers",
    "ray",
    "tensorstore",
    "tifffile",
    "zarr",
    "PIL",
    "uvicorn",
    "starlette",
)
OPTIONAL = {
    "pyvips": "export",
    "imagecodecs": "export",
    "piexif": "export",
    "av": "video",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ok: it works; missing: jobs will fail; note: worth knowing."""

    name: str
    verdict: Literal["ok", "missing", "note"]
    text: str


def doctor(as_json: Json = False) -> None:
    """Say what works on this machine and what is missing. Exit code 1 where something needed is missing."""
    findings = list(examine(CHECKS))
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        console().print(table_of(findings))
    if any(finding.verdict == "missing" for finding in findings):
        raise typer.Exit(1)


def table_of(findings: Iterable[Finding]) -> Table:
    """A row for each finding, its verdict in colour."""
    colours = {"ok": "green", "missing": "red", "note": "yellow"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for finding in findings:
        table.add_row(f"[{colours[finding.verdict]}]{finding.verdict}[/]", finding.name, escape(finding.text))
    return table


Check = Callable[[], Iterable[Finding]]


def examine(checks: Iterable[Check]) -> Iterable[Finding]:
    """Every finding; a check that fails by itself is one too."""
    for check in checks:
        try:
            yield from check()
        except Exception as error:  # the point is to go on and say so
            yield Finding(
                check.__name__, "missing", f"could not be examined: {type(error).__name__}: {error}"
            )


def python() -> Iterable[Finding]:
    """Whether this Python is new enough."""
    good = sys.version_info >= LEAST_PYTHON
    least = ".".join(map(str, LEAST_PYTHON))
    yield Finding(
        "python", "ok" if good else "missing", f"{platform.python_version()} ({least} or newer is needed)"
    )


def libraries() -> Iterable[Finding]:
    """Whether what every job needs can be imported, and its versions."""
    for name in LIBRARIES:
        try:
            module = importlib.import_module(name)
        except Exception as error:  # a broken binary raises anything
            yield Finding(name, "missing", f"{type(error).__name__}: {error}; install it again: make env")
        else:
            yield Finding(name, "ok", str(getattr(module, "__version__", "present")))


def extras() -> Iterable[Finding]:
    """Whether what some exports need can be imported."""
    for name, extra in OPTIONAL.items():
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            yield Finding(
                name, "note", f"not installed; pip install 'hypermosaic[{extra}]' where it is wanted"
            )
        except Exception as error:  # a broken binary raises anything
            yield Finding(
                name, "note", f"{type(error).__name__}: {error}; pip install 'hypermosaic[{extra}]' again"
            )
        else:
            yield Finding(name, "ok", str(getattr(module, "__version__", "present")))


def device() -> Iterable[Finding]:
    """GPUs that PyTorch sees; nothing is computed on them."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        yield Finding("device", "ok", f"{len(names)} GPU(s): {', '.join(names)}")
    else:
        yield Finding("device", "note", f"no GPU for PyTorch; {cores()} CPU core(s) will do the work")


def embedded_model() -> Iterable[Finding]:
    """Whether the shipped model's files are whole; its weights are not loaded."""
    from generation.models.loading import describe

    info = describe("embedded")
    yield Finding(
        "embedded model", "ok", f"{info.parameters_bytes / 1e6:.0f} MB, {len(info.class_names)} classes"
    )


def memory() -> Iterable[Finding]:
    """Whether the free memory holds a worker."""
    from cluster.jobs.fitting import available_memory

    free = available_memory()
    good = free >= LEAST_MEMORY
    fix = "" if good else f"; a worker needs about {gigabytes(LEAST_MEMORY)}"
    yield Finding("memory", "ok" if good else "missing", f"{gigabytes(free)} available{fix}")


def disk() -> Iterable[Finding]:
    """Whether the disk of `out` in this folder has room for a picture; nothing is written."""
    folder = nearest_existing(Path("out"))
    free = shutil.disk_usage(folder).free
    good = free >= LEAST_DISK
    fix = "" if good else "; a picture of 4096 x 4096 needs about 2 GB, give --out on a larger disk"
    yield Finding("disk", "ok" if good else "missing", f"{gigabytes(free)} free at {folder}{fix}")


def ray_cluster() -> Iterable[Finding]:
    """Whether something listens at RAY_ADDRESS, and lets us in; joining would take long, and is left to jobs."""
    address = environment().get("RAY_ADDRESS")
    if not address:
        yield Finding(
            "cluster", "ok", "RAY_ADDRESS is not set; a local Ray is started for each job (not tried)"
        )
        return
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        place = (parts.hostname or "", parts.port or 0)
        if not all(place):
            yield Finding(
                "cluster", "note", f"RAY_ADDRESS is {address}: no host and port to ask, so not asked"
            )
            return
        socket.create_connection(place, PATIENCE).close()
        check_admission(address)
    except NotLetIn as error:
        yield Finding("cluster", "missing", str(error))
        return
    except (OSError, ValueError) as error:
        yield Finding(
            "cluster", "missing", f"nothing answers at RAY_ADDRESS {address} ({error}); correct or unset it"
        )
        return
    yield Finding(
        "cluster",
        "note",
        f"something answers at RAY_ADDRESS {address}; the cluster was not joined, jobs do that",
    )


def hub() -> Iterable[Finding]:
    """Whether the hub answers; without it, models that are here already work."""
    found = environment()
    offline = [
        name for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if found.get(name, "0") not in ("", "0")
    ]
    where = f"models are kept in {found.get('HF_HOME', '~/.cache/huggingface')}"
    if offline:
        yield Finding("hub", "note", f"offline by {', '.join(offline)}, so it was not asked; {where}")
        return
    try:
        ask_hub()
    except Exception as error:  # of its HTTP library, whichever it is
        told = first_line(error)
        yield Finding(
            "hub", "note", f"it does not answer ({told}); only models that are here can be used; {where}"
        )
    else:
        yield Finding("hub", "ok", f"it answers; models are downloaded when first used; {where}")


def ask_hub() -> None:
    """Ask for the hub's first page, and raise whatever comes in its way."""
    from huggingface_hub import constants

    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    urllib.request.urlopen(request, timeout=PATIENCE).close()


CHECKS: tuple[Check, ...] = (
    python, libraries, extras, device, embedded_model, memory, disk, ray_cluster, hub,
)  # fmt: skip
