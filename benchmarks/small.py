"""Awaited completions of about 300 bytes: CPU for each, one and 64 at a time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .clients import make
from .contest import medians, race
from .server import running_server

CONTENDERS = ("ours", "naive", "drained", "openai", "openai, aiohttp", "gradient")
AT_ONCE = (1, 64)
SIZES = (128, 640)


async def small(contender: str, *, url: str, at_once: int, count: int) -> dict[str, float]:
    """Await so many completions."""
    client = make(contender, url)

    async def work(times: int) -> None:
        for _ in range(times):
            assert await client.complete()

    async def all_of(times: int) -> None:
        await asyncio.gather(*(work(times // at_once) for _ in range(at_once)))

    await all_of(max(at_once, 64))
    started = time.process_time()
    await all_of(count)
    cost = time.process_time() - started
    await client.close()
    return {"cpu_us": cost / count * 1e6}


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for at_once in AT_ONCE:
            for count in SIZES:
                found = race(
                    f"{__name__}:small",
                    CONTENDERS,
                    rounds,
                    url=f"{url}/small-300",
                    at_once=at_once,
                    count=count,
                )
                figures = {name: medians(each)["cpu_us"] for name, each in found.items()}
                rows += [
                    {
                        "at_once": at_once,
                        "completions": count,
                        "contender": name,
                        "cpu_us": round(cost, 1),
                        "to_ours": round(cost / figures["ours"], 2),
                    }
                    for name, cost in figures.items()
                ]
    return rows
