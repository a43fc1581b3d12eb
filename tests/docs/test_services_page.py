"""The services on the page about services, over real HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from example_services import point_at, run_fastapi
from pages import ROOT, run_page

from gradient_async.testing import HOLD, Server, chunk, reply_sse, reply_writes, serve

LONG = reply_sse(chunk("x" * 300), chunk(finish_reason="stop"))
SHORT = reply_sse(chunk("42"), chunk(finish_reason="stop"))
SILENT = reply_writes([HOLD])


@pytest.fixture
async def model(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    async with serve() as server:
        point_at(monkeypatch, server.url)
        yield server


@pytest.fixture
async def browser(model: Server) -> AsyncIterator[aiohttp.ClientSession]:
    """A visitor of the page's service on FastAPI."""
    scope: dict[str, Any] = await asyncio.to_thread(run_page, ROOT / "docs" / "services.md")
    model.requests.clear()  # those of the page itself
    async with run_fastapi(scope["api"]) as url, aiohttp.ClientSession(url) as session:
        yield session


async def test_the_first_good_answer(model: Server, browser: aiohttp.ClientSession) -> None:
    """The others are cancelled."""
    model.push(LONG, SHORT, SILENT, SILENT)
    reply = await browser.post("/pick", json={"prompt": "How many?"})
    assert (200, {"answer": "42"}) == (reply.status, await reply.json())
    await model.wait_closed_connections(2, timeout=10.0)


async def test_who_leaves_stops_a_handler_that_awaits(model: Server, browser: aiohttp.ClientSession) -> None:
    model.push(*[SILENT] * 4)
    asking = asyncio.create_task(browser.post("/pick", json={"prompt": "How many?"}))
    await model.wait_requests(4, timeout=10.0)
    asking.cancel()
    await model.wait_closed_connections(timeout=10.0)
