"""Makes tasks that do not run before they have been created, with every task factory of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def later(work: Callable[[], Coroutine[Any, Any, T]]) -> Coroutine[Any, Any, T]:
    """Return the coroutine for a new task: ``work()``, which does not begin before the task has been created.

    The code that creates a task also records it, and must do so before the task runs. A factory such as
    `asyncio.eager_task_factory` runs the first step of a task during its creation. Workers that create further workers
    would then run nested in each other, without being recorded, until the stack overflows.
    """
    if asyncio.get_running_loop().get_task_factory() is None:
        return work()
    return _after_a_turn(work)


async def _after_a_turn(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    # The parameter is a function, not a coroutine. If this sleep is cancelled, a coroutine would never be awaited, and Python
    # would warn about it.
    await asyncio.sleep(0)
    return await work()
