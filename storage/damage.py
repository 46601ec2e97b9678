"""The one error for what is stored and is not as it was written. Knows nothing of what it was."""

from __future__ import annotations


class DamagedData(OSError):
    """Something stored that should be there is missing, torn or rotten. Whoever wrote it can write it again."""
