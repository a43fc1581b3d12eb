"""Many streams at once, one event a wake-up: CPU for each token, on asyncio and on uvloop.

Each stream brings an event every 10 ms, or more slowly where that would be more than the machine can do; the cost is
the event loop's, and the question is what a client adds to it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .clients import make
from .contest import medians, race
from .server import running_server

CONTENDERS = ("ours", "naive", "drained", "openai")
SIZES = (10, 100, 500)
EVENTS = 50
_MOST_A_SECOND = 4_000  # events, of all streams together


async def paced(contender: str, *, url: str, streams: int) -> dict[str, float]:
    """Read so many streams at once."""
    client = make(contender, url)
    await asyncio.gather(*(client.stream() for _ in range(streams)))
    started = time.process_time()
    await asyncio.gather(*(client.stream() for _ in range(streams)))
    cost = time.process_time() - started
    await client.close()
    return {"cpu_us": cost / streams / EVENTS * 1e6}


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each loop, size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for uvloop in (False, True):
            for streams in SIZES:
                gap = max(10, round(1000 * streams / _MOST_A_SECOND))
                found = race(
                    f"{__name__}:paced",
                    CONTENDERS,
                    rounds,
                    uvloop=uvloop,
                    url=f"{url}/paced-{EVENTS}-{gap}",
                    streams=streams,
                )
                figures = {name: medians(each)["cpu_us"] for name, each in found.items()}
                rows += [
                    {
                        "loop": "uvloop" if uvloop else "asyncio",
                        "streams": streams,
                        "contender": name,
                        "cpu_us_per_token": round(cost, 1),
                        "to_ours": round(cost / figures["ours"], 2),
                    }
                    for name, cost in figures.items()
                ]
    return rows
