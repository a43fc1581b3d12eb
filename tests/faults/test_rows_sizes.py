"""Rows of the fault list about more than there should be: limits hold, and memory is flat."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import pytest
from fault_rows import FINISH, TOKENS, Start, expect_connection, failed, streamed, tokens
from fault_ways import RETRYING, begun

from gradient_async import Limits, StreamLimitError, Timeout
from gradient_async.testing import Connection, Request, chunk, head, http_chunk, sse

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


@pytest.mark.parametrize(
    ("begin", "again", "says"),
    [
        pytest.param(b"data: ", b"x", "event_bytes", id="endless_line"),
        pytest.param(
            b"data: x\n", b"data: xxxxxxxxxxxxxxxxxxxxxxxxxxxx\n", "event_bytes", id="endless_event"
        ),
        pytest.param(b": ", b"x", "line_bytes", id="endless_comment"),
    ],
)
@pytest.mark.parametrize("limits", [Limits(), Limits(event_bytes=MIB, line_bytes=MIB + 1024)])
async def test_what_never_ends_ends_at_a_limit(
    start: Start, begin: bytes, again: bytes, says: str, limits: Limits
) -> None:
    """The message names it, and no more is read than that."""
    endless = Endless(begin, again)
    server, client = await start(endless, limits=limits, timeout=Timeout(idle=20), **RETRYING)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seen = await streamed(client)
    limit = getattr(limits, says)
    failed(seen, StreamLimitError, text=tokens(3), says=f"max_{says}={limit}", attempts=1)
    assert limit <= endless.sent + 64 * 1024
    assert endless.sent < limit + 16 * MIB
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * limit // 1024 + 32 * 1024
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


async def test_big_stream_slow_reader(start: Start) -> None:
    """The server is held back, memory stays flat, and every event comes."""
    size, count = 16 * 1024, 2_000
    event = http_chunk(sse(chunk("x" * size), done=False))
    written = 0

    async def much(_request: Request, connection: Connection) -> None:
        nonlocal written
        await connection.write(head(200, CHUNKED))
        for _ in range(count):
            await connection.write(event)
            written += 1
        await connection.write(http_chunk(sse(FINISH)) + http_chunk(b""))

    server, client = await start(much, limits=Limits(completion_bytes=None), **RETRYING)
    stream: Any = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": "x"}], stream=True
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read = 0
    ahead = 0
    async for piece in stream:
        read += bool(piece.choices[0].delta.content)
        if read < 100:
            await asyncio.sleep(0.002)
            ahead = max(ahead, written - read)
    assert (count, True) == (read, stream.completed)
    # What is under way at once: the buffers of two sockets, of the reader, and one read.
    assert ahead * size < 12 * MIB
    # The assembled text is kept, once or twice while it is joined; the chunks are not.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3 * size * count / 1024
    assert len(server.requests) == 1
    await expect_connection(server, client, "reused")
