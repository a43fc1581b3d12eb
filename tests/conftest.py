"""A client and a local server that answers as a test says."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gradient_async import AsyncGradient
from gradient_async.testing import Handler, Server, serve

Start = Callable[..., Awaitable[tuple[Server, AsyncGradient]]]


def pytest_collection_finish() -> None:
    """Keep thousands of tests out of each collection of garbage, which would hold up what is timed."""
    gc.collect()
    gc.freeze()


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Start a server with a script, and a client of it with options, as often as a test likes."""
    async with AsyncExitStack() as stack:

        async def started(
            *replies: Handler, delay: float = 0.0, handler: Handler | None = None, **options: Any
        ) -> tuple[Server, AsyncGradient]:
            server = await stack.enter_async_context(serve(*replies, delay=delay, handler=handler))
            defaults: dict[str, Any] = {
                "inference_endpoint": server.url,
                "agent_endpoint": server.url,
                "model_access_key": "model-key-0123",
                "agent_access_key": "agent-key-0123",
                "max_retries": 0,
            }
            client = await stack.enter_async_context(AsyncGradient(**(defaults | options)))
            return server, client

        yield started
