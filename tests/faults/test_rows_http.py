"""Rows of the fault list about HTTP: framing, headers, and what is no HTTP at all."""

from __future__ import annotations

from typing import Any

import pytest
from fault_costs import memory
from fault_requests import AMBIGUOUS, BOTH_WAYS, RETRYING, Ask, ask_repeatedly, begun, expect_whole
from fault_rows import FINISH, TEXT, TOKENS, Start, expect_connection, failed, streamed, tokens

from gradient_async import APIConnectionError, StreamInterruptedError
from gradient_async.testing import (
    CLOSE,
    HOLD,
    Connection,
    Handler,
    Request,
    forever,
    head,
    http_chunk,
    reply_bytes,
    reply_sse,
    reply_writes,
    sse,
)

pytestmark = pytest.mark.usefixtures("either_parser")

WIRE = sse(*TOKENS, FINISH)
TYPE = {"content-type": "text/event-stream"}
CHUNKED = {**TYPE, "transfer-encoding": "chunked"}
THREE = begun(*TOKENS[:3])
PIECES = [b"%x;name=value\r\n%s\r\n" % (len(WIRE), WIRE), b"0\r\nx-trailer: 1\r\n\r\n"]


@pytest.mark.parametrize(
    ("steps", "connection"),
    [
        pytest.param([head(200, CHUNKED), *PIECES], "reused", id="trailers"),
        pytest.param(
            [b"HTTP/1.0 200 OK\r\ncontent-type: text/event-stream\r\n\r\n", WIRE, CLOSE],
            "closed",
            id="http10",
        ),
    ],
)
async def test_http_that_is_seldom_seen(start: Start, steps: list[Any], connection: Any) -> None:
    server, client = await start(reply_writes(steps), **RETRYING)
    await expect_whole(server, client, await streamed(client), connection)


@pytest.mark.parametrize("pace", [0.0, 0.02])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "garbage",
    [
        pytest.param([b"zz\r\n", HOLD], id="bad_chunk_size"),
        pytest.param([b"FFFFFFFFFFFFFFF0\r\n0123456789", 0.02, CLOSE], id="huge_chunk_size"),
    ],
)
async def test_a_chunk_of_http_that_is_none(
    start: Start, garbage: list[Any], together: bool, pace: float
) -> None:
    """Also when all of it comes in one read; and without waiting for a limit on time."""
    writes: list[Any] = (
        [b"".join([*THREE, garbage[0]]), *garbage[1:]] if together else [*THREE, 0.02, *garbage]
    )
    server, client = await start(reply_writes(writes), **AMBIGUOUS)
    with memory() as taken:  # whatever size was announced
        seen = await streamed(client, pace=pace)
    assert taken.peak < 4 * 2**20
    failed(seen, StreamInterruptedError, text=tokens(3), phase="body", attempts=1)
    assert seen.seconds < 3
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


@BOTH_WAYS
@pytest.mark.parametrize(
    ("wire", "says"),
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.9\x1b[2J\r\n", "not HTTP", id="not_http"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 7\r\n\r\n1234567",
            "",
            id="two_content_lengths",
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nx-bad: a\x00\x1b[2Jb\r\ncontent-length: 0\r\n\r\n", "", id="header_ctl"
        ),
    ],
)
@pytest.mark.parametrize(("options", "posts"), [(RETRYING, 1), (AMBIGUOUS, 3)])
async def test_what_is_no_http(
    start: Start, ask: Ask, wire: bytes, says: str, options: Any, posts: int
) -> None:
    """The message shows it, escaped and cut."""
    reply = reply_writes([wire, 0.02, CLOSE])
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=posts, **options)
    error = failed(seen, APIConnectionError, says=says, phase="response", ambiguous=True, attempts=posts)
    assert str(error).isprintable()
    assert len(str(error)) < 700
    await expect_connection(server, client, "closed")


@BOTH_WAYS
async def test_header_flood(start: Start, ask: Ask) -> None:
    """Headers without end: an error at the limit, and no memory for them."""
    sent = 0

    async def flood(_request: Request, connection: Connection) -> None:
        nonlocal sent
        await connection.write(b"HTTP/1.1 200 OK\r\n")
        line = b"x-header: " + b"v" * 1000 + b"\r\n"
        while sent < 64 * 2**20:
            await connection.write(line * 64)
            sent += len(line) * 64

    server, client = await start(flood, **RETRYING)
    with memory() as taken:
        seen = await ask(client)
    failed(seen, APIConnectionError, says="too large", phase="response", ambiguous=True, attempts=1)
    assert sent < 16 * 2**20
    assert taken.peak < 4 * 2**20
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


async def test_te_and_cl(start: Start) -> None:
    """Two framings at once: the stream, or an error of ours; never a part of it as the whole."""
    reply = reply_writes([head(200, {**CHUNKED, "content-length": "5"}), http_chunk(WIRE), http_chunk(b"")])
    server, client = await start(reply, **RETRYING)
    seen = await streamed(client)
    if seen.error is None:
        assert seen.delivered == TEXT
    else:
        failed(seen, APIConnectionError, phase="response")
    assert len(server.requests) == 1
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize(
    "cookie",
    [
        pytest.param("session=1; Path=/", id="cookie"),
        pytest.param("session=1; Max-Age=" + "9" * 40, id="cookie_overflow"),
    ],
)
async def test_cookies_are_not_kept(start: Start, cookie: str) -> None:
    server, client = await start(reply_sse(*TOKENS, FINISH, headers={"set-cookie": cookie}), **RETRYING)
    await expect_whole(server, client, await streamed(client), "reused")
    assert not any("cookie" in request.headers for request in server.requests)


@pytest.mark.parametrize(
    "reply",
    [
        reply_writes([head(200, TYPE), forever(b": x\n", 0.05)]),
        reply_bytes(WIRE, 201, TYPE),
    ],
)
async def test_leaving_at_once_is_harmless(start: Start, reply: Handler) -> None:
    """Whatever the server has to say."""
    server, client = await start(reply, **RETRYING)
    stream: Any = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": ""}], stream=True
    )
    await stream.aclose()
    await server.wait_closed_connections(1)
