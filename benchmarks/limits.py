"""Requests that a rate limit refuses: 500 requests where 200 are allowed in each window of five seconds.

The server tells its limit in the headers that DigitalOcean sends, and answers 429 beyond it. "map" is this library's,
"semaphore" is this library's client behind a semaphore, as services write it by hand, and "openai" that client behind
one. Every contender has its own retries.
"""

from __future__ import annotations

import asyncio
import importlib
import statistics
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from gradient_async import AsyncGradient
from gradient_async.testing import Connection, Request, completion, reply_json, serve

from .contest import race

CONTENDERS = ("map", "semaphore", "openai")
AT_ONCE = (64, 256)
COUNT = 500
ALLOWED, SECONDS = 200, 5.0
_PAUSE = 0.05  # seconds that an answer takes
_MOST_ROUNDS = 3  # each takes a quarter of a minute
_MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


class _Windows:
    """Counts requests in windows that begin with the first request after the last has passed."""

    def __init__(self) -> None:
        self._start = float("-inf")
        self._count = 0
        self.answers: Counter[int] = Counter()

    async def __call__(self, request: Request, connection: Connection) -> None:
        """Answer, or refuse."""
        now = time.time()
        if now >= self._start + SECONDS:
            self._start, self._count = now, 0
        self._count += 1
        headers = {
            "x-ratelimit-limit-requests": str(ALLOWED),
            "x-ratelimit-remaining-requests": str(max(0, ALLOWED - self._count)),
            "x-ratelimit-reset-requests": str(int(self._start + SECONDS)),
        }
        status = 200 if self._count <= ALLOWED else 429
        self.answers[status] += 1
        if status == 429:
            await reply_json({"id": "too_many_requests", "message": "slow down"}, 429, headers)(
                request, connection
            )
        else:
            await connection.sleep(_PAUSE)
            await reply_json(completion("hi"), 200, headers)(request, connection)


async def limited(contender: str, *, at_once: int) -> dict[str, float]:
    """Make all requests; count what was refused, and what failed for good."""
    windows = _Windows()
    async with serve(handler=windows) as server:
        work, close = _make(contender, server.url)
        started = time.perf_counter()
        errors = await work(at_once)
        seconds = time.perf_counter() - started
        await close()
    refused = windows.answers[429]
    return {
        "refused": refused,
        "refused_percent": 100 * refused / windows.answers.total(),
        "errors": errors,
        "seconds": seconds,
    }


def _make(contender: str, url: str) -> tuple[Callable[[int], Awaitable[int]], Callable[[], Awaitable[None]]]:
    if contender == "openai":
        library: Any = importlib.import_module("openai")
        client = library.AsyncOpenAI(base_url=url, api_key="any")
        return _behind_a_semaphore(client, library.OpenAIError), client.close
    ours = AsyncGradient(base_url=url, model_access_key="any")
    if contender == "semaphore":
        return _behind_a_semaphore(ours, Exception), ours.close

    async def work(at_once: int) -> int:
        requests = ({"model": "m", "messages": _MESSAGES} for _ in range(COUNT))
        results = ours.chat.completions.map(requests, max_concurrency=at_once)
        return sum([result.error is not None async for result in results])

    return work, ours.close


def _behind_a_semaphore(client: Any, failure: type[Exception]) -> Callable[[int], Awaitable[int]]:
    async def work(at_once: int) -> int:
        semaphore = asyncio.Semaphore(at_once)

        async def one() -> int:
            async with semaphore:
                try:
                    await client.chat.completions.create(model="m", messages=_MESSAGES)
                except failure:
                    return 1
                return 0

        return sum(await asyncio.gather(*(one() for _ in range(COUNT))))

    return work


def run(rounds: int) -> list[dict[str, Any]]:
    """Count for each contender and concurrency; return a row each, the worst of the rounds beside the median."""
    rows: list[dict[str, Any]] = []
    for at_once in AT_ONCE:
        found = race(f"{__name__}:limited", CONTENDERS, min(rounds, _MOST_ROUNDS), at_once=at_once)
        for name, each in found.items():
            rows.append(
                {
                    "max_concurrency": at_once,
                    "contender": name,
                    "refused": statistics.median(figures["refused"] for figures in each),
                    "worst_percent": round(max(figures["refused_percent"] for figures in each), 1),
                    "errors": max(figures["errors"] for figures in each),
                    "seconds": round(statistics.median(figures["seconds"] for figures in each), 1),
                }
            )
    return rows
