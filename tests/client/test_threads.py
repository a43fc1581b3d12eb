"""Threads with an event loop each: they make their first call together, and share a client."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from gradient_async.session import aiohttp_internals
from gradient_async.testing import serve

FIRST_CALLS = Path(__file__).with_name("first_calls.py")
PROCESSES, AT_ONCE = 16, 2
CLIENTS = ("one client", "a client each")


async def run(*arguments: str) -> str:
    """Run `first_calls.py` in a process of its own; return what it prints, and how it ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-X", "faulthandler", str(FIRST_CALLS), *arguments,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    return f"{output.decode()}{process.returncode}"


async def test_threads_make_the_first_calls_of_a_process_together(request: pytest.FixtureRequest) -> None:
    """No process dies, and each call is answered, with a client for each thread or one for all."""
    loop = "uvloop" if request.config.getoption("--uvloop") else "asyncio"
    way = "internals" if aiohttp_internals.enabled else "public"
    limit = asyncio.Semaphore(AT_ONCE)
    async with serve() as server:

        async def one(number: int) -> str:
            async with limit:
                return await run("together", server.url, CLIENTS[number % 2], loop, way)

        assert ["0"] * PROCESSES == await asyncio.gather(*map(one, range(PROCESSES)))


async def test_msgspec_builds_its_tables_at_import() -> None:
    """No call builds one: calls may come from several threads at once."""
    assert "0" == await run("tables")
