"""Rows of the fault list about how events are framed: all of them are whole streams."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from fault_requests import expect_whole
from fault_rows import CALL, FINISH, TEXT, TOKENS, Seen, Start, expect_connection, streamed

from gradient_async.testing import (
    HOLD,
    Connection,
    Handler,
    Request,
    chunk,
    head,
    http_chunk,
    reply_bytes,
    reply_sse,
    reply_writes,
    sse,
)
from gradient_async.testing.payloads import dump

WIRE = sse(*TOKENS, FINISH)
BODIES = [dump(event) for event in (*TOKENS, FINISH)]
TYPE = {"content-type": "text/event-stream"}
CHUNKED = {**TYPE, "transfer-encoding": "chunked"}


def framed(*pieces: bytes) -> Handler:
    """Events as they stand, an HTTP chunk each."""
    return reply_writes([head(200, CHUNKED), *map(http_chunk, pieces), http_chunk(b"")])


def events(before: bytes, after: bytes, done: bytes = b"data: [DONE]\n\n") -> Handler:
    """Every body with so much around it."""
    return framed(*(before + body + after for body in BODIES), done)


def on_lines(body: bytes) -> bytes:
    """One event's JSON on several lines."""
    return b"data: " + body.replace(b',"', b',\ndata: "') + b"\n\n"


MIXED = [
    b"data: " + body + end
    for body, end in zip(
        BODIES, [b"\r\n\n", b"\n\r\n", b"\r\r", b"\n\n", b"\r\n\r\n", b"\r\n\r"], strict=True
    )
]


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(framed(*(piece.replace(b"\n", b"\r\n") for piece in WIRE.splitlines(keepends=True))), id="crlf"),
        pytest.param(framed(WIRE.replace(b"\n", b"\r")), id="cr_only"),
        pytest.param(framed(*MIXED, b"data: [DONE]\r\n\n"), id="mixed_endings"),
        pytest.param(framed(b"\xef\xbb\xbf" + WIRE), id="bom"),
        pytest.param(framed(b"\xef", b"\xbb", b"\xbf" + WIRE), id="bom in pieces"),
        pytest.param(framed(*map(on_lines, BODIES), b"data: [DONE]\n\n"), id="multi_line_data"),
        pytest.param(events(b"data:", b"\n\n", b"data:[DONE]\n\n"), id="no_space_after_colon"),
        pytest.param(events(b"id: 7\nevent: message\nretry: 10\nfoo: bar\nfoo\ndata: ", b"\n\n"), id="sse_fields"),
        pytest.param(events(b"event: ping\n\nretry: 3000\n\nid: 7\n\ndata: ", b"\n\n"), id="ping_blocks"),
        pytest.param(events(b"data: ", b"\n\n\n\n", b"id: 7\n\n\ndata: [DONE]\n\n"), id="id_then_blank"),
        pytest.param(events(b"data:\n\ndata\n\ndata: ", b"\n\n"), id="empty_data"),
        pytest.param(events(b"data: ", b"\n\n", b"data: [DONE] \n\n"), id="done_trailing_space"),
    ],
)  # fmt: skip
async def test_events_may_be_framed_like_that(start: Start, reply: Handler) -> None:
    server, client = await start(reply, max_retries=2)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("TEXT/Event-Stream;charset=UTF-8", id="content_type_odd"),
        pytest.param(None, id="content_type_none"),
        pytest.param("application/octet-stream", id="content_type_octet"),
    ],
)
async def test_the_content_type_may_be_odd_or_missing(start: Start, kind: str | None) -> None:
    reply = reply_bytes(WIRE, 200, {"content-type": kind})
    server, client = await start(reply, max_retries=2)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize("kind", [None, "application/octet-stream"])
