"""Errors, times and sizes as people read them. Knows no job."""

from __future__ import annotations

from generation.models.errors import first_line

LONGEST_LINE = 300
LONGEST_OF_OURS = 600
"""Of a message that is written for people from its beginning to its end, and may name two files."""
UNITS = (("EB", 10**18), ("PB", 10**15), ("TB", 10**12), ("GB", 10**9), ("MB", 10**6))
DAYS_FROM = 100 * 3600
ROUNDS_UP = 0.9995
"""Of a unit: what three digits would write as 1000 of the smaller one."""


def one_line(error: BaseException | str, longest: int = LONGEST_LINE) -> str:
    """An error's message in a line that is not too long; its class where it has none."""
    return first_line(error, longest)


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 10 min, 12 days."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < DAYS_FROM:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    return f"{whole / 86400:,.0f} days"


def time_left(seconds: float | None) -> str:
    """ ", about 2 min 10 s left"; nothing where nobody knows."""
    return "" if seconds is None else f", about {duration(seconds)} left"


def gigabytes(size: int) -> str:
    """Bytes in the unit that suits them, in powers of ten."""
    for unit, factor in UNITS:
        if size >= ROUNDS_UP * factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1000:.3g} kB"
