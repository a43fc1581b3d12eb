"""Rows of the fault list about HTTP and codings, where the answer is awaited or is itself an error."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, CALL_BODY, RETRYING, Ask, Connection, healthy_for
from fault_rows import TEXT, Start, asked, expect_connection, failed

from gradient_async import (
    APIConnectionError,
    APIResponseValidationError,
    BadRequestError,
    Limits,
    RateLimitError,
)
from gradient_async.testing import CLOSE, HOLD, Reply, head, http_chunk, reply_bytes, reply_json, reply_writes

pytestmark = pytest.mark.usefixtures("either_parser")

JSON = {"content-type": "application/json"}
CHUNKED = head(200, JSON | {"transfer-encoding": "chunked"})
HALF = CALL_BODY[: len(CALL_BODY) // 2]
END = http_chunk(b"")
TRAILED = [b"%x;name=value\r\n%s\r\n" % (len(CALL_BODY), CALL_BODY), b"0\r\nx-trailer: 1\r\n\r\n"]
EACH_BYTE = [http_chunk(CALL_BODY[at : at + 1]) for at in range(len(CALL_BODY))]


def typed(kind: str | None) -> list[Any]:
    return list(reply_bytes(CALL_BODY, 200, {"content-type": kind}).steps)


@pytest.mark.parametrize(
    ("steps", "connection"),
    [
        pytest.param([CHUNKED, *TRAILED], "reused", id="trailers"),
        pytest.param([b"HTTP/1.0 200 OK\r\n\r\n", CALL_BODY, CLOSE], "closed", id="http10"),
        pytest.param([CHUNKED, *EACH_BYTE, END], "reused", id="split_every_byte"),
        pytest.param(typed("APPLICATION/Json;charset=UTF-8"), "reused", id="content_type_odd"),
        pytest.param(typed(None), "reused", id="content_type_none"),
        pytest.param(typed("application/octet-stream"), "reused", id="content_type_octet"),
    ],
)
async def test_an_awaited_reply_may_come_like_that(
    start: Start, steps: list[Any], connection: Connection
) -> None:
    server, client = await start(reply_writes(steps), **AMBIGUOUS)
    seen = await asked(client)
    assert (TEXT, None, 1) == (seen.delivered, seen.error, len(server.requests))
    await expect_connection(server, client, connection)


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize(
    ("garbage", "received"),
    [
        pytest.param([b"zz\r\n", HOLD], HALF, id="bad_chunk_size"),
        pytest.param(
            [b"FFFFFFFFFFFFFFF0\r\n0123456789", 0.02, CLOSE], HALF + b"0123456789", id="huge_chunk_size"
        ),
    ],
)
async def test_an_awaited_reply_with_a_chunk_that_is_none(
    start: Start, garbage: list[Any], received: bytes, *, together: bool
) -> None:
    """At once, and with what came before."""
    begin = [CHUNKED, http_chunk(HALF)]
    steps = [b"".join([*begin, garbage[0]]), *garbage[1:]] if together else [*begin, 0.02, *garbage]
    server, client = await start(reply_writes(steps), **AMBIGUOUS)
    seen = await asked(client)
    error = failed(seen, APIConnectionError, phase="body", status_code=200, attempts=1)
    assert error.response is not None
    assert (received, 1) == (error.response.content, len(server.requests))
    assert seen.seconds < 0.9
    await expect_connection(server, client, "closed")


async def test_the_error_of_an_awaited_reply_does_not_speak_of_streams(start: Start) -> None:
    _, client = await start(reply_writes([CHUNKED, http_chunk(HALF), CLOSE]), **AMBIGUOUS)
    error = failed(await asked(client), APIConnectionError, says="in the middle of the reply")
    assert [] == [word for word in (".partial", "stream") if word in str(error)]


async def test_te_and_cl(start: Start) -> None:
    """The reply in full, or an error; never five bytes of it."""
    both = head(200, JSON | {"transfer-encoding": "chunked", "content-length": "5"})
    server, client = await start(reply_writes([both, http_chunk(CALL_BODY), END]), **RETRYING)
    seen = await asked(client)
    if seen.error is None:
        assert seen.delivered == TEXT
    else:
        failed(seen, APIConnectionError, phase="response", attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("coding", [pytest.param("zstd", id="encoding_unknown"), "br", "gzip, br"])
async def test_an_awaited_reply_in_a_coding_that_was_not_asked_for(start: Start, coding: str) -> None:
    """It is not even tried as JSON."""
    server, client = await start(reply_bytes(CALL_BODY, 200, JSON | {"content-encoding": coding}), **RETRYING)
    says = f"Content-Encoding {coding} was not asked for"
    failed(await asked(client), APIResponseValidationError, says=says, status_code=200, attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


@BOTH_WAYS
@pytest.mark.parametrize("body", [b"\x28\xb5\x2f\xfd" + bytes(100), b""])
async def test_a_status_decides_even_if_its_body_is_coded_as_nobody_asked(
    start: Start, ask: Ask, body: bytes
) -> None:
    server, client = await start(reply_bytes(body, 400, JSON | {"content-encoding": "zstd"}), **RETRYING)
    failed(await ask(client), BadRequestError, status_code=400, attempts=1)
    assert 1 == len(server.requests)
    server.push(healthy_for(ask))
    assert (await ask(client)).delivered == TEXT


@BOTH_WAYS
async def test_the_waits_of_a_packed_refusal_are_understood(start: Start, ask: Ask) -> None:
    """A body that nobody asked to be packed takes nothing away from the headers."""
    body = gzip.compress(b'{"error": {"message": "slow down", "type": "rate_limit_error"}}')
    headers = JSON | {"content-encoding": "gzip", "retry-after": "99999"}
    server, client = await start(reply_bytes(body, 429, headers), **RETRYING)
    failed(await ask(client), RateLimitError, says="slow down", retry_after=99999.0, attempts=1)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")


@BOTH_WAYS
@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"set-cookie": "session=1; Path=/"}, id="cookie"),
        pytest.param({"set-cookie": "session=1; Max-Age=" + "9" * 40}, id="cookie_overflow"),
        pytest.param({"set-cookie": "a=1; Expires=Wed, 99 Foo 99999 99:99:99 GMT"}, id="a date that is none"),
        pytest.param({"set-cookie": "\x80\xff=;;;===,,,"}, id="a cookie that is none"),
    ],
)
async def test_cookies_are_not_kept_either_way(start: Start, ask: Ask, headers: Mapping[str, str]) -> None:
    """A refusal may set them as well."""
    refusal = reply_json({"error": "busy"}, 503, headers)
    server, client = await start(refusal, *[with_headers(healthy_for(ask), headers)] * 2, **RETRYING)
    for _ in range(2):
        seen = await ask(client)
        assert (TEXT, None) == (seen.delivered, seen.error)
    assert (3, 1) == (len(server.requests), server.connections)
    assert [] == [request for request in server.requests if "cookie" in request.headers]


def with_headers(reply: Any, headers: Mapping[str, str]) -> Reply:
    """The same reply with more headers."""
    line, _, rest = reply.data.partition(b"\r\n")
    more = [f"{name}: {value}".encode("latin-1") for name, value in headers.items()]
    return reply_writes([b"\r\n".join([line, *more, rest])])


@BOTH_WAYS
@pytest.mark.parametrize(
    ("status", "kind"),
    [pytest.param(200, None, id="header_flood"), pytest.param(400, BadRequestError, id="400")],
)
async def test_headers_may_be_many_but_not_too_many(start: Start, ask: Ask, status: int, kind: Any) -> None:
    """At the limit all is well; one more is an error that names it, whatever the status."""
    limits = Limits(headers=20)
    most = {f"x-{number}": "v" for number in range(16)}
    good = healthy_for(ask) if status == 200 else reply_json({"error": "no"}, status)
    server, client = await start(with_headers(good, most), limits=limits, **RETRYING)
    seen = await ask(client)
    assert kind is (None if seen.error is None else type(seen.error))
    server.push(with_headers(good, most | {f"y-{number}": "v" for number in range(10)}))
    failed(await ask(client), APIConnectionError, says="headers=20", phase="response", attempts=1)
    assert 2 == len(server.requests)
    await expect_connection(server, client, "closed")
