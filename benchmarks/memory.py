"""Memory of streams that are open, each with a task that waits for its next chunk: bytes for each.

"heap" is what Python's allocator counts (`tracemalloc`), "resident" what the process holds more of the machine's
memory; of one stream alone the latter is not told, for it comes in pages. "drained" is aiohttp alone: its connection,
reply and buffer, and a task that waits for bytes.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import tracemalloc
from pathlib import Path
from typing import Any

from .clients import Client, make
from .contest import Found, race, tabulate
from .server import allow_connections, running_server
from .timing import some

__all__ = ["contend", "memory", "run"]

CONTENDERS = ("ours", "drained", "openai", "openai, aiohttp")
SIZES = (1, 1_000)
_MOST_ROUNDS = 2  # it is the same in each but for a few bytes
_WARM = 8  # streams opened and left before
_TOGETHER = 50  # streams opened at a time
_SETTLING = 0.2  # seconds


async def memory(contender: str, *, url: str, streams: int, counted: str) -> dict[str, float]:
    """Open so many streams and wait for each; return bytes a stream."""
    allow_connections()
    client = make(contender, url)
    await _leave(client, await _open(client, _WARM))
    held = await _open(client, 1)
    more = max(1, streams - 1)  # others allow a thousand connections in all
    if counted == "heap":
        tracemalloc.start()
    before = _held(counted)
    held += await _open(client, more)
    after = _held(counted)
    tracemalloc.stop()
    await _leave(client, held)
    await client.close()
    return {"bytes": (after - before) / more}


Opened = list[tuple[Any, "asyncio.Task[object]"]]


async def _open(client: Client, streams: int) -> Opened:
    held: Opened = []
    while len(held) < streams:
        opened = await asyncio.gather(*(client.open() for _ in range(min(_TOGETHER, streams - len(held)))))
        await asyncio.gather(*map(client.first, opened))
        held += [(each, asyncio.create_task(_wait(client, each))) for each in opened]
    await asyncio.sleep(_SETTLING)
    return held


async def _wait(client: Client, opened: Any) -> object:
    return await client.first(opened)


async def _leave(client: Client, held: Opened) -> None:
    for _opened, task in held:
        task.cancel()
    await asyncio.gather(*(task for _opened, task in held), return_exceptions=True)
    for opened, _task in held:
        await client.leave(opened)


def _held(counted: str) -> int:
    gc.collect()
    if counted == "heap":
        return tracemalloc.get_traced_memory()[0]
    return int(Path("/proc/self/statm").read_text("utf-8").split()[1]) * resource.getpagesize()


def contend(url: str, contenders: tuple[str, ...], rounds: int, *, streams: int, counted: str) -> Found:
    """Race with so many streams.

    Args:
        url: Of the server.
        contenders: Who takes part.
        rounds: How many rounds.
        streams: Open at once.
        counted: "heap" or "resident".
    """
    return race(f"{__name__}:memory", contenders, rounds, url=f"{url}/idle", streams=streams, counted=counted)


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each number of streams, way of counting and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for streams in some(SIZES):
            for counted in ("heap",) if streams == 1 else ("heap", "resident"):
                found = contend(url, CONTENDERS, min(rounds, _MOST_ROUNDS), streams=streams, counted=counted)
                case = {"streams": streams, "counted": counted}
                rows += tabulate(found, "bytes", case=case, to=("ours", "drained"), digits=0)
    return rows
