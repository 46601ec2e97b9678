"""Which errors are one request's fault, and which end a batch, which then goes on with --resume. Knows types alone."""

from __future__ import annotations

from generation.models.errors import ModelError

OF_ROWS = (ArithmeticError, ValueError, RuntimeError, MemoryError)
"""NaN, what cannot be drawn, and what the network or its memory say to a picture. Disks are nobody's."""
OF_NONE = ("AcceleratorError", "RayError")
"""A device or a cluster that is not what it was: the same would befall the next request."""


def is_of_rows(error: Exception) -> bool:
    """Whether an error is for the requests that were drawn to answer for, so that the others can go on."""
    if isinstance(error, ModelError) or any(kind.__name__ in OF_NONE for kind in type(error).__mro__):
        return False
    return isinstance(error, OF_ROWS)


def told(error: Exception) -> str:
    """An error that says nothing, such as MemoryError, by its name."""
    return str(error).strip() or type(error).__name__
