"""What a fault costs: the memory it takes at its worst, and how long it keeps other tasks waiting."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

__all__ = ["Memory", "Turns", "memory", "turns"]

_NAP = 0.005


@dataclass(slots=True)
class Memory:
    """Bytes held at the worst moment, above those held before.

    The peak of the process would not do: what an earlier test had once hides what this one takes.
    """

    peak: int = 0


@contextmanager
def memory() -> Generator[Memory, None, None]:
    """Measure what Python's allocators hand out inside the block, whoever asks."""
    taken = Memory()
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        yield taken
        _, most = tracemalloc.get_traced_memory()
        taken.peak = most - before
    finally:
        tracemalloc.stop()


@dataclass(slots=True)
class Turns:
    """How often another task had its turn, and for how long it had to wait at most, in seconds of this thread's CPU."""

    count: int = 0
    longest: float = 0.0


@asynccontextmanager
async def turns() -> AsyncGenerator[Turns, None]:
    """Let a task nap inside the block, again and again, and see when it wakes."""
    seen = Turns()

    async def nap() -> None:
        while True:
            last = time.thread_time()
            await asyncio.sleep(_NAP)
            seen.longest = max(seen.longest, time.thread_time() - last)
            seen.count += 1

    napping = asyncio.create_task(nap())
    await asyncio.sleep(0)
    try:
        yield seen
    finally:
        napping.cancel()
