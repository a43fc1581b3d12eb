"""The server of the soak, in a process of its own: plays scenarios, and counts requests by their id."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from typing import Any

from gradient_async.testing import Connection, Request, serve

from .scenarios import SCENARIOS, healthy

__all__ = ["main"]

_KEPT = 120.0  # seconds to remember an id


class Ledger:
    """Who asked how often, and whether anybody asked again who had been answered.

    Attributes:
        faults: What went wrong, by kind.
        requests: How many requests came.
    """

    def __init__(self) -> None:
        self._asked: dict[str, tuple[int, bool, float]] = {}
        self.faults: Counter[str] = Counter()
        self.requests = 0

    def note(self, key: str, name: str) -> int:
        """Note a request; return how often its id has asked before.

        Args:
            key: Its id.
            name: Its scenario.
        """
        self.requests += 1
        now = time.monotonic()
        scenario = SCENARIOS[name]
        before, answered, _ = self._asked.pop(key, (0, False, now))
        if answered:
            self.faults[f"{name}: asked again after a status of 2xx"] += 1
        elif before >= scenario.posts:
            self.faults[f"{name}: asked {before + 1} times"] += 1
        self._asked[key] = (before + 1, before > 0 or scenario.commits, now)
        while now - next(iter(self._asked.values()))[2] > _KEPT:
            del self._asked[next(iter(self._asked))]
        return before


async def main() -> None:
    """Serve until standard input ends; answer each line of it with a line of JSON."""
    ledger = Ledger()

    async def handle(request: Request, connection: Connection) -> None:
        params: dict[str, Any] = request.json
        name = params["model"]
        if ledger.note(request.headers["x-soak-id"], name):
            await healthy(stream=params.get("stream", False))(request, connection)
        else:
            await SCENARIOS[name].reply()(request, connection)
        if len(server.requests) > 1000:
            server.requests.clear()

    async with serve(handler=handle) as server:
        print(server.url, flush=True)
        loop = asyncio.get_running_loop()
        while await loop.run_in_executor(None, sys.stdin.readline):
            report = {
                "open": server.open_connections,
                "accepted": server.connections,
                "requests": ledger.requests,
                "faults": dict(ledger.faults),
            }
            print(json.dumps(report), flush=True)
