"""Errors, times and sizes in words: nothing is said of what nobody knows, and no figure is longer than people read."""

from __future__ import annotations

import pytest

from cluster.wording import duration, gigabytes, one_line, time_left


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7800, "2 h 10 min"),
        (99.5 * 3600, "99 h 30 min"),
        (1e9, "11,574 days"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_of_time_that_nobody_knows_nothing_is_said() -> None:
    assert (time_left(None), time_left(61)) == ("", ", about 1 min 01 s left")


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 kB"),
        (2_500, "2.5 kB"),
        (999_400_000, "999 MB"),
        (999_600_000, "1 GB"),
        (5 * 10**12, "5 TB"),
        (1_770 * 10**12, "1.77 PB"),
        (3 * 10**18, "3 EB"),
    ],
)
def test_sizes(size: int, words: str) -> None:
    assert gigabytes(size) == words


def test_an_error_is_one_line_whose_cause_is_kept() -> None:
    nested = RuntimeError(f"task 3: {'worker: ' * 100}no space left on device\nat line 12\nof a library")
    line = one_line(nested)
    assert line.startswith("task 3: ") and line.endswith("no space left on device")
    assert len(line) < 310 and "\n" not in line
    assert one_line(ValueError("weights do not fit:\n  unet.conv_in has 4 channels")).endswith(
        "has 4 channels"
    )
    assert one_line(MemoryError()) == "MemoryError"
