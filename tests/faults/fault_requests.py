"""Streamed and awaited requests, retry options, and streams that begin but do not end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal

import pytest
from fault_rows import TEXT, Seen, Start, asked, expect_connection, healthy, streamed

from gradient_async import AsyncGradient, Retry
from gradient_async.testing import Handler, Server, completion, reply_json, reply_sse

__all__ = [
    "AMBIGUOUS",
    "BOTH_WAYS",
    "CALL_BODY",
    "RETRYING",
    "WHOLE",
    "Ask",
    "Connection",
    "ask_repeatedly",
    "begun",
    "expect_whole",
    "healthy_for",
]

Ask = Callable[..., Awaitable[Seen]]
Connection = Literal["reused", "closed"]

# For faults that are the same whether the answer is streamed or awaited.
BOTH_WAYS = pytest.mark.parametrize(
    "ask", [pytest.param(streamed, id="stream"), pytest.param(asked, id="call")]
)
# Two retries that hardly wait: a fault that is not to be retried is met once all the same.
RETRYING: Mapping[str, Any] = {"max_retries": 2, "retry": Retry(max_backoff=0.02)}
AMBIGUOUS: Mapping[str, Any] = {"max_retries": 2, "retry": Retry(max_backoff=0.02, ambiguous=True)}

WHOLE = reply_json(completion(TEXT))
CALL_BODY = WHOLE.data.partition(b"\r\n\r\n")[2]


def healthy_for(ask: Ask) -> Handler:
    """What that way of asking understands."""
    return WHOLE if ask is asked else healthy()


def begun(
    *events: Mapping[str, Any] | str | bytes, framing: Literal["chunked", "eof"] = "chunked"
) -> list[bytes]:
    """The writes of a stream up to, and without, the end of its body."""
    reply = reply_sse(*events, done=False, framing=framing)
    return [step for step in reply.steps[:-1] if isinstance(step, bytes)]


async def ask_repeatedly(
    start: Start, ask: Ask, reply: Handler, *, posts: int, **options: Any
) -> tuple[Server, AsyncGradient, Seen]:
    """Ask a server that always gives the same reply; expect it to have been asked so many times."""
    server, client = await start(*[reply] * posts, **(dict(RETRYING) | options))
    seen = await ask(client)
    assert posts == len(server.requests)
    return server, client, seen


async def expect_whole(
    server: Server, client: AsyncGradient, seen: Seen, connection: Connection, *, done: bool = True
) -> None:
    """Expect the healthy text, in one request."""
    assert seen.error is None
    assert (TEXT, 1) == (seen.delivered, len(server.requests))
    assert seen.stream is not None
    assert done == seen.stream.saw_done
    await expect_connection(server, client, connection)
