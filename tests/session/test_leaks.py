"""What is left open, dropped or stored keeps no connection, no timer and no memory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, TypeAlias

import pytest
from cancellation import (
    expect_settled,
    expect_usable,
    leaked_objects,
    overlook_objects,
    pending_timers,
    without_collector,
)
from client_calls import Start, create_completion, open_stream

from gradient_async import APIError, AsyncGradient, ChatCompletionStream, GradientError, Limits, Timeout
from gradient_async.testing import (
    CLOSE,
    HOLD,
    Handler,
    chunk,
    head,
    http_chunk,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    sse,
)

HEAD = head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"})
FIRST = http_chunk(sse(chunk("a"), done=False))
OPEN = reply_writes([HEAD, FIRST, HOLD])
Leave: TypeAlias = Callable[[AsyncGradient], Awaitable[Any]]


async def _break(client: AsyncGradient) -> None:
    async for _ in await open_stream(client):
        break


async def _raise(client: AsyncGradient) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async for _ in await open_stream(client):
            raise ZeroDivisionError


async def _ignore(client: AsyncGradient) -> None:
    await open_stream(client)


async def _keep_view(
    client: AsyncGradient, view: Callable[[ChatCompletionStream], AsyncIterator[Any]]
) -> None:
    """Read from what a stream gives, with no other reference to the stream."""
    items = view(await open_stream(client))
    await anext(items)


LEFT: dict[str, Leave] = {
    "break": _break,
    "an exception in the body of the loop": _raise,
    "never read": _ignore,
    "text": lambda client: _keep_view(client, lambda stream: stream.text),
    "events": lambda client: _keep_view(client, lambda stream: stream.events()),
    "raw": lambda client: _keep_view(client, lambda stream: stream.raw),
    "a choice": lambda client: _keep_view(client, lambda stream: stream.choice(0)),
}


@pytest.mark.parametrize("leave", LEFT.values(), ids=LEFT)
async def test_a_stream_left_open_is_closed_with_its_last_reference(start: Start, leave: Leave) -> None:
    """By counting alone; and who left it is told."""
    server, client = await start(OPEN)
    with without_collector():
        with pytest.warns(ResourceWarning, match="was dropped before its end"):
            await leave(client)
        assert {} == leaked_objects()
        await expect_settled(server, client)
    assert 0 == server.open_connections
    assert [] == pending_timers(server)
    await expect_usable(server, client)


async def test_an_open_stream_keeps_nothing_of_its_request(start: Start) -> None:
    """Messages may be megabytes, and a stream go on for long."""
    _, client = await start(OPEN)
    messages = [{"role": "user", "content": "hi"}]
    before = sys.getrefcount(messages)
    async with await open_stream(client, messages=messages) as stream:
        await anext(stream)
        gc.collect()
        assert before == sys.getrefcount(messages)


async def test_an_exception_inside_the_block_closes_at_once(start: Start) -> None:
    """While the exception, and by it the stream, is still there; nobody is told anything."""
    server, client = await start(OPEN)
    stream = await open_stream(client)
    with pytest.raises(ZeroDivisionError) as caught:
        async with stream:
            async for _ in stream:
                raise ZeroDivisionError
    assert not stream.completed
    await expect_settled(server, client)
    assert 0 == server.open_connections
    assert [] == pending_timers(server)
    assert caught.value.__traceback__ is not None


async def _stream(client: AsyncGradient) -> None:
    await (await open_stream(client)).completion()


ERRORS: list[Any] = [
    pytest.param(create_completion, reply_json({"message": "no"}, 400), "BadRequestError", id="status"),
    pytest.param(create_completion, reply_writes([CLOSE]), "APIConnectionError", id="no answer"),
    pytest.param(create_completion, reply_writes([HOLD]), "APITimeoutError", id="a call's timeout"),
    pytest.param(
        create_completion,
        reply_writes([head(200, {"content-length": "9"}), b"{", HOLD]),
        "APITimeoutError",
        id="half a body",
    ),
    pytest.param(create_completion, reply_bytes(b"{"), "APIResponseValidationError", id="no JSON"),
    pytest.param(create_completion, reply_bytes(b" " * 3000), "APIResponseValidationError", id="too large"),
    pytest.param(
        create_completion,
        reply_writes([head(400, {"content-length": "9"}), b"{", HOLD]),
        "BadRequestError",
        id="an error's body without end",
    ),
    pytest.param(_stream, OPEN, "StreamTimeoutError", id="a stream's timeout"),
    pytest.param(_stream, reply_writes([HEAD, FIRST, CLOSE]), "StreamInterruptedError", id="interrupted"),
    pytest.param(_stream, reply_sse(chunk("a"), done=False), "StreamTruncatedError", id="truncated"),
    pytest.param(_stream, reply_sse({"error": {"message": "no"}}), "StreamServerError", id="an error event"),
    pytest.param(_stream, reply_sse("nonsense"), "StreamProtocolError", id="no chunk"),
    pytest.param(_stream, reply_sse(chunk("x" * 3000)), "StreamLimitError", id="too large an event"),
]


async def _stored(client: AsyncGradient, work: Leave, name: str) -> APIError:
    # What pytest.raises gives would hold the traceback.
    try:
        await work(client)
    except APIError as raised:
        error = raised
    else:
        raise AssertionError(f"{name} expected")
    assert name == type(error).__name__
    return error


QUICK: dict[str, Any] = {
    "timeout": Timeout(first_token=0.05, idle=0.05, response=0.05),
    "limits": Limits(event_bytes=2000, line_bytes=2000, body_bytes=2000, error_body_seconds=0.05),
}


@pytest.mark.parametrize(("work", "reply", "name"), ERRORS)
async def test_a_stored_error_keeps_neither_connection_nor_timer(
    start: Start, work: Leave, reply: Handler, name: str
) -> None:
    server, client = await start(reply, **QUICK)
    error = await _stored(client, work, name)
    await expect_settled(server, client)
    assert [] == pending_timers(server)
    assert error.__traceback__ is not None
    await expect_usable(server, client)


@pytest.mark.parametrize(("work", "reply", "name"), ERRORS)
async def test_a_stored_error_without_its_traceback_keeps_nothing_of_the_reply(
    start: Start, work: Leave, reply: Handler, name: str
) -> None:
    """By counting alone."""
    server, client = await start(reply, **QUICK)
    with without_collector():
        error = await _stored(client, work, name)
        error.__traceback__ = None
        await expect_settled(server, client)
        assert {} == leaked_objects()


async def _dropped(client: AsyncGradient) -> None:
    stream = await open_stream(client)
    await anext(stream)


async def _cancelled(client: AsyncGradient) -> None:
    task = asyncio.create_task(_stream(client))
    await asyncio.sleep(0.002)
    task.cancel()
    await asyncio.wait([task])


async def _refused(client: AsyncGradient) -> None:
    with contextlib.suppress(GradientError):
        await create_completion(client)


MANY: list[Any] = [
    pytest.param(_dropped, OPEN, id="dropped"),
    pytest.param(_stream, reply_sse(chunk("a"), chunk(finish_reason="stop")), id="whole"),
    pytest.param(_cancelled, OPEN, id="cancelled"),
    pytest.param(_refused, reply_json({"message": "no"}, 400), id="refused"),
]


@pytest.mark.parametrize(("work", "reply"), MANY)
async def test_hundreds_leave_neither_connections_nor_memory(
    start: Start, work: Leave, reply: Handler
) -> None:
    """Three rounds of two hundred, after one that fills what is filled once."""
    overlook_objects()
    server, client = await start()

    async def one_round() -> int:
        for _ in range(20):
            server.push(*[reply] * 10)
            await _all(work(client) for _ in range(10))
            await expect_settled(server, client)
            server._service.script.clear()
        server.requests.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        tracemalloc.start()
        try:
            await one_round()
            sizes = [await one_round() for _ in range(3)]
        finally:
            tracemalloc.stop()
    # A table may have grown and shrink again; a hundred bytes kept of each would be twenty thousand a round.
    assert min(sizes[1:]) - sizes[0] < 15_000
    assert {} == leaked_objects()
    assert [] == pending_timers(server)
    assert server.open_connections <= 10


async def _all(works: Iterable[Awaitable[Any]]) -> None:
    await asyncio.gather(*works)
