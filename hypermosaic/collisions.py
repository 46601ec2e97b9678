"""Files of a user's that hide packages of ours, such as a storage.py beside a script. Imports nothing of ours."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

PACKAGES = ("cluster", "generation", "storage", "viewer")
HOME = Path(__file__).resolve().parents[1]
"""Where all of them are, beside this one."""


def refuse_collisions(home: Path = HOME) -> None:
    """Raises ImportError, in a line, where `import storage`, or another of PACKAGES, finds something else than ours."""
    for name in PACKAGES:
        found = found_as(name)
        if found is not None and not found.is_relative_to(home / name):
            raise ImportError(
                f"{found} hides a package of hypermosaic that is called {name!r}, too: rename it", name=name
            )


def refuse_or_exit() -> None:
    """The same; where it is the command line that cannot begin, as `python -m hypermosaic`, without a traceback."""
    try:
        refuse_collisions()
    except ImportError as error:
        if ("-m", "hypermosaic") in pairwise(sys.orig_argv):
            raise SystemExit(f"error: {error}") from None
        raise


def found_as(name: str) -> Path | None:
    """The file, or folder, that a top-level name is imported from; None where there is none."""
    module = sys.modules.get(name)
    try:
        spec = module.__spec__ if module is not None else find_spec(name)
    except (ImportError, ValueError):  # of a module that somebody made by hand
        return None
    if spec is None:
        return Path(module.__file__).resolve() if module is not None and module.__file__ else None
    places = (
        [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    )
    return Path(places[0]).resolve() if places else None
