"""A `Gradient`, a server in a thread, and calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

from gradient_async import ChatCompletion, Gradient, Stream
from gradient_async.testing import (
    HOLD,
    Handler,
    ThreadedServer,
    chunk,
    head,
    http_chunk,
    reply_sse,
    reply_writes,
    serve,
    sse,
)

__all__ = [
    "CALL",
    "HEAD",
    "OPEN",
    "PIECES",
    "STREAM",
    "TOKENS",
    "create",
    "open_stream",
    "started",
    "wait_until",
]

CALL: Any = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
TOKENS = [f"t{number} " for number in range(5)]
PIECES = [*map(chunk, TOKENS), chunk(finish_reason="stop")]
STREAM = reply_sse(*PIECES)
HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
OPEN = reply_writes([HEAD, http_chunk(sse(chunk("t0 "), done=False)), HOLD])


@contextmanager
def started(
    *replies: Handler, handler: Handler | None = None, **options: Any
) -> Generator[tuple[ThreadedServer, Gradient]]:
    """Start a server with a script, and a client of it with options."""
    with serve(*replies, handler=handler) as server:
        defaults: dict[str, Any] = {
            "inference_endpoint": server.url,
            "agent_endpoint": server.url,
            "model_access_key": "model-key-0123",
            "agent_access_key": "agent-key-0123",
            "max_retries": 0,
        }
        with Gradient(**(defaults | options)) as client:
            yield server, client


def create(client: Gradient, **options: Any) -> ChatCompletion:
    """Request a completion."""
    call: Any = client.chat.completions.create
    return cast("ChatCompletion", call(**CALL, **options))


def open_stream(client: Gradient, **options: Any) -> Stream:
    """Request a stream."""
    call: Any = client.chat.completions.create
    return cast("Stream", call(**CALL, **options, stream=True))


def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until a condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)
