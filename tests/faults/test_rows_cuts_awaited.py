"""Rows of the fault list where an awaited reply has begun and its connection or its body ends too early."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, CALL_BODY, Connection
from fault_rows import Start, asked, expect_connection, failed

from gradient_async import APIConnectionError, APIResponseValidationError
from gradient_async.testing import CLOSE, RESET, head, http_chunk, reply_bytes, reply_writes

pytestmark = pytest.mark.usefixtures("either_parser")

JSON = {"content-type": "application/json"}
CHUNKED_JSON = head(200, JSON | {"transfer-encoding": "chunked"})
CLOSING_JSON = head(200, JSON | {"connection": "close"})
HALF = CALL_BODY[: len(CALL_BODY) // 2]


def announced(length: int) -> bytes:
    """Headers of a JSON body of so many bytes, it is said."""
    return head(200, JSON | {"content-length": str(length)})


@pytest.mark.parametrize(
    ("steps", "kind", "facts", "received", "connection"),
    [
        pytest.param(
            [CHUNKED_JSON, CLOSE],
            APIConnectionError,
            {"phase": "body"},
            b"",
            "closed",
            id="close_after_headers_chunked",
        ),
        pytest.param(
            [CLOSING_JSON, CLOSE],
            APIResponseValidationError,
            {},
            b"",
            "closed",
            id="close_after_headers_eof",
        ),
        pytest.param(
            [announced(len(CALL_BODY)), HALF, 0.02, RESET],
            APIConnectionError,
            {"phase": "body"},
            HALF,
            "closed",
            id="rst_mid_stream",
        ),
        pytest.param(
            [
                CHUNKED_JSON,
                http_chunk(CALL_BODY).partition(CALL_BODY[len(HALF) :])[0],
                CLOSE,
            ],
            APIConnectionError,
            {"phase": "body"},
            HALF,
            "closed",
            id="fin_mid_http_chunk",
        ),
        pytest.param(
            [CHUNKED_JSON, http_chunk(HALF), CLOSE],
            APIConnectionError,
            {"phase": "body"},
            HALF,
            "closed",
            id="fin_between_chunks",
        ),
        pytest.param(
            reply_bytes(HALF, content_type="application/json").steps,
            APIResponseValidationError,
            {},
            HALF,
            "reused",
            id="cut_clean_chunked",
        ),
        pytest.param(
            [CLOSING_JSON, HALF, CLOSE],
            APIResponseValidationError,
            {},
            HALF,
            "closed",
            id="cut_clean_eof",
        ),
        pytest.param(
            [announced(len(CALL_BODY) + 1), CALL_BODY, CLOSE],
            APIConnectionError,
            {"phase": "body"},
            CALL_BODY,
            "closed",
            id="content_length_short",
        ),
    ],
)
async def test_an_awaited_reply_cut_short_is_refused(
    start: Start,
    steps: list[bytes],
    kind: type[APIConnectionError | APIResponseValidationError],
    facts: Mapping[str, Any],
    received: bytes,
    connection: Connection,
) -> None:
    """Even where what came would do as JSON; and it is not paid for twice."""
    server, client = await start(reply_writes(steps), **AMBIGUOUS)
    error = failed(await asked(client), kind, attempts=1, status_code=200, **facts)
    assert received == (b"" if error.response is None else error.response.content)
    assert 1 == len(server.requests)
    await expect_connection(server, client, connection)


async def test_the_error_of_a_lost_reply_shows_how_it_began(start: Start) -> None:
    _, client = await start(reply_writes([announced(9999), HALF, 0.02, RESET]))
    failed(await asked(client), APIConnectionError, phase="body", body_head=HALF)
