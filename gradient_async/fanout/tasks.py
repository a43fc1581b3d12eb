"""Starts tasks whose first step runs later, whatever the event loop's task factory does."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def later(work: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
    """Return the coroutine for a new task: ``work()``, which does not begin before the task has been created.

    The code that creates a task also records it, and counts on that the task has not run before. A factory such as
    `asyncio.eager_task_factory` runs the first step of a task while the task is created. Workers that create further
    workers would then run inside each other, uncounted, until the stack is full.
    """
    if asyncio.get_running_loop().get_task_factory() is None:
        return work()
    return _after_a_turn(work)


async def _after_a_turn(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    # Takes a function, not a coroutine: Python warns of a coroutine that is never awaited, which a cancellation of this
    # sleep would cause.
    await asyncio.sleep(0)
    return await work()
