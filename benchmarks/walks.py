"""Counts the files of the library that a chunk, a call or an error passes through, and the function calls.

A reader of the code has to open all of these files to follow the chunk, the call or the error. Before a walk is counted
it is made once, so that objects that are made only once exist. ``python -m benchmarks.walks`` also names the files.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from gradient_async import AsyncGradient, NotFoundError, StreamServerError

from . import page
from .calls import COUNTED, counting
from .clients import CALL
from .harness import Row, counted
from .server import running_server

Window: TypeAlias = contextlib.AbstractContextManager[object]
_CHUNKS = 8  # chunks that are counted together


class Walk(NamedTuple):
    """Something that passes through the library."""

    path: str  # what the server sends
    aim: int  # number of files that should be enough
    go: Callable[[AsyncGradient, Window], Awaitable[None]]  # makes the walk; calls count inside `with window`
    times: int = 1  # number of chunks for which the calls are counted together


async def _take(chunks: AsyncIterator[Any], window: Window) -> None:
    for _ in range(_CHUNKS):
        await anext(chunks)
    with window:
        for _ in range(_CHUNKS):
            await anext(chunks)


async def _chunk(client: AsyncGradient, window: Window) -> None:
    async with await client.chat.completions.create(**CALL, stream=True) as stream:
        await _take(stream, window)


async def _fan_out(client: AsyncGradient, window: Window) -> None:
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        await _take(fan, window)


async def _create(client: AsyncGradient, window: Window) -> None:
    with window:
        await client.chat.completions.create(**CALL)


async def _not_found(client: AsyncGradient, window: Window) -> None:
    with window, contextlib.suppress(NotFoundError):
        await client.chat.completions.create(**CALL)


async def _error_event(client: AsyncGradient, window: Window) -> None:
    async with await client.chat.completions.create(**CALL, stream=True) as stream:
        await anext(stream)
        with window, contextlib.suppress(StreamServerError):
            await anext(stream)


# The streams are slow, so that even on a busy machine each event arrives in a read of its own.
WALKS = {
    "one chunk of an open stream": Walk("chat-20-40", 6, _chunk, _CHUNKS),
    "one awaited create()": Walk("small-300", 15, _create),
    "one 404": Walk("status-404", 14, _not_found),
    "one error event": Walk("broken-40", 14, _error_event),
    "one chunk of a fan-out": Walk("chat-20-40", 8, _fan_out, _CHUNKS),
}


async def walk(name: str, url: str) -> Counter[str]:
    """Count the calls of a walk by file; return the most frequent result of five tries.

    In a try, a timer may fire or two events may arrive in one read, which changes the counts.
    """
    path, _, go, _ = WALKS[name]
    tries: list[tuple[tuple[str, int], ...]] = []
    async with AsyncGradient(base_url=f"{url}/{path}", model_access_key="any", max_retries=0) as client:
        await go(client, contextlib.nullcontext())
        for _ in range(5):
            files: Counter[str] = Counter()
            await go(client, counting(Counter(), files))
            tries.append(tuple(files.items()))
    return Counter(dict(statistics.mode(tries)))


def walk_all() -> dict[str, Counter[str]]:
    """Count the calls of every walk by file."""
    with running_server() as url:
        return {name: asyncio.run(walk(name, url)) for name in WALKS}


def tabulate(found: dict[str, Counter[str]]) -> list[Row]:
    """Make rows of the counted files and calls, and of the aims."""
    return [
        *(counted("files", name, len(files)) for name, files in found.items()),
        *(counted("aim", name, WALKS[name].aim) for name in found),
        *(counted("calls", name, files.total() / WALKS[name].times) for name, files in found.items()),
    ]


def count(_rounds: int) -> list[Row]:
    """Files of the library that a chunk, a call or an error passes through, and function calls."""
    return tabulate(walk_all())


def _main() -> None:
    found = walk_all()
    print(page.table(tabulate(found)))
    for name, files in found.items():
        print(f"\n{name}:")
        for file, number in files.items():
            print(f"{number / WALKS[name].times:6.2f}  {Path(file).relative_to(COUNTED[0])}")


if __name__ == "__main__":
    _main()
