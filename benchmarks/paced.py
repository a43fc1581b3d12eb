"""Many streams at once, one event a wake-up: CPU for each token, on asyncio and on uvloop.

Events come one by one, at even distances, 4,000 a second of all streams together; the cost is the event loop's, and
the question is what a client adds to it. It is counted while all streams are in their middle: requests and connections
are no part of it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from .clients import make
from .contest import Found, race, tabulate
from .server import running_server
from .timing import is_quick, settle, some

__all__ = ["contend", "paced", "run"]

CONTENDERS = ("ours", "naive", "drained", "openai")
SLOW = ("openai",)
SIZES = (12, 100, 500)
SECONDS = 1.6
_A_SECOND = (
    4_000  # events, of all streams together; who can't keep up gets several at a time, which is cheaper
)
_CATCHING_UP = 0.3  # seconds until what came while others were opened has been read
_QUICK = 0.2  # seconds of a smoke run
_LONGEST = 60  # seconds that a stream would take


async def paced(contender: str, *, url: str, streams: int, seconds: float) -> dict[str, float]:
    """Read so many streams at once; measure for so many seconds in the midst of them."""
    client = make(contender, url)
    opened = await asyncio.gather(*(client.open() for _ in range(streams)))
    tasks = [asyncio.create_task(client.read(each)) for each in opened]
    await asyncio.sleep(_CATCHING_UP)
    settle()
    cost, count = time.process_time(), client.count
    await asyncio.sleep(seconds)
    cost, count = time.process_time() - cost, client.count - count
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    await client.close()
    assert all(isinstance(end, asyncio.CancelledError) for end in ended)
    return {"cpu_us": cost / count * 1e6}


def contend(
    url: str,
    contenders: tuple[str, ...],
    rounds: int,
    *,
    streams: int,
    uvloop: bool,
    seconds: float = SECONDS,
) -> Found:
    """Race with so many streams.

    Args:
        url: Of the server.
        contenders: Who takes part.
        rounds: How many rounds.
        streams: At once.
        uvloop: Whether on uvloop.
        seconds: How long a measurement takes.
    """
    gap = 1000 * streams // _A_SECOND  # milliseconds
    return race(
        f"{__name__}:paced",
        contenders,
        rounds,
        slow=SLOW,
        uvloop=uvloop,
        url=f"{url}/paced-{_LONGEST * 1000 // gap}-{gap}-{streams}",
        streams=streams,
        seconds=_QUICK if is_quick() else seconds,
    )


def run(rounds: int) -> list[dict[str, Any]]:
    """Measure; return a row for each loop, size and contender."""
    rows: list[dict[str, Any]] = []
    with running_server() as url:
        for uvloop in (False, True):
            for streams in some(SIZES):
                found = contend(url, CONTENDERS, rounds, streams=streams, uvloop=uvloop)
                case = {"loop": "uvloop" if uvloop else "asyncio", "streams": streams}
                rows += tabulate(found, "cpu_us", case=case, to=("ours", "naive", "drained"), digits=1)
    return rows
