"""Promises about the client's side: connections are kept, and a busy consumer loses nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, Ask, Connection, begun
from fault_rows import (
    CALL,
    FINISH,
    TEXT,
    TOKENS,
    Seen,
    Start,
    asked,
    expect_connection,
    failed,
    healthy,
    healthy_call,
    streamed,
    tokens,
)

from gradient_async import (
    AsyncGradient,
    ChatCompletionChunk,
    ChatCompletionStream,
    StreamError,
    StreamInterruptedError,
    StreamTruncatedError,
    Timeout,
)
from gradient_async.decoding import ChunkDecoder
from gradient_async.testing import CLOSE, RESET, chunk, http_chunk, reply_writes, sse

MIB = 2**20
BUSY = 0.12
IMPATIENT = Timeout(first_token=2, idle=0.05)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([streamed] * 3 + [asked] * 3, id="three_streams_three_calls"),
        pytest.param([asked] * 3 + [streamed] * 3, id="three_calls_three_streams"),
        pytest.param([streamed, asked] * 3, id="in_turn"),
    ],
)
async def test_streams_and_calls_in_sequence_use_one_connection(start: Start, order: list[Ask]) -> None:
    script = [healthy() if ask is streamed else healthy_call() for ask in order]
    server, client = await start(*script, **AMBIGUOUS)
    for ask in order:
        seen = await ask(client)
        assert (TEXT, None) == (seen.delivered, seen.error)
    assert (1, [1] * 6) == (server.connections, [request.connection for request in server.requests])


def text_of(*chunks: ChatCompletionChunk) -> str:
    return "".join(choice.delta.content or "" for piece in chunks for choice in piece.choices)


async def by_chunk(stream: ChatCompletionStream) -> AsyncIterator[str]:
    async for piece in stream:
        yield text_of(piece)


async def by_text(stream: ChatCompletionStream) -> AsyncIterator[str]:
    async for text in stream.text:
        yield text


async def by_event(stream: ChatCompletionStream) -> AsyncIterator[str]:
    async for event in stream.events():
        if event.type == "content.delta":
            yield event.delta


async def by_choice(stream: ChatCompletionStream) -> AsyncIterator[str]:
    async for piece in stream.choice(0):
        yield text_of(piece)


async def by_bytes(stream: ChatCompletionStream) -> AsyncIterator[str]:
    decoder = ChunkDecoder()
    async for data in stream.raw:
        yield text_of(*decoder.feed(data))


Way = Callable[[ChatCompletionStream], AsyncIterator[str]]
WAYS = pytest.mark.parametrize("way", [by_chunk, by_text, by_event, by_choice, by_bytes])


async def read_busily(client: AsyncGradient, way: Way, seconds: float = BUSY) -> Seen:
    """Read to the end, with something else to do after the first piece."""
    seen = Seen()
    began = asyncio.get_running_loop().time()
    stream: ChatCompletionStream = await client.chat.completions.create(stream=True, **CALL)
    try:
        async with asyncio.timeout(10):
            async for text in way(stream):
                if not seen.delivered:
                    await asyncio.sleep(seconds)
                seen.delivered += text
            seen.completion = await stream.completion()
    except StreamError as error:
        seen.error = error
    seen.seconds = asyncio.get_running_loop().time() - began
    return seen


CHUNKED, PLAIN = begun()[0], begun(framing="eof")[0]
FIRST = sse(TOKENS[0], done=False)
NEXT = sse(*TOKENS[1:4], done=False)
REST = sse(*TOKENS[1:], FINISH)


@WAYS
@pytest.mark.parametrize(
    ("steps", "error", "count", "connection"),
    [
        pytest.param([CHUNKED, http_chunk(FIRST), 0.01, http_chunk(NEXT), RESET], StreamInterruptedError, 4, "closed", id="rst"),
        pytest.param([CHUNKED, http_chunk(FIRST), 0.01, http_chunk(NEXT), CLOSE], StreamInterruptedError, 4, "closed", id="fin"),
        pytest.param([PLAIN, FIRST, 0.01, NEXT, RESET], StreamInterruptedError, 4, "closed", id="rst_without_framing"),
        pytest.param([PLAIN, FIRST, 0.01, NEXT, CLOSE], StreamTruncatedError, 4, "closed", id="eof_too_early"),
        pytest.param([PLAIN, FIRST, 0.01, REST, CLOSE], None, 5, "closed", id="eof"),
        pytest.param([CHUNKED, http_chunk(FIRST), 0.01, http_chunk(REST), RESET], None, 5, "closed", id="rst_after_all"),
        pytest.param([CHUNKED, http_chunk(FIRST), 0.01, http_chunk(REST), http_chunk(b"")], None, 5, "reused", id="healthy"),
        # The server's silence falls into the consumer's absence: nobody waited for it.
        pytest.param([CHUNKED, http_chunk(FIRST), 0.08, http_chunk(REST), http_chunk(b"")], None, 5, "reused", id="silent_meanwhile"),
    ],
)  # fmt: skip
async def test_a_busy_consumer_gets_all_that_came(
    start: Start, way: Way, steps: list[Any], error: Any, count: int, connection: Connection
) -> None:
    """Its absence is longer than the limit on silence, and the stream ends meanwhile."""
    server, client = await start(reply_writes(steps), timeout=IMPATIENT, **AMBIGUOUS)
    seen = await read_busily(client, way)
    if error is None:
        assert (TEXT, None) == (seen.delivered, seen.error)
        assert seen.completion is not None
        assert seen.completion.choices[0].message.content == TEXT
    else:
        failed(seen, error, text=tokens(count), attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, connection)


async def test_silence_counts_from_the_moment_that_somebody_waits(start: Start) -> None:
    """The server is silent for longer than the limit, the consumer is away for most of it."""
    steps: list[Any] = [CHUNKED, http_chunk(FIRST), 0.5, http_chunk(REST), http_chunk(b"")]
    server, client = await start(reply_writes(steps), timeout=Timeout(idle=0.4), **AMBIGUOUS)
    seen = await read_busily(client, by_chunk, 0.35)
    assert (TEXT, None, 1) == (seen.delivered, seen.error, len(server.requests))
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    ("framing", "error"),
    [
        pytest.param("chunked", StreamInterruptedError, id="fin"),
        pytest.param("eof", StreamTruncatedError, id="eof"),
    ],
)
async def test_a_busy_consumer_gets_megabytes_that_came_before_the_end(
    start: Start, framing: Any, error: Any
) -> None:
    """More than what is read ahead: most of it still waits in the sockets as the server leaves."""
    words = "x" * 16_384
    wire = begun(*[chunk(words)] * 128, framing=framing)
    server, client = await start(reply_writes([*wire, CLOSE]), timeout=IMPATIENT, **AMBIGUOUS)
    failed(await read_busily(client, by_chunk), error, text=words * 128, events=128, attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


async def test_a_reset_leaves_a_busy_consumer_whole_events_only(start: Start) -> None:
    """What a reset destroys under way is gone; the rest is delivered, and is just what `.partial` holds."""
    words = "x" * 16_384
    server, client = await start(
        reply_writes([*begun(*[chunk(words)] * 128), RESET]), timeout=IMPATIENT, **AMBIGUOUS
    )
    seen = await read_busily(client, by_chunk)
    failed(seen, StreamInterruptedError, text=seen.delivered, attempts=1)
    assert (0, True) == (len(seen.delivered) % len(words), len(seen.delivered) >= len(words))
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")
