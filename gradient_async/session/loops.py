"""Event loops as seen from finalisers and other threads."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable


def runs_here(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether ``loop`` is the running event loop."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def call_in(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in a loop of any thread, at the loop's next iteration; do nothing if the loop is closed.

    Asking ``is_closed()`` first would not do: another thread may close the loop between the question and the call.
    """
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
