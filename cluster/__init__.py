"""Who does what, when: jobs, plans, executors, the command line. Knows generation and storage, which do not know it.

    from cluster import JobSpec, batch, export, generate, plan, resume, status, verify

The names are imported when they are first used, so that `import cluster` costs nothing and no worker pays for the
command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.api import Result as Result
    from cluster.api import batch as batch
    from cluster.api import export as export
    from cluster.api import generate as generate
    from cluster.api import plan as plan
    from cluster.api import resume as resume
    from cluster.api import status as status
    from cluster.api import verify as verify
    from cluster.spec.fields import JobSpec as JobSpec
    from cluster.spec.fields import SpecError as SpecError

__all__ = [
    "JobSpec",
    "Result",
    "SpecError",
    "batch",
    "export",
    "generate",
    "plan",
    "resume",
    "status",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cluster' has no attribute {name!r}")
    from cluster import api

    return getattr(api, name)
