"""Measures work in ways that a busy machine changes little or not at all."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_run(work: Callable[[], object]) -> int:
    """Return how many lines of Python run in a call."""
    count = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    outer = sys.gettrace()  # that of coverage, for instance
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(outer)
    return count


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the least CPU time of five calls, in seconds."""
    times: list[float] = []
    for _ in range(5):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return min(times)


def expect_linear(make: Callable[[int], Callable[[], object]], size: int) -> None:
    """Check that work on eight times as much takes less than 32 times as long; it would take 64 if it were quadratic.

    Args:
        make: Returns the work for a size.
        size: The smaller size.
    """
    small, large = cpu_seconds(make(size)), cpu_seconds(make(8 * size))
    assert large < 32 * small + 0.001
