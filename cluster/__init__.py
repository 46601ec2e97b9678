"""Who does what, when: jobs, plans, executors, the command line. Knows generation and storage, which do not know it.

    from cluster import JobSpec, batch, export, generate, plan, resume, status, verify

The names are imported when they are first used, so that `import cluster` costs nothing and no worker pays for the
command line.
"""

from __future__ import annotations

import sys
from types import ModuleType
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
    from cluster.spec import JobSpec as JobSpec
    from cluster.spec import SpecError as SpecError

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


class _Package(ModuleType):
    """Keeps three names, which are functions here and submodules too, from being taken by the submodules.

    Importing `cluster.plan` assigns the module to `cluster.plan`; the module stays within reach as
    `from cluster.plan import Plan`.
    """

    @property
    def batch(self) -> Any:
        return __getattr__("batch")

    @batch.setter
    def batch(self, module: ModuleType) -> None: ...

    @property
    def plan(self) -> Any:
        return __getattr__("plan")

    @plan.setter
    def plan(self, module: ModuleType) -> None: ...

    @property
    def status(self) -> Any:
        return __getattr__("status")

    @status.setter
    def status(self, module: ModuleType) -> None: ...


sys.modules[__name__].__class__ = _Package
