"""What is stored and is not as it was written, or cannot be read at all. Knows errors; knows nothing of what it was."""

from __future__ import annotations

import errno

UNREADABLE = frozenset(
    {
        errno.EIO, errno.ENXIO, errno.ESTALE, errno.EREMOTEIO, errno.ENODATA, errno.EBADMSG, errno.EUCLEAN,
        errno.EILSEQ,
    }
)  # fmt: skip
"""What reading answers where the bytes are lost: a bad sector, a file that its server no longer has, a checksum of the
file system's own. Some of them are also what a disk answers that is away for a while."""


class DamagedData(OSError):
    """Something stored that should be there is missing, torn or rotten. Whoever wrote it can write it again."""


def is_unreadable(error: Exception) -> bool:
    """Whether reading failed in a way that stays, unless it passes soon."""
    return isinstance(error, OSError) and error.errno in UNREADABLE


def is_damage(error: Exception) -> bool:
    """Whether whoever wrote what was read has to write it again, unless the error passes soon."""
    return isinstance(error, DamagedData) or is_unreadable(error)
