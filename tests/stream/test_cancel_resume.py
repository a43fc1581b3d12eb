"""A read that was cancelled, at whichever await, is taken up again: nothing is lost, nothing comes twice."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import msgspec
import pytest
from cancellation import (
    ANSWER,
    CANCEL_MOMENTS,
    LATE_END,
    PIECES,
    STREAM,
    TEXT,
    CancelledAwait,
    CancelMoment,
    run_cancelled,
)
from client_calls import Start, open_stream

from gradient_async import ChatCompletionStream
from gradient_async.testing import CLOSE, Handler, head, reply_writes, sse

Items: TypeAlias = Callable[[ChatCompletionStream], AsyncIterator[Any]]

FULL = sse(*PIECES)
PACKED = gzip.compress(FULL)
GZIP = reply_writes(
    [
        head(200, {"content-type": "text/event-stream", "content-encoding": "gzip", "connection": "close"}),
        *(step for cut in range(0, len(PACKED), 40) for step in (PACKED[cut : cut + 40], 0.002)),
        CLOSE,
    ]
)
REPLIES = [
    pytest.param(STREAM, TEXT, id="stream"),
    pytest.param(LATE_END, TEXT, id="drain"),
    pytest.param(GZIP, TEXT, id="gzip"),
    pytest.param(ANSWER, "ok", id="a whole reply in place of a stream"),
]
ITEMS: dict[str, Items] = {
    "chunks": aiter,
    "text": lambda stream: aiter(stream.text),
    "events": lambda stream: aiter(stream.events()),
    "raw": lambda stream: aiter(stream.raw),
    "choice": lambda stream: aiter(stream.choice(0)),
}


async def _all_of(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def _plain(items: list[Any]) -> Any:
    """Bytes without where they were cut, events without the stream that they look back at."""
    if isinstance(items[0], bytes):
        return b"".join(items)
    return [
        {name: getattr(item, name) for name in item.__struct_fields__ if not name.startswith("_")}
        if isinstance(item, msgspec.Struct)
        else item
        for item in items
    ]


async def _next(items: AsyncIterator[Any]) -> Any:
    return await anext(items)


async def _interrupted(items: AsyncIterator[Any], stop: int, how: CancelMoment) -> tuple[list[Any], bool]:
    """Read all, one task an item, of which the one that makes the n-th suspension is cancelled there."""
    got: list[Any] = []
    cancelled = False
    while True:
        walk = CancelledAwait(_next(items), stop, how)
        task = asyncio.create_task(run_cancelled(walk))
        await asyncio.wait([task])
        stop -= walk.steps
        if task.cancelled():
            cancelled = True
        elif isinstance(task.exception(), StopAsyncIteration | RuntimeError):
            return got, cancelled  # a task may not raise StopAsyncIteration as it is
        else:
            got.append(task.result())


@pytest.mark.parametrize("how", CANCEL_MOMENTS[:2])
@pytest.mark.parametrize("items", ITEMS.values(), ids=ITEMS)
@pytest.mark.parametrize(("reply", "text"), REPLIES)
async def test_a_cancelled_read_can_be_taken_up_again(
    start: Start, reply: Handler, text: str, items: Items, how: CancelMoment
) -> None:
    server, client = await start()
    server.push(reply)
    expected = await _all_of(items(await open_stream(client)))
    stop, cancelled = 0, True
    while cancelled:
        stop += 1
        server.push(reply)
        stream = await open_stream(client)
        got, cancelled = await _interrupted(items(stream), stop, how)
        assert _plain(expected) == _plain(got)
        assert (await stream.completion()).choices[0].message.content == text
        assert stream.completed
    assert stop > 1


@pytest.mark.parametrize("how", CANCEL_MOMENTS[:2])
@pytest.mark.parametrize(("reply", "text"), REPLIES)
async def test_a_completion_can_be_asked_for_again(
    start: Start, reply: Handler, text: str, how: CancelMoment
) -> None:
    server, client = await start()
    stop, cancelled = 0, True
    while cancelled:
        stop += 1
        server.push(reply)
        stream = await open_stream(client)
        task = asyncio.create_task(run_cancelled(CancelledAwait(stream.completion(), stop, how)))
        await asyncio.wait([task])
        cancelled = task.cancelled()
        assert (await stream.completion()).choices[0].message.content == text
    assert stop > 1


@pytest.mark.parametrize("how", CANCEL_MOMENTS[:2])
@pytest.mark.parametrize("items", [ITEMS["choice"], ITEMS["chunks"]], ids=["choice", "chunks"])
@pytest.mark.parametrize(("reply", "text"), REPLIES)
async def test_who_reads_beside_one_that_is_cancelled_gets_all_the_same(
    start: Start, reply: Handler, text: str, items: Items, how: CancelMoment
) -> None:
    """Whichever of the two was reading for both at that moment."""
    server, client = await start()
    wait: Callable[[Any], Awaitable[Any]] = asyncio.wait
    stop, cancelled = 0, True
    while cancelled:
        stop += 1
        server.push(reply)
        stream = await open_stream(client)
        first, second = items(stream), aiter(stream.choice(0))
        reading = asyncio.create_task(run_cancelled(CancelledAwait(_all_of(first), stop, how)))
        beside = asyncio.create_task(_all_of(second))
        await wait([reading, beside])
        cancelled = reading.cancelled()
        del first
        if items is not ITEMS["choice"]:  # those who read the same choice share it
            assert text == "".join(piece.choices[0].delta.content or "" for piece in beside.result())
        assert beside.exception() is None
        assert (await stream.completion()).choices[0].message.content == text
    assert stop > 1