async def test_the_log_notes_that_a_content_type_had_to_be_guessed(
    start: Start, kind: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """But not the content type, which is the server's text and may repeat a key."""
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    _, client = await start(reply_bytes(WIRE, 200, {"content-type": kind}), max_retries=2)
    assert (await streamed(client)).error is None
    notes = [record for record in caplog.records if "content-type" in record.getMessage().lower()]
    assert [logging.DEBUG] == [note.levelno for note in notes]
    assert "octet" not in caplog.text


@pytest.mark.parametrize("end", [b"\r", b"\r\n", b"\n"])
async def test_an_event_is_there_with_its_blank_line(start: Start, end: bytes) -> None:
    """Also where a CR might still be followed by an LF: nobody waits to see."""
    event = b"data: " + BODIES[0] + end * 2
    server, client = await start(reply_writes([head(200, CHUNKED), http_chunk(event), HOLD]), max_retries=2)
    async with client.chat.completions.stream(**CALL) as stream, asyncio.timeout(2):
        piece = await anext(stream)
    assert piece.choices[0].delta.content == "tok0 "
    assert 1 == len(server.requests)
    await server.wait_closed_connections()


async def test_split_every_byte(start: Start) -> None:
    """Text of several bytes a character, and CRLF, each byte in a write and an HTTP chunk of its own."""
    text = "é – 日本語 🎉"
    wire = sse(chunk(text), chunk(text, finish_reason="stop")).replace(b"\n", b"\r\n")
    server, client = await start(framed(*(wire[at : at + 1] for at in range(len(wire)))), max_retries=2)
    seen = await streamed(client)
    assert (seen.delivered, seen.error, len(server.requests)) == (text * 2, None, 1)
    await expect_connection(server, client, "reused")


async def test_many_events_one_write(start: Start) -> None:
    """Ten thousand events in one write: every one of them, and other tasks get their turn meanwhile."""
    wire = sse(*[TOKENS[0]] * 10_000, FINISH)
    server, client = await start(reply_writes([reply_bytes(wire, 200, TYPE).data]), max_retries=2)
    seen = Seen()
    between: list[int] = []  # how many chunks came between two turns of another task

    async def tick() -> None:
        last = 0
        while True:
            await asyncio.sleep(0)
            between.append(len(seen.chunks) - last)
            last = len(seen.chunks)

    ticking = asyncio.create_task(tick())
    await streamed(client, into=seen)
    ticking.cancel()
    assert (len(seen.delivered), seen.error, len(server.requests)) == (50_000, None, 1)
    assert 0 < max(between) <= 1_000
    await expect_connection(server, client, "reused")


async def test_many_tiny_chunks(start: Start) -> None:
    """Time grows with their number, and no faster."""

    async def took(count: int) -> float:
        many = http_chunk(b": x\n") * count
        rest = b"".join(map(http_chunk, (WIRE, b"")))
        server, client = await start(reply_writes([head(200, CHUNKED) + many, rest]), max_retries=2)
        began = time.process_time()
        seen = await streamed(client)
        spent = time.process_time() - began
        assert (seen.delivered, seen.error) == (TEXT, None)
        await expect_connection(server, client, "reused")
        return spent

    few = min([await took(5_000) for _ in range(3)])
    assert min([await took(20_000) for _ in range(3)]) < 8 * few + 0.05


@pytest.mark.parametrize("size", [pytest.param(4 * 2**20, id="big_event")])
async def test_an_event_may_be_large(start: Start, size: int) -> None:
    big = chunk("x" * size)
    server, client = await start(reply_sse(*TOKENS, big, FINISH), max_retries=2)
    seen = await streamed(client)
    assert (seen.delivered, seen.error) == (TEXT + "x" * size, None)
    await expect_connection(server, client, "reused")


async def test_big_event_small_writes(start: Start) -> None:
    """Four mebibytes in HTTP chunks of one kibibyte: time grows with the size, and no faster."""

    async def took(size: int) -> float:
        wire = sse(chunk("x" * size, finish_reason="stop"))

        async def dribble(_request: Request, connection: Connection) -> None:
            await connection.write(head(200, CHUNKED))
            for at in range(0, len(wire), 65536):
                part = wire[at : at + 65536]
                await connection.write(
                    b"".join(http_chunk(part[i : i + 1024]) for i in range(0, len(part), 1024))
                )
            await connection.write(http_chunk(b""))

        server, client = await start(dribble, max_retries=2)
        began = time.process_time()
        seen = await streamed(client)
        spent = time.process_time() - began
        assert (len(seen.delivered), seen.error, len(server.requests)) == (size, None, 1)
        await expect_connection(server, client, "reused")
        return spent

    small = min([await took(2**20) for _ in range(2)])
    assert min([await took(4 * 2**20) for _ in range(2)]) < 8 * small + 0.05
