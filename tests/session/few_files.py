"""Makes calls in a process that may open few files; prints what came of it. Run by `test_files.py`.

Arguments: the server's URL, a kind of run, and the switches ``uvloop`` and ``public``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import resource
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from client_calls import create_completion

from gradient_async import APIError, AsyncGradient, Timeout
from gradient_async.session import aiohttp_internals

ROOM = 6  # how many more files the process may open


class Lines(logging.Handler):
    """Keeps the lines of the log."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def take_all_files() -> list[int]:
    """Open files until no more can be opened."""
    taken: list[int] = []
    while True:
        try:
            taken.append(os.dup(0))
        except OSError:
            return taken


def close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)


async def one(client: AsyncGradient, **options: Any) -> dict[str, Any]:
    began = time.monotonic()
    try:
        completion = await create_completion(client, **options)
    except APIError as error:
        return {
            "error": type(error).__name__,
            "message": str(error),
            "phase": error.phase,
            "ambiguous": error.ambiguous,
            "code": error.code,
            "attempts": error.attempts,
            "took": time.monotonic() - began,
        }
    return {"attempts": completion.attempts, "took": time.monotonic() - began}


async def main(url: str, kind: str) -> dict[str, Any]:
    logging.getLogger("gradient_async").addHandler(handler := Lines())
    async with AsyncExitStack() as stack:
        options: dict[str, Any] = {}
        if kind == "session":
            connector = aiohttp.TCPConnector(limit=0)
            options["session"] = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        client = AsyncGradient(base_url=url, model_access_key="key-0123456", max_retries=2, **options)
        await stack.enter_async_context(client)
        await one(client)  # opens what the loop and the libraries open once
        used = open_files()
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + ROOM, used + ROOM))
        if kind in {"many", "session", "closing"}:
            results = await asyncio.gather(*(one(client) for _ in range(40)))
        else:
            client = (
                client
                if kind == "connect"
                else client.with_options(base_url=url.replace("127.0.0.1", "localhost"))
            )
            await asyncio.sleep(0.3)  # the server closes the connection that was kept
            taken = take_all_files()
            if kind == "freed":
                asyncio.get_running_loop().call_later(0.3, lambda: close_all(taken))
                results = [await one(client)]
            else:
                limits = Timeout(total=0.4) if kind == "total" else Timeout(connect=0.4)
                results = list(await asyncio.gather(*(one(client, timeout=limits) for _ in range(3))))
                close_all(taken)
                results.append(await one(client))
        bucket = client._core.connections.manager._buckets
        return {
            "results": results,
            "tokens": [each.tokens for each in bucket.values()],
            "lines": handler.lines,
        }


if __name__ == "__main__":
    aiohttp_internals.enabled = "public" not in sys.argv and aiohttp_internals.enabled
    run = uvloop.run if "uvloop" in sys.argv else asyncio.run
    sys.stdout.write(json.dumps(run(main(sys.argv[1], sys.argv[2]))))
