"""Giant pictures with diffusion models, from Python.

    import hypermosaic as hm

    picture = hm.generate("archipelago", width=4096, height=4096)    # out/archipelago
    picture.image, picture.page, picture.array
    hm.open("out/archipelago")                                       # the same object, later

plan, generate, resume, batch, export, view, verify and status do what the commands of the same names do, and open gives
a finished picture. They are imported when they are first used: `import hypermosaic` itself costs nothing, and changes
nothing in the process; what a call changes is put back when it returns.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hypermosaic.collisions import refuse_or_exit

refuse_or_exit()

if TYPE_CHECKING:
    from cluster.errors import ExportError as ExportError
    from cluster.errors import FormatError as FormatError
    from cluster.errors import Interrupted as Interrupted
    from cluster.errors import ModelError as ModelError
    from cluster.errors import NumericalError as NumericalError
    from cluster.errors import SpecError as SpecError
    from cluster.errors import TaskFailed as TaskFailed
    from cluster.results.mosaic import Mosaic as Mosaic
    from cluster.spec.fields import JobSpec as JobSpec
    from hypermosaic.calls import batch as batch
    from hypermosaic.calls import export as export
    from hypermosaic.calls import generate as generate
    from hypermosaic.calls import open as open
    from hypermosaic.calls import plan as plan
    from hypermosaic.calls import resume as resume
    from hypermosaic.calls import status as status
    from hypermosaic.calls import verify as verify
    from hypermosaic.calls import view as view

__all__ = [
    "ExportError",
    "FormatError",
    "Interrupted",
    "JobSpec",
    "ModelError",
    "Mosaic",
    "NumericalError",
    "SpecError",
    "TaskFailed",
    "batch",
    "export",
    "generate",
    "open",
    "plan",
    "resume",
    "status",
    "verify",
    "view",
]

HOMES = {"JobSpec": "cluster.spec.fields", "Mosaic": "cluster.results.mosaic"}
"""Where classes are that are no errors; errors, whose names are capital, and functions are together."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hypermosaic' has no attribute {name!r}")
    together = "cluster.errors" if name[0].isupper() else "hypermosaic.calls"
    return getattr(import_module(HOMES.get(name, together)), name)


def __dir__() -> list[str]:
    return list(__all__)
