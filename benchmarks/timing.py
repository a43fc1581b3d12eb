"""How work is timed: CPU of this process, the garbage collector in the same state for everybody."""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

__all__ = ["QUICK", "is_quick", "quickest", "quickest_awaited", "settle", "some"]

_Size = TypeVar("_Size")

QUICK = "BENCHMARKS_QUICK"  # set to 1 in the environment, for all processes of a smoke run
LEAST = 0.3  # seconds of CPU that the turns of a measurement take together, at least
TURNS = 3  # at least, unless they take long
LONG = 1.0  # seconds of CPU after which there is no further turn


def quickest(work: Callable[[], object], *, least: float = LEAST) -> float:
    """Do work again and again; return the CPU seconds of the quickest turn.

    What disturbs a turn only ever makes it slower. The first turn warms up, and does not count.

    Args:
        work: What is measured.
        least: Seconds that the turns take together, at least.
    """
    work()
    settle()
    costs: list[float] = []
    while _wanted(costs, least):
        started = time.process_time()
        work()
        costs.append(time.process_time() - started)
    return min(costs)


async def quickest_awaited(work: Callable[[], Awaitable[object]], *, least: float = LEAST) -> float:
    """Await work again and again; return the CPU seconds of the quickest turn, as `quickest` does."""
    await work()
    settle()
    costs: list[float] = []
    while _wanted(costs, least):
        started = time.process_time()
        await work()
        costs.append(time.process_time() - started)
    return min(costs)


def is_quick() -> bool:
    """Whether nothing is to be learned but that the benchmark runs: one short turn of everything."""
    return os.environ.get(QUICK) == "1"


def some(sizes: Sequence[_Size]) -> Sequence[_Size]:
    """Return all sizes, or in a smoke run the first."""
    return sizes[:1] if is_quick() else sizes


def _wanted(costs: list[float], least: float) -> bool:
    """Whether another turn is wanted after these."""
    spent = sum(costs)
    if is_quick():
        return not costs
    return spent < least or (len(costs) < TURNS and spent < LONG)


def settle() -> None:
    """Collect garbage, and take what is left out of the collector's sight.

    The collector stays on. It would visit a large library's classes as well, again and again, which says nothing
    of the work: who imports little must not gain by that.
    """
    gc.collect()
    gc.freeze()
