"""Rows of the fault list where the server answers with an error's status."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, RETRYING, Ask, Connection, ask_repeatedly, healthy_for
from fault_rows import TEXT, Start, expect_connection, failed, streamed

from gradient_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    GatewayTimeoutError,
    InternalServerError,
    Limits,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    UnprocessableEntityError,
)
from gradient_async.testing import (
    HOLD,
    Handler,
    Request,
    forever,
    head,
    reply_bytes,
    reply_json,
    reply_writes,
)
from gradient_async.testing import Connection as Wire

BODY = {"error": {"message": "no such luck", "type": "some_type", "code": "some_code", "param": "model"}}
TOLD: dict[str, Any] = {
    "code": "some_code",
    "type": "some_type",
    "param": "model",
    "body": BODY,
    "request_id": "req-7",
}


def refusal(status: int, **headers: str) -> Handler:
    """The status with a JSON error; underscores in the names of headers stand for hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return reply_json(BODY, status, {"x-request-id": "req-7", **named})


@BOTH_WAYS
@pytest.mark.parametrize(
    ("reply", "kind", "posts", "connection"),
    [
        pytest.param(refusal(400), BadRequestError, 1, "reused", id="status_400"),
        pytest.param(refusal(401), AuthenticationError, 1, "reused", id="status_401"),
        pytest.param(refusal(402), PaymentRequiredError, 1, "reused", id="status_402"),
        pytest.param(refusal(403), PermissionDeniedError, 1, "reused", id="status_403"),
        pytest.param(refusal(404), NotFoundError, 1, "reused", id="status_404"),
        pytest.param(refusal(408), RequestTimeoutError, 3, "closed", id="status_408"),
        pytest.param(refusal(409), ConflictError, 1, "reused", id="status_409"),
        pytest.param(
            refusal(409, x_should_retry="true"), ConflictError, 3, "reused", id="status_409_shouldretry"
        ),
        pytest.param(refusal(413), RequestTooLargeError, 1, "reused", id="status_413"),
        pytest.param(refusal(418), APIStatusError, 1, "reused", id="status_418"),
        pytest.param(refusal(422), UnprocessableEntityError, 1, "reused", id="status_422"),
        pytest.param(refusal(429), RateLimitError, 3, "reused", id="status_429_plain"),
        pytest.param(refusal(500), InternalServerError, 3, "reused", id="status_500"),
        pytest.param(
            refusal(500, x_should_retry="false"), InternalServerError, 1, "reused", id="status_500_noretry"
        ),
        pytest.param(refusal(501), InternalServerError, 1, "reused", id="status_501"),
        pytest.param(refusal(502), InternalServerError, 3, "reused", id="status_502"),
        pytest.param(refusal(503), OverloadedError, 3, "reused", id="status_503"),
        pytest.param(refusal(504), GatewayTimeoutError, 1, "reused", id="status_504"),
        pytest.param(refusal(520), GatewayTimeoutError, 1, "reused", id="status_520"),
        pytest.param(refusal(521), InternalServerError, 3, "reused", id="status_521"),
        pytest.param(refusal(522), InternalServerError, 3, "reused", id="status_522"),
        pytest.param(refusal(523), InternalServerError, 3, "reused", id="status_523"),
        pytest.param(refusal(524), GatewayTimeoutError, 1, "reused", id="status_524"),
        pytest.param(refusal(525), InternalServerError, 3, "reused", id="status_525"),
        pytest.param(refusal(526), InternalServerError, 1, "reused", id="status_526"),
        pytest.param(refusal(529), OverloadedError, 3, "reused", id="status_529"),
        pytest.param(refusal(530), InternalServerError, 3, "reused", id="status_530"),
        pytest.param(
            refusal(400, x_should_retry="true"), BadRequestError, 3, "reused", id="status_400_shouldretry"
        ),
    ],
)
async def test_a_status_is_an_error_of_its_class(
    start: Start, ask: Ask, reply: Handler, kind: type[APIStatusError], posts: int, connection: Connection
) -> None:
    """All that its body tells is told, and it is tried again where that may help and costs nothing."""
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=posts)
    error = failed(seen, kind, says="no such luck", attempts=posts, retry_after=None, **TOLD)
    assert (kind is GatewayTimeoutError) == error.ambiguous
    assert f"answered {error.status_code}" in str(error)
    await expect_connection(server, client, connection)
    assert (1 if connection == "reused" else posts + 1) == server.connections


