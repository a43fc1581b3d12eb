"""Rows of the fault list about keys that a server repeats."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, BOTH_WAYS, Ask, healthy_for
from fault_rows import Start, expect_connection, failed
from leaked_key import KEY, MIDDLE, everything_shown

from gradient_async import AuthenticationError
from gradient_async.testing import Handler, Reply, reply_bytes, reply_json, reply_writes

ECHO = f"Incorrect API key provided: Bearer {KEY}"


@BOTH_WAYS
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(
            reply_json({"error": {"message": ECHO, "code": KEY, "param": KEY}}, 401), id="echo_auth"
        ),
        pytest.param(reply_json({"detail": [{"loc": ["header", KEY], "msg": ECHO}]}, 401), id="detail"),
        pytest.param(reply_bytes(ECHO.encode(), 401, {"content-type": "text/plain"}), id="text"),
        pytest.param(reply_bytes(b"<p>" + ECHO.encode(), 401, {"content-type": "text/html"}), id="page"),
        pytest.param(reply_json({"error": ECHO}, 401, {"www-authenticate": f"Bearer {KEY}"}), id="headers"),
    ],
)
async def test_a_key_that_is_echoed_is_not_shown(
    start: Start, ask: Ask, reply: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    """Its owner can tell by the ends which key it was."""
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    server, client = await start(reply, model_access_key=KEY, **AMBIGUOUS)
    error = failed(
        await ask(client), AuthenticationError, says="provided: Bearer sk-…KEY", status_code=401, attempts=1
    )
    everywhere: Any = [everything_shown(error), repr(error.response), repr(error.headers), caplog.text]
    assert not [place for place in everywhere if MIDDLE in place]
    assert "401" in caplog.text
    assert [f"Bearer {KEY}"] == [request.headers["authorization"] for request in server.requests]
    await expect_connection(server, client, "reused")


@BOTH_WAYS
@pytest.mark.parametrize("status", [200, 401])
@pytest.mark.parametrize(
    ("name", "bad"),
    [
        pytest.param(KEY, [MIDDLE], id="a key"),
        pytest.param("a\u202eb\x9bc\u2028d", ["\u202e", "\x9b", "\u2028"], id="characters that deceive"),
        pytest.param("x" * 4000, ["x" * 501], id="too long"),
    ],
)
async def test_the_log_shows_a_requests_name_with_care(
    start: Start, ask: Ask, status: int, name: str, bad: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It is a server's text as any other."""
    caplog.set_level(logging.DEBUG, logger="gradient_async")
    good = healthy_for(ask)
    body = good.data if isinstance(good, Reply) and status == 200 else reply_json({}, status).data
    line, _, rest = body.partition(b"\r\n")
    wire = b"\r\n".join([line, b"x-request-id: " + name.encode(), rest])
    server, client = await start(reply_writes([wire]), model_access_key=KEY, **AMBIGUOUS)
    seen = await ask(client)
    assert (status == 200) is (seen.error is None)
    assert "request_id=" in caplog.text
    shown = f"{caplog.text} {getattr(seen.error, 'request_id', None)}"
    assert [] == [text for text in bad if text in shown]
    assert 1 == len(server.requests)
