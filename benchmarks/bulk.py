"""One stream over loopback, as fast as it comes: CPU for each token, at 1 and 32 events in an HTTP chunk."""

from __future__ import annotations

from typing import Any

from .clients import make
from .contest import Found, race, tabulate
from .server import running_server
from .timing import quickest_awaited, some

__all__ = ["bulk", "contend", "run"]

CONTENDERS = (
    "ours", "ours, text", "ours, raw", "naive", "drained", "sse-client", "openai", "openai, aiohttp", "gradient"
)  # fmt: skip
SLOW = ("openai", "openai, aiohttp", "gradient", "sse-client")
SIZES = (1_000, 8_000)
TOGETHER = (1, 32)


async def bulk(contender: str, *, url: str, tokens: int) -> dict[str, float]:
    """Read streams of so many tokens; the quickest counts."""
    client = make(contender, url)
    cost = await quickest_awaited(client.stream)
    assert client.count
    await client.close()
    return {"cpu_us": cost / tokens * 1e6}


def contend(url: str, contenders: tuple[str, ...], rounds: int, *, tokens: int, together: int) -> Found:
    """Race at one size.

    Args:
        url: Of the server.
        contenders: Who takes part.
        rounds: How many rounds.
        tokens: In a stream.
        together: Events in an HTTP chunk.
    """
    return race(
        f"{__name__}:bulk",
        contenders,
        rounds,
        slow=SLOW,
        url=f"{url}/text-{tokens}-{together}",
        tokens=tokens,
    )


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for together in some(TOGETHER):
            for tokens in some(SIZES):
                found = contend(url, CONTENDERS, rounds, tokens=tokens, together=together)
                case = {"events_per_chunk": together, "tokens": tokens}
                rows += tabulate(found, "cpu_us", case=case, to=("ours", "naive"))
    return rows
