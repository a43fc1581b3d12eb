"""What comes in place of a stream, or without its name, is known wherever the network cuts its beginning."""

from __future__ import annotations

from typing import Any

import pytest
from fault_costs import memory
from fault_requests import AMBIGUOUS, CALL_BODY, expect_whole
from fault_rows import FINISH, TEXT, TOKENS, Start, expect_connection, failed, streamed

from gradient_async import StreamProtocolError, StreamServerError
from gradient_async.testing import Handler, head, http_chunk, reply_bytes, reply_writes, sse

WIRE = sse(*TOKENS, FINISH)
ERROR = b'{"error": {"message": "no room", "code": "overloaded"}}'
BOM = b"\xef\xbb\xbf"


def cut(body: bytes, kind: str | None, at: int) -> Handler:
    """A reply whose first bytes come by themselves."""
    data = reply_bytes(body, 200, {"content-type": kind}).data
    at += len(data) - len(body)
    return reply_writes([data[:at], 0.01, data[at:]])


ODD: list[Any] = [
    pytest.param(None, id="content_type_none"),
    pytest.param("application/octet-stream", id="content_type_octet"),
    pytest.param("application/json", id="content_type_json"),
    pytest.param("text/plain", id="content_type_text"),
]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize(
    ("before", "at"),
    [
        pytest.param(b"", 1, id="first byte"),
        pytest.param(b"", 4, id="before the colon"),
        pytest.param(b"", 5, id="after the colon"),
        pytest.param(b"\n\r\n", 1, id="blank lines"),
        pytest.param(BOM, 2, id="inside a mark"),
        pytest.param(BOM, 3, id="after a mark"),
        pytest.param(b"event\n", 6, id="a field without a colon"),
    ],
)
async def test_a_stream_under_another_name(start: Start, kind: str | None, before: bytes, at: int) -> None:
    server, client = await start(cut(before + WIRE, kind, at), **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "reused")


WHITE: list[Any] = [
    pytest.param(b"", 1, id="first byte"),
    pytest.param(b"\n", 1, id="line end"),
    pytest.param(b" \r\n" * 40, 60, id="white space against time-outs"),
]


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", None])
@pytest.mark.parametrize(("before", "at"), WHITE)
async def test_a_completion_in_place_of_a_stream(
    start: Start, kind: str | None, before: bytes, at: int
) -> None:
    """It was paid for: nothing of it is lost."""
    server, client = await start(cut(before + CALL_BODY, kind, at), **AMBIGUOUS)
    seen = await streamed(client)
    assert (TEXT, None, 1) == (seen.delivered, seen.error, len(server.requests))
    assert seen.stream is not None
    assert seen.stream.was_buffered
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream", None])
@pytest.mark.parametrize(("before", "at"), WHITE)
async def test_an_error_in_place_of_a_stream(start: Start, kind: str | None, before: bytes, at: int) -> None:
    server, client = await start(cut(before + ERROR, kind, at), **AMBIGUOUS)
    failed(await streamed(client), StreamServerError, text="", says="no room", code="overloaded", attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize("body", [WIRE, CALL_BODY], ids=["stream", "completion"])
async def test_what_comes_behind_very_much_white_space(start: Start, body: bytes) -> None:
    """They are not kept until something else comes; who says that JSON will come is believed."""
    kind = "text/event-stream" if body is WIRE else "application/json"
    pieces = [b" " * 49_999 + b"\n"] * 20 + [body]
    steps: list[Any] = [head(200, {"content-type": kind, "transfer-encoding": "chunked"})]
    for piece in pieces:
        steps += [http_chunk(piece), 0.001]
    server, client = await start(reply_writes([*steps, http_chunk(b"")]), **AMBIGUOUS)
    with memory() as taken:
        seen = await streamed(client)
    assert taken.peak < (1_800_000 if body is WIRE else 4_000_000)
    assert (TEXT, None, 1) == (seen.delivered, seen.error, len(server.requests))
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize("kind", ["text/html", None])
@pytest.mark.parametrize(
    ("before", "at"),
    [(b"", 1), (b"", 20), (b"\n", 1), (BOM, 3)],
)
async def test_a_page_in_place_of_a_stream(start: Start, kind: str | None, before: bytes, at: int) -> None:
    """However it is cut, it is no stream that is short."""
    page = before + b"<!doctype html>\n<p style='a: b'>Sign in</p>"
    server, client = await start(cut(page, kind, at), **AMBIGUOUS)
    failed(await streamed(client), StreamProtocolError, text="", says="it begins with", attempts=1)
    assert 1 == len(server.requests)
