"""One stream over loopback, as fast as it comes: CPU for each token, at 1 and 32 events in an HTTP chunk."""

from __future__ import annotations

import time
from typing import Any

from .clients import make
from .contest import medians, race
from .server import running_server

CONTENDERS = (
    "ours", "ours, text", "ours, raw", "naive", "drained", "sse-client", "openai", "openai, aiohttp", "gradient"
)  # fmt: skip
SIZES = (2_000, 16_000)
TOGETHER = (1, 32)
_TIMES = 3


async def bulk(contender: str, *, url: str, tokens: int) -> dict[str, float]:
    """Read streams of so many tokens; the quickest counts."""
    client = make(contender, url)
    await client.stream()
    costs: list[float] = []
    for _ in range(_TIMES):
        started = time.process_time()
        assert await client.stream()
        costs.append(time.process_time() - started)
    await client.close()
    return {"cpu_us": min(costs) / tokens * 1e6}


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for together in TOGETHER:
            for tokens in SIZES:
                found = race(
                    f"{__name__}:bulk",
                    CONTENDERS,
                    rounds,
                    url=f"{url}/text-{tokens}-{together}",
                    tokens=tokens,
                )
                figures = {name: medians(each)["cpu_us"] for name, each in found.items()}
                rows += [
                    {
                        "events_per_chunk": together,
                        "tokens": tokens,
                        "contender": name,
                        "cpu_us_per_token": round(cost, 2),
                        "to_ours": round(cost / figures["ours"], 2),
                    }
                    for name, cost in figures.items()
                ]
    return rows
