"""What a page says of its own picture: the description written into index.html. Knows that element; writes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DESCRIPTION = re.compile(r'<script type="application/json" id="description">(.*?)</script>', re.DOTALL)
LONGEST_PAGE = 2**20


def description_of(folder: Path) -> Mapping[str, Any]:
    """The description in a folder's page; empty where there is no page, or one that is not ours."""
    try:
        with (folder / "index.html").open(encoding="utf-8", errors="replace") as page:
            found = DESCRIPTION.search(page.read(LONGEST_PAGE))
        described = json.loads(found[1]) if found else {}
    except (OSError, ValueError, RecursionError):  # the last for what is nested too deeply
        return {}
    return described if isinstance(described, dict) else {}
