"""From the server's write of a stream's first event to the consumer having it: time and CPU that the client adds.

The headers have come before. The event tells when it was written, on a clock that all processes share; CPU is what the
process spends from waiting for the event to having it.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from typing import Any

from .clients import Client, make
from .contest import Found, race, tabulate
from .server import running_server
from .timing import is_quick, settle, some

__all__ = ["contend", "first", "run"]

CONTENDERS = ("ours", "naive", "drained", "openai", "openai, aiohttp")
SLOW = ("openai", "openai, aiohttp")
SIZES = (1, 64)
_PAUSE = 8  # milliseconds from the headers to the event
_SAMPLES = 192
_TIME = re.compile(rb'"content":"(\d+)"')


async def first(contender: str, *, url: str, at_once: int) -> dict[str, float]:
    """Await the first event of so many streams at once, again and again."""
    client = make(contender, url)
    for _ in range(3):
        await _sample(client, at_once)
    settle()
    costs: list[float] = []
    waits: list[int] = []
    for _ in range(1 if is_quick() else max(8, _SAMPLES // at_once)):
        cost, late = await _sample(client, at_once)
        costs.append(cost)
        waits += late
    await client.close()
    return {"cpu_us": statistics.median(costs) * 1e6, "wall_us": statistics.median(waits) / 1e3}


async def _sample(client: Client, at_once: int) -> tuple[float, list[int]]:
    """Return seconds of CPU an event, and after how many nanoseconds each came."""
    opened = await asyncio.gather(*(client.open() for _ in range(at_once)))

    async def wait(stream: Any) -> int:
        got = await client.first(stream)
        return time.monotonic_ns() - _time_told(got)

    started = time.process_time()
    late = [await wait(opened[0])] if at_once == 1 else await asyncio.gather(*map(wait, opened))
    cost = time.process_time() - started
    await asyncio.gather(*map(client.read, opened))
    return cost / at_once, late


def _time_told(got: Any) -> int:
    if isinstance(got, bytes):
        found = _TIME.search(got)
        assert found is not None
        return int(found[1])
    return int(got.choices[0].delta.content)


def contend(url: str, contenders: tuple[str, ...], rounds: int, *, at_once: int) -> Found:
    """Race with so many streams at once.

    Args:
        url: Of the server.
        contenders: Who takes part.
        rounds: How many rounds.
        at_once: Streams at a time.
    """
    return race(
        f"{__name__}:first", contenders, rounds, slow=SLOW, url=f"{url}/first-{_PAUSE}", at_once=at_once
    )


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each number of streams, figure and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for at_once in some(SIZES):
            found = contend(url, CONTENDERS, rounds, at_once=at_once)
            for figure in ("cpu_us", "wall_us"):
                case = {"at_once": at_once, "figure": figure}
                costs = {name: [{"us": each[figure]} for each in turns] for name, turns in found.items()}
                rows += tabulate(costs, "us", case=case, to=("ours", "drained"), digits=1)
    return rows
