"""Rows of the fault list about more than there should be: limits hold, and memory is flat."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fault_costs import memory, turns
from fault_requests import RETRYING, begun
from fault_rows import CALL, FINISH, TOKENS, Start, asked, expect_connection, failed, streamed, tokens

from gradient_async import APIResponseValidationError, ChatCompletionStream, Limits, StreamLimitError, Timeout
from gradient_async.testing import Connection, Request, chunk, head, http_chunk, reply_sse, sse

CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
MIB = 2**20


class Endless:
    """Writes three tokens, then a beginning, and then the same again and again."""

    def __init__(self, begin: bytes, again: bytes) -> None:
        self._begin = begin
        self._piece = http_chunk(again * (64 * 1024 // len(again)))
        self.sent = 0

    async def __call__(self, _request: Request, connection: Connection) -> None:
        for data in begun(*TOKENS[:3]):
            await connection.write(data)
        await connection.write(http_chunk(self._begin))
        while self.sent < 100 * MIB:
            await connection.write(self._piece)
            self.sent += len(self._piece)


LOW = Limits(event_bytes=MIB, line_bytes=MIB + 1024)
SHORT = b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"


@pytest.mark.parametrize(
    ("begin", "again", "limits", "says", "most"),
    [
        pytest.param(b"data: ", b"x", Limits(), "event_bytes", 32 * MIB, id="endless_line"),
        pytest.param(b"data: ", b"x", LOW, "event_bytes", 6 * MIB, id="endless_line_low"),
        pytest.param(b"data: x\n", SHORT, LOW, "event_bytes", 5 * MIB, id="endless_event"),
        # Comments are dropped as they arrive: what their line may have does not matter.
        pytest.param(b": ", b"x", Limits(), "line_bytes", 2 * MIB, id="endless_comment"),
    ],
)
async def test_what_never_ends_ends_at_a_limit(
    start: Start, begin: bytes, again: bytes, limits: Limits, says: str, most: int
) -> None:
    """The message names it, no more is read than that, and no more is held."""
    endless = Endless(begin, again)
    server, client = await start(endless, endless, limits=limits, timeout=Timeout(idle=20), **RETRYING)
    async with turns() as others:
        seen = await streamed(client)
    limit: int = getattr(limits, says)
    failed(seen, StreamLimitError, text=tokens(3), says=f"max_{says}={limit}", attempts=1)
    assert limit <= endless.sent + 64 * 1024
    assert endless.sent < limit + 16 * MIB
    assert (1, True) == (len(server.requests), others.longest < 0.3)
    endless.sent = 0
    with memory() as taken:
        failed(await streamed(client), StreamLimitError, text=tokens(3), says=f"max_{says}={limit}")
    assert taken.peak < most
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("again", [SHORT, b": xxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"])
async def test_short_lines_are_bounded_as_an_event_alone(start: Start, again: bytes) -> None:
    """A hundred thousand comments are nothing; as many lines of data are one event that is too long."""
    lines = again * 100_000
    server, client = await start(
        reply_sse(*TOKENS, b"data: x\n", lines, b"\n", FINISH), limits=LOW, on_bad_event="skip", **RETRYING
    )
    seen = await streamed(client)
    if again is SHORT:
        failed(seen, StreamLimitError, text=tokens(5), says="max_event_bytes", attempts=1)
    else:
        assert (tokens(5), None) == (seen.delivered, seen.error)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed" if again is SHORT else "reused")


@pytest.mark.parametrize("framing", ["chunked", "eof"])
async def test_an_awaited_reply_without_end_ends_at_a_limit(start: Start, framing: str) -> None:
    sent = 0

    async def endless(_request: Request, connection: Connection) -> None:
        nonlocal sent
        chunked = {"transfer-encoding": "chunked"} if framing == "chunked" else {"connection": "close"}
        await connection.write(head(200, {"content-type": "application/json", **chunked}))
        piece = b" " * 64 * 1024
        while sent < 100 * MIB:
            await connection.write(http_chunk(piece) if framing == "chunked" else piece)
            sent += len(piece)

    server, client = await start(endless, limits=Limits(body_bytes=MIB), **RETRYING)
    failed(await asked(client), APIResponseValidationError, says="body_bytes=1048576", attempts=1)
    assert sent < 16 * MIB
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


SIZE, COUNT = 16 * 1024, 1_920


@pytest.mark.parametrize(
    ("event", "most"),
    [
        pytest.param(chunk("tok", obfuscation="x" * SIZE), 4 * MIB, id="big_stream_slow_reader"),
        # Text is kept, and for a moment joined; the chunks that brought it are not.
        pytest.param(chunk("x" * SIZE), 3 * SIZE * COUNT, id="text"),
    ],
)
async def test_a_slow_reader_of_thirty_mebibytes_holds_the_server_back(
    start: Start, event: dict[str, Any], most: int
) -> None:
    """Memory is what is kept, and every event comes."""
    wire = http_chunk(sse(event, done=False))
    written = 0

    async def much(_request: Request, connection: Connection) -> None:
        nonlocal written
        await connection.write(head(200, CHUNKED))
        for _ in range(COUNT):
            await connection.write(wire)
            written += 1
        await connection.write(http_chunk(sse(FINISH)) + http_chunk(b""))

    server, client = await start(much, limits=Limits(completion_bytes=None), **RETRYING)
    read = ahead = 0
    with memory() as taken:
        stream: ChatCompletionStream = await client.chat.completions.create(stream=True, **CALL)
        async for piece in stream:
            read += bool(piece.choices[0].delta.content)
            if read % 20 == 0:
                await asyncio.sleep(0.002)
                ahead = max(ahead, written - read)
    assert (COUNT, True) == (read, stream.completed)
    # What is under way at once: the buffers of two sockets, of the reader, and one read.
    assert ahead * SIZE < 12 * MIB
    assert taken.peak < most
    assert len(server.requests) == 1
    await expect_connection(server, client, "reused")
