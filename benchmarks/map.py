"""Very many requests: CPU for each, against tasks that share an iterator, at growing numbers; and memory.

Each request brings a completion of about 300 bytes, 64 at a time. "tasks" are 64 tasks that await the client's own
``create`` for the next request of one shared iterator, and keep nothing. Memory is what the process holds more at its
end than after the first tenth.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradient_async import AsyncGradient

from .contest import medians, race
from .server import running_server

SIZES = (100, 1_000, 10_000, 100_000)
CONTENDERS = ("map", "tasks")
_AT_ONCE = 64
_LEAST = 2_000  # requests to measure, in as many turns as it takes
_LONG = 20_000  # requests from which one round is enough
_MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


def _requests(count: int) -> Iterator[dict[str, Any]]:
    return ({"model": "m", "messages": _MESSAGES} for _ in range(count))


def _resident() -> float:
    """MiB of memory that the process holds."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[1])
    return pages * 4096 / 2**20


async def many(contender: str, *, url: str, count: int) -> dict[str, float]:
    """Make so many requests."""
    async with AsyncGradient(base_url=url, model_access_key="any") as client:
        work = _map if contender == "map" else _tasks
        await work(client, 2 * _AT_ONCE)
        await _tasks(client, 2 * _AT_ONCE)  # all connections are open now
        await work(client, max(1, count // 10))
        before = _resident()
        times = max(1, _LEAST // count)
        cpu = time.process_time()
        for _ in range(times):
            assert count == await work(client, count)
        cpu = time.process_time() - cpu
        return {"cpu_us": cpu / times / count * 1e6, "mib": _resident() - before}


async def _map(client: AsyncGradient, count: int) -> int:
    done = 0
    async for result in client.chat.completions.map(_requests(count), max_concurrency=_AT_ONCE):
        done += result.completion is not None
    return done


async def _tasks(client: AsyncGradient, count: int) -> int:
    requests = _requests(count)
    done = 0

    async def work() -> None:
        nonlocal done
        for request in requests:
            await client.chat.completions.create(**request)
            done += 1

    await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
    return done


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure every size; return a row a size."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for count in SIZES:
            turns = 1 if count >= _LONG else rounds
            found = race(f"{__name__}:many", CONTENDERS, turns, url=f"{url}/small-300", count=count)
            ours, alone = medians(found["map"]), medians(found["tasks"])
            rows.append(
                {
                    "requests": count,
                    "map_cpu_us": round(ours["cpu_us"], 1),
                    "tasks_cpu_us": round(alone["cpu_us"], 1),
                    "map_to_tasks": round(ours["cpu_us"] / alone["cpu_us"], 3),
                    "map_mib": round(ours["mib"], 1),
                    "tasks_mib": round(alone["mib"], 1),
                }
            )
    return rows
