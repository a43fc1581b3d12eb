"""Awaited completions: CPU for each; small ones one and 64 at a time, large ones with log probabilities.

A small completion has about 300 bytes; a large one tells the 20 likeliest tokens at each place, in some 5 MB of JSON.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .clients import make
from .contest import FEW, Found, race, tabulate
from .server import running_server
from .timing import quickest_awaited, some

__all__ = ["contend", "large", "run", "small"]

CONTENDERS = ("ours", "naive", "drained", "openai", "openai, aiohttp", "gradient")
SLOW = ("openai", "openai, aiohttp", "gradient")
AT_ONCE = (1, 64)
SIZES = (64, 512)
TOKENS = (1_000, 4_000)


async def small(contender: str, *, url: str, at_once: int, count: int) -> dict[str, float]:
    """Await so many completions; the quickest turn counts."""
    client = make(contender, url)

    async def work() -> None:
        for _ in range(count // at_once):
            assert await client.complete()

    async def turn() -> None:
        await asyncio.gather(*(work() for _ in range(at_once)))

    cost = await quickest_awaited(turn)
    await client.close()
    return {"cpu_us": cost / count * 1e6}


async def large(contender: str, *, url: str) -> dict[str, float]:
    """Await one completion again and again; the quickest counts."""
    client = make(contender, url)
    cost = await quickest_awaited(client.complete)
    await client.close()
    return {"cpu_us": cost * 1e6}


def contend(url: str, contenders: tuple[str, ...], rounds: int, *, at_once: int, count: int) -> Found:
    """Race at small completions.

    Args:
        url: Of the server.
        contenders: Who takes part.
        rounds: How many rounds.
        at_once: Requests at a time.
        count: Requests in a turn.
    """
    return race(
        f"{__name__}:small",
        contenders,
        rounds,
        slow=SLOW,
        url=f"{url}/small-300",
        at_once=at_once,
        count=count,
    )


def contend_large(url: str, contenders: tuple[str, ...], rounds: int, *, tokens: int) -> Found:
    """Race at completions of so many tokens with log probabilities."""
    return race(f"{__name__}:large", contenders, rounds, slow=SLOW, url=f"{url}/large-{tokens}")


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for at_once in AT_ONCE:
            for count in some(SIZES):
                found = contend(url, CONTENDERS, rounds, at_once=at_once, count=count)
                case = {"completion": "300 bytes", "at_once": at_once, "completions": count}
                rows += tabulate(found, "cpu_us", case=case, to=("ours", "naive"), digits=1)
        for tokens in some(TOKENS):
            found = contend_large(url, CONTENDERS, min(rounds, FEW), tokens=tokens)
            case = {"completion": f"{tokens:,} tokens, top 20", "at_once": 1, "completions": 1}
            rows += tabulate(found, "cpu_us", case=case, to=("ours", "naive"), digits=1)
    return rows