@BOTH_WAYS
@pytest.mark.parametrize("status", [504, 524])
async def test_a_gateway_timeout_is_tried_again_if_allowed(start: Start, ask: Ask, status: int) -> None:
    _, _, seen = await ask_repeatedly(start, ask, refusal(status), posts=3, **AMBIGUOUS)
    failed(seen, GatewayTimeoutError, ambiguous=True, attempts=3)


@BOTH_WAYS
async def test_status_502_html(start: Start, ask: Ask) -> None:
    """A proxy's page is kept as text, the first 2 KiB; the message has its words, without controls."""
    page = "<html><title>Bad gateway</title>\x1b[31m\r\n<p>nginx</p>" + "<!-- -->" * 250
    reply = reply_bytes(page.encode(), 502, content_type="text/html")
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=3)
    error = failed(
        seen, InternalServerError, says="Bad gateway", status_code=502, body=page[:2048], attempts=3
    )
    assert error.response is not None
    assert error.response.content == page.encode()
    assert str(error).isprintable()
    await expect_connection(server, client, "reused")


@BOTH_WAYS
async def test_status_503_then_ok(start: Start, ask: Ask) -> None:
    """A retry that succeeds is told by nothing but the count."""
    server, client = await start(refusal(503), healthy_for(ask), **RETRYING)
    seen = await ask(client)
    assert (TEXT, None, 2) == (seen.delivered, seen.error, len(server.requests))
    assert seen.completion is not None
    assert 2 == seen.completion.attempts
    assert ask is not streamed or (seen.stream is not None and seen.stream.attempts == 2)
    await expect_connection(server, client, "reused")
    assert 1 == server.connections


@BOTH_WAYS
async def test_status_500_ctrl(start: Start, ask: Ask) -> None:
    """A server's words can't forge lines of a log: they are escaped in the message, as sent in the body."""
    body = {"error": {"message": "a\r\nERROR forged\x1b[2J\0\u2028\u202e end"}}
    reply = reply_json(body, 500, {"x-should-retry": "false"})
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=1)
    error = failed(seen, InternalServerError, says=r"a\r\nERROR forged\x1b[2J\x00\u2028\u202e end", body=body)
    assert str(error).isprintable()
    await expect_connection(server, client, "reused")


BEGINNING = b'{"error": {"message": "no'
UNENDING = {"content-type": "application/json", "content-length": "9999"}


@BOTH_WAYS
@pytest.mark.parametrize(
    ("status", "kind", "steps", "posts"),
    [
        pytest.param(500, InternalServerError, [BEGINNING, HOLD], 3, id="status_500_stall_body"),
        pytest.param(400, BadRequestError, [BEGINNING, HOLD], 1, id="status_400_stall_body"),
        pytest.param(400, BadRequestError, [BEGINNING, forever(b" ", 0.02)], 1, id="status_400_drip_body"),
    ],
)
async def test_the_status_decides_and_not_a_body_that_never_ends(
    start: Start, ask: Ask, status: int, kind: type[APIStatusError], steps: list[Any], posts: int
) -> None:
    reply = reply_writes([head(status, UNENDING), *steps])
    limits = Limits(error_body_seconds=0.15)
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=posts, limits=limits)
    error = failed(seen, kind, status_code=status, attempts=posts)
    assert isinstance(error.body, str)
    assert BEGINNING.decode() == error.body.rstrip()
    assert 0.15 * posts <= seen.seconds < 0.15 * posts + 0.5
    await expect_connection(server, client, "closed")
    assert posts + 1 == server.connections


@BOTH_WAYS
async def test_status_400_huge_body(start: Start, ask: Ask) -> None:
    """Of 200 MiB no more is read than an error may have, and memory stays flat."""
    size, piece, sent = 200 * 1024**2, b"x" * 65536, 0

    async def huge(request: Request, wire: Wire) -> None:
        nonlocal sent
        await wire.write(head(400, {"content-type": "text/plain", "content-length": str(size)}))
        while sent < size:
            await wire.write(piece)
            sent += len(piece)

    server, client = await start(huge, **RETRYING)
    tracemalloc.start()
    try:
        seen = await ask(client)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    error = failed(seen, BadRequestError, says="xxx", status_code=400, attempts=1)
    assert (65536, 2048) == (len(error.response.content), len(error.body))
    assert peak < 8 * 1024**2
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")
    assert sent < 32 * 1024**2
