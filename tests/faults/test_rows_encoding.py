"""Rows of the fault list about compressed bodies, which nobody asked for."""

from __future__ import annotations

import gzip
import itertools
import random
import zlib
from typing import Any

import pytest
from fault_costs import memory, turns
from fault_requests import CALL_BODY, RETRYING, Ask, ask_repeatedly, expect_whole
from fault_rows import FINISH, TEXT, TOKENS, Start, asked, expect_connection, failed, streamed, tokens

from gradient_async import (
    APIResponseValidationError,
    APIStatusError,
    BadRequestError,
    Limits,
    NotFoundError,
    StreamLimitError,
    StreamProtocolError,
    StreamTruncatedError,
)
from gradient_async.testing import HOLD, Reply, head, http_chunk, reply_bytes, reply_writes, sse

MIB = 2**20
GZIP: dict[str, str | None] = {
    "content-type": "text/event-stream",
    "transfer-encoding": "chunked",
    "content-encoding": "gzip",
}
PACKED = {"content-type": "application/json", "content-encoding": "gzip"}


def packed(*pieces: bytes, end: bool = True) -> Reply:
    """A gzip body, flushed after each piece, as servers do that stream."""
    packer = zlib.compressobj(wbits=31)
    writes = [packer.compress(piece) + packer.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    if end:
        writes.append(packer.flush())
    return reply_writes([head(200, GZIP), *map(http_chunk, writes), http_chunk(b"")])


EVENTS = sse(*TOKENS, FINISH).split(b"\n\n")
PIECES = [event + b"\n\n" for event in EVENTS if event]


async def test_gzip_sse(start: Start) -> None:
    server, client = await start(packed(*PIECES), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")
    assert server.requests[0].headers["accept-encoding"] == "identity"


async def test_gzip_truncated(start: Start) -> None:
    """After three tokens; HTTP ends well."""
    server, client = await start(packed(*PIECES[:3], end=False), **RETRYING)
    failed(await streamed(client), StreamTruncatedError, text=tokens(3), attempts=1)
    assert len(server.requests) == 1
    await expect_connection(server, client, "reused")


async def test_gzip_without_its_end_after_a_whole_stream(start: Start) -> None:
    """Nothing is missing."""
    server, client = await start(packed(*PIECES, end=False), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize(
    ("writes", "count"),
    [
        pytest.param([head(200, GZIP), http_chunk(sse(*TOKENS)), http_chunk(b"")], 0, id="gzip_lie"),
        pytest.param([head(200, GZIP) + http_chunk(sse(*TOKENS)) + http_chunk(b"")], 0, id="in one write"),
        pytest.param([head(200, GZIP) + http_chunk(sse(*TOKENS)), HOLD], 0, id="with the headers"),
        pytest.param(
            [*packed(*PIECES[:3], end=False).steps[:-1], http_chunk(b"\xff" * 50), HOLD], 3, id="later"
        ),
    ],
)
async def test_what_is_no_gzip_though_it_says_so(start: Start, writes: list[Any], count: int) -> None:
    """What came before is delivered."""
    server, client = await start(reply_writes(writes), **RETRYING)
    seen = await streamed(client)
    failed(seen, StreamProtocolError, text=tokens(count), says="body is not gzip", attempts=1)
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("apart", [False, True])
async def test_gzip_padded(start: Start, apart: bool) -> None:
    """Zeros behind the end of gzip are no second member, in the same write or in one of their own."""
    packed = gzip.compress(sse(*TOKENS, FINISH))
    pieces = [packed, bytes(512)] if apart else [packed + bytes(512)]
    reply = reply_writes([head(200, GZIP), *map(http_chunk, pieces), http_chunk(b"")])
    server, client = await start(reply, **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize("coding", [pytest.param("none", id="encoding_none"), "identity", "UTF-8"])
async def test_a_coding_that_means_nothing(start: Start, coding: str) -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": coding}
    server, client = await start(reply_bytes(sse(*TOKENS, FINISH), 200, headers), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")
    plain = {"content-type": "application/json", "content-encoding": coding}
    _, _, seen = await ask_repeatedly(start, asked, reply_bytes(CALL_BODY, 200, plain), posts=1)
    assert (seen.delivered, seen.error) == (TEXT, None)


@pytest.mark.parametrize(("first", "second"), [("identity", "gzip"), ("gzip", "none")])
async def test_codings_in_two_headers(start: Start, first: str, second: str) -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": first, "Content-Encoding": second}
    body = gzip.compress(sse(*TOKENS, FINISH))
    server, client = await start(reply_bytes(body, 200, headers), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize("coding", [pytest.param("zstd", id="encoding_unknown"), "br", "gzip, br"])
async def test_a_coding_that_was_not_asked_for(start: Start, coding: str) -> None:
    headers = {"content-type": "text/event-stream", "content-encoding": coding}
    server, client = await start(reply_bytes(b"\x28\xb5\x2f\xfd" + bytes(100), 200, headers), **RETRYING)
    says = f"Content-Encoding {coding} was not asked for"
    failed(await streamed(client), StreamProtocolError, text="", says=says, attempts=1)
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("coding", [pytest.param("gzip", id="error_not_encoded"), "br"])
async def test_an_error_that_is_not_encoded_though_it_says_so(start: Start, coding: str) -> None:
    reply = reply_bytes(b"<h1>No such model</h1>", 404, {"content-encoding": coding})
    server, client = await start(reply, **RETRYING)
    failed(await streamed(client), NotFoundError, says="answered 404: No such model", attempts=1)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (gzip.compress(CALL_BODY), None),
        (gzip.compress(CALL_BODY) + bytes(100), None),
        (gzip.compress(CALL_BODY)[:-4], "no end"),
        (CALL_BODY, "not gzip"),
        (gzip.compress(b" " * 3_000_000 + CALL_BODY), "decompression_ratio=200"),
        (gzip.compress(b"") * 65 + gzip.compress(CALL_BODY), "gzip_members=64"),
    ],
)
async def test_an_awaited_reply_is_unpacked_as_well(start: Start, body: bytes, says: str | None) -> None:
    server, client, seen = await ask_repeatedly(start, asked, reply_bytes(body, 200, PACKED), posts=1)
    if says is None:
        assert (seen.delivered, seen.error) == (TEXT, None)
    else:
        failed(seen, APIResponseValidationError, says=says, attempts=1, status_code=200)
    assert len(server.requests) == 1
    del client


async def test_the_body_of_an_error_is_unpacked_as_far_as_it_goes(start: Start) -> None:
    body = gzip.compress(b'{"error": {"message": "no good", "code": "c1"}}')
    _, client, seen = await ask_repeatedly(start, asked, reply_bytes(body, 400, PACKED), posts=1)
    failed(seen, BadRequestError, says="no good", code="c1")
    _, client, seen = await ask_repeatedly(start, asked, reply_bytes(b"plain", 400, PACKED), posts=1)
    failed(seen, BadRequestError, says="answered 400: plain")
    _, client, seen = await ask_repeatedly(start, asked, reply_bytes(b"\x1f\x8b\xff", 400, PACKED), posts=1)
    failed(seen, BadRequestError, says="no message")
    del client


def bomb(unit: bytes, size: int) -> bytes:
    """Gzip that becomes so many bytes of the same, and goes on."""
    packer = zlib.compressobj(9, wbits=31)
    piece = unit * (MIB // len(unit))
    body = b"".join(packer.compress(piece) for _ in range(size // MIB)) + packer.flush()
    return body + random.Random(1).randbytes(2 * MIB)


RATIO = "decompression_ratio=200"


@pytest.mark.parametrize(
    ("begin", "unit", "limits", "says", "most"),
    [
        pytest.param(b"data: ", b"x", Limits(), RATIO, 4 * MIB, id="bomb_line"),
        pytest.param(
            b"data: ", b"x", Limits(decompression_ratio=10**6), "max_event_bytes=16777216", 32 * MIB,
            id="up to the limit of an event",
        ),
        pytest.param(
            b"data: ", b"x", Limits(decompression_ratio=10**6, event_bytes=MIB), "max_event_bytes=1048576", 4 * MIB,
            id="up to a lower limit",
        ),
        pytest.param(b"", b": comment\n", Limits(), RATIO, 4 * MIB, id="bomb_comments"),
    ],
)  # fmt: skip
async def test_a_bomb_costs_neither_memory_nor_time(
    start: Start, begin: bytes, unit: bytes, limits: Limits, says: str, most: int
) -> None:
    """What would become a gigabyte ends at a limit, and other tasks get their turn meanwhile."""
    body = gzip.compress(begin) + bomb(unit, 128 * MIB)
    reply = reply_bytes(body, 200, {"content-type": "text/event-stream", "content-encoding": "gzip"})
    server, client = await start(reply, reply, limits=limits, **RETRYING)
    async with turns() as others:
        seen = await streamed(client)
    failed(seen, StreamLimitError, text="", says=says, attempts=1)
    assert (seen.seconds < 3, others.longest < 0.3, len(server.requests)) == (True, True, 1)
    with memory() as taken:
        failed(await streamed(client), StreamLimitError, text="", says=says)
    assert taken.peak < most
    await expect_connection(server, client, "closed")


async def test_an_awaited_bomb_costs_neither_memory_nor_time(start: Start) -> None:
    """Its ratio allows it: then the limit of a body ends it."""
    limits = Limits(decompression_ratio=10**6, body_bytes=8 * MIB)
    reply = reply_bytes(bomb(b" ", 128 * MIB), 200, PACKED)
    server, client = await start(reply, reply, limits=limits, **RETRYING)
    async with turns() as others:
        seen = await asked(client)
    failed(seen, APIResponseValidationError, says="body_bytes=8388608", status_code=200, attempts=1)
    assert (seen.seconds < 3, others.longest < 0.3, len(server.requests)) == (True, True, 1)
    with memory() as taken:
        failed(await asked(client), APIResponseValidationError, says="body_bytes=8388608")
    assert taken.peak < 16 * MIB
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("status", [400, 500])
async def test_the_bomb_of_an_error_is_not_unpacked_beyond_what_an_error_may_have(
    start: Start, status: int
) -> None:
    """The status decides all the same."""
    server, client = await start(reply_bytes(bomb(b" ", 128 * MIB), status, PACKED), max_retries=0)
    with memory() as taken:
        seen = await asked(client)
    assert isinstance(seen.error, APIStatusError)
    assert (status, 1) == (seen.error.status_code, len(server.requests))
    assert taken.peak < 4 * MIB
    await expect_connection(server, client, "closed")


MEMBERS = gzip.compress(b"") * 150_000


@pytest.mark.parametrize(
    ("ask", "wire", "kind", "error"),
    [
        pytest.param(streamed, MEMBERS + gzip.compress(sse(*TOKENS, FINISH)), GZIP, StreamLimitError, id="bomb_members"),
        pytest.param(asked, MEMBERS + gzip.compress(CALL_BODY), PACKED, APIResponseValidationError, id="awaited"),
    ],
)  # fmt: skip
async def test_members_without_end_are_not_counted_to_the_end(
    start: Start, ask: Ask, wire: bytes, kind: dict[str, Any], error: Any
) -> None:
    """150,000 empty members in three megabytes."""
    reply = reply_bytes(wire, 200, kind | {"transfer-encoding": None})
    server, client = await start(reply, **RETRYING)
    async with turns() as others:
        seen = await ask(client)
    failed(seen, error, says="gzip_members=64", attempts=1)
    assert (seen.seconds < 1, others.longest < 0.3, len(server.requests)) == (True, True, 1)
    await expect_connection(server, client, "closed")


async def test_sixty_four_members_are_one_stream(start: Start) -> None:
    """Up to the limit they are as good as one, wherever they end."""
    wire = sse(*TOKENS, FINISH)
    cuts = [len(wire) * at // 64 for at in range(65)]
    body = b"".join(gzip.compress(wire[a:b]) for a, b in itertools.pairwise(cuts))
    server, client = await start(reply_bytes(body, 200, GZIP | {"transfer-encoding": None}), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")


async def test_what_unpacks_to_much_leaves_the_loop_its_turns(start: Start) -> None:
    """Megabytes of comments out of a few kilobytes, where the ratio is allowed: then the stream goes on."""
    packer = zlib.compressobj(9, wbits=31)
    line = b": " + b"x" * 1021 + b"\n"
    body = b"".join(packer.compress(line * 1024) for _ in range(128))
    body += packer.compress(sse(*TOKENS, FINISH)) + packer.flush()
    reply = reply_bytes(body, 200, GZIP | {"transfer-encoding": None})
    server, client = await start(reply, limits=Limits(decompression_ratio=10**6), **RETRYING)
    async with turns() as others:
        seen = await streamed(client)
    assert (others.longest < 0.3, others.count > 10) == (True, True)
    await expect_whole(server, client, seen, "reused")
