"""Rows of the fault list where an error comes inside a stream, or something else in place of one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fault_requests import (
    AMBIGUOUS,
    BOTH_WAYS,
    CALL_BODY,
    WHOLE,
    Ask,
    Connection,
    ask_repeatedly,
    expect_whole,
)
from fault_rows import FINISH, TEXT, TOKENS, Start, asked, expect_connection, failed, streamed, tokens

from gradient_async import (
    APIResponseValidationError,
    APIStatusError,
    GradientError,
    InternalServerError,
    OverloadedError,
    StreamProtocolError,
    StreamServerError,
    StreamTruncatedError,
)
from gradient_async.testing import (
    HOLD,
    Handler,
    chunk,
    head,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
)

OVERLOADED = {"error": {"message": "no room", "type": "server_error", "code": "overloaded"}}
NAMED = b'event: error\ndata: {"message":"no room","code":529}\n\n'
DO_STYLE = {"id": "server_error", "message": "it broke"}
MIXED = chunk(finish_reason="error", error={"message": "upstream died", "code": 502})


@pytest.mark.parametrize(
    ("reply", "count", "facts", "says", "status_class"),
    [
        pytest.param(
            reply_sse(*TOKENS[:3], OVERLOADED, done=False),
            3,
            {"code": "overloaded", "type": "server_error", "body": OVERLOADED},
            "no room",
            OverloadedError,
            id="error_event_mid",
        ),
        pytest.param(
            reply_sse(OVERLOADED),
            0,
            {"code": "overloaded"},
            "no room",
            OverloadedError,
            id="error_event_first",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], NAMED),
            3,
            {"code": "529"},
            "no room",
            OverloadedError,
            id="error_event_named",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], b"event: error\ndata:\n\n", *TOKENS[3:], FINISH),
            3,
            {"code": None},
            "no message",
            APIStatusError,
            id="error_event_named_empty",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], b"event: error\ndata: [DONE]\n\n"),
            3,
            {"code": None},
            "[DONE]",
            APIStatusError,
            id="error_event_named_done",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], {"error": "upstream died"}),
            3,
            {"code": None},
            "upstream died",
            APIStatusError,
            id="error_event_string",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], DO_STYLE),
            3,
            {"code": "server_error"},
            "it broke",
            InternalServerError,
            id="error_event_do_style",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], MIXED),
            3,
            {"code": "502"},
            "upstream died",
            InternalServerError,
            id="error_with_choices",
        ),
        pytest.param(
            reply_sse(*TOKENS, FINISH, OVERLOADED),
            5,
            {"code": "overloaded"},
            "no room",
            OverloadedError,
            id="error_event_after_all",
        ),
    ],
)
async def test_an_error_inside_a_stream_is_raised_with_all_that_came(
    start: Start,
    reply: Handler,
    count: int,
    facts: Mapping[str, Any],
    says: str,
    status_class: type[APIStatusError],
) -> None:
    """It is no status, as a 200 has been seen; nothing is sent again."""
    server, client, seen = await ask_repeatedly(start, streamed, reply, posts=1, **AMBIGUOUS)
    error = failed(
        seen, StreamServerError, text=tokens(count), says=says, attempts=1, status_code=200, **facts
    )
    assert status_class is error.status_class
    assert error.retryable == issubclass(status_class, InternalServerError)
    server.push(WHOLE)  # drained or closed, the connection is in nobody's way
    assert TEXT == (await asked(client)).delivered
    await server.wait_closed_connections(1)


async def test_error_null_field(start: Start) -> None:
    """An error that is null is none."""
    events = [event | {"error": None} for event in (*TOKENS, FINISH)]
    server, client = await start(reply_sse(*events), **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize(
    ("ask", "kind"),
    [pytest.param(streamed, StreamServerError, id="stream"), pytest.param(asked, APIStatusError, id="call")],
)
async def test_json_error_200(start: Start, ask: Ask, kind: type[GradientError]) -> None:
    """An error is one whatever the status."""
    server, client, seen = await ask_repeatedly(start, ask, reply_json(OVERLOADED), posts=1, **AMBIGUOUS)
    failed(seen, kind, says="no room", status_code=200, code="overloaded", type="server_error", attempts=1)
    await expect_connection(server, client, "reused")


async def test_json_completion_200(start: Start) -> None:
    """A whole completion where a stream was asked for is as good as a stream."""
    server, client = await start(WHOLE, **AMBIGUOUS)
    seen = await streamed(client)
    assert seen.stream is not None
    assert seen.completion is not None
    assert seen.stream.was_buffered
    assert "stop" == seen.completion.choices[0].finish_reason
    assert seen.completion.usage is not None
    assert 12 == seen.completion.usage.total_tokens
    await expect_whole(server, client, seen, "reused", done=False)


PAGE = b"<!DOCTYPE html>\r\n<title>Sign in\x1b[2J</title>" + b"x" * 300
HTML = reply_bytes(PAGE, content_type="text/html")


async def test_html_200(start: Start) -> None:
    """A page is no stream: the error shows the first 200 characters of it, without controls."""
    page = reply_writes([head(200, {"content-type": "text/html", "content-length": "9999"}) + PAGE, HOLD])
    server, client, seen = await ask_repeatedly(start, streamed, page, posts=1, **AMBIGUOUS)
    error = failed(seen, StreamProtocolError, text="", says="text/html", status_code=200, attempts=1)
    shown = str(error)
    assert "<!DOCTYPE html>" in shown
    assert "Sign in" in shown
    assert shown.isprintable()
    assert 140 < shown.count("x") < 200
    await expect_connection(server, client, "closed")


async def test_a_page_in_place_of_a_stream_costs_the_connection_even_if_it_is_whole(start: Start) -> None:
    server, client, seen = await ask_repeatedly(start, streamed, HTML, posts=1)
    failed(seen, StreamProtocolError, says="text/html")
    await expect_connection(server, client, "closed", within=0.2)


EMPTY = reply_bytes(b"", content_type="text/event-stream")


@pytest.mark.parametrize(
    "says",
    ["empty body", "before the first event"],
)
async def test_empty_200(start: Start, says: str) -> None:
    """No chunk at all is never success."""
    server, client, seen = await ask_repeatedly(start, streamed, EMPTY, posts=1, **AMBIGUOUS)
    failed(seen, StreamTruncatedError, text="", says=says, status_code=200, attempts=1)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize(
    ("reply", "body", "connection"),
    [
        pytest.param(HTML, PAGE, "closed", id="html_200"),
        pytest.param(EMPTY, b"", "reused", id="empty_200"),
    ],
)
async def test_an_awaited_reply_that_is_no_json_is_refused(
    start: Start, reply: Handler, body: bytes, connection: Connection
) -> None:
    server, client, seen = await ask_repeatedly(start, asked, reply, posts=1, **AMBIGUOUS)
    failed(seen, APIResponseValidationError, status_code=200, attempts=1, body_head=body[:200])
    await expect_connection(server, client, connection)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("reply", "status", "says", "body"),
    [
        pytest.param(reply_writes([head(204)]), 204, "204", b"", id="no_content_204"),
        pytest.param(reply_json(None), 200, "", b"null", id="json_null_200"),
        pytest.param(
            reply_json({"choices": "x", "id": [1]}),
            200,
            "$.choices",
            b'{"choices":"x","id":[1]}',
            id="json_wrong_shape_200",
        ),
        pytest.param(
            reply_bytes(CALL_BODY[:250], content_type="application/json"),
            200,
            "",
            CALL_BODY[:200],
            id="json_truncated_200",
        ),
    ],
)
async def test_a_reply_that_is_no_completion_is_refused(
    start: Start, ask: Ask, reply: Handler, status: int, says: str, body: bytes
) -> None:
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=1, **AMBIGUOUS)
    failed(seen, APIResponseValidationError, says=says, status_code=status, body_head=body, attempts=1)
    await expect_connection(server, client, "reused")
