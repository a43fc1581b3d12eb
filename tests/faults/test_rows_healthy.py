"""Rows of the fault list where nothing is wrong."""

from __future__ import annotations

import pytest
from fault_rows import FINISH, TEXT, TOKENS, Start, expect_connection, streamed

from gradient_async.testing import Handler, reply_sse, reply_writes


@pytest.mark.parametrize(
    ("reply", "connection"),
    [
        pytest.param(reply_sse(*TOKENS, FINISH, end_delay=0.005), "reused", id="ok"),
        pytest.param(reply_writes([reply_sse(*TOKENS, FINISH).data]), "reused", id="ok_one_write"),
        pytest.param(reply_sse(*TOKENS, FINISH, framing="eof"), "closed", id="ok_eof_framed"),
        pytest.param(reply_sse(*TOKENS, FINISH, gap=0.2), "reused", id="one_second"),
    ],
)
async def test_a_healthy_stream_is_whole(start: Start, reply: Handler, connection: str) -> None:
    server, client = await start(reply)
    seen = await streamed(client)
    assert (seen.delivered, seen.error) == (TEXT, None)
    assert seen.stream is not None
    assert seen.completion is not None
    assert seen.completion.choices[0].finish_reason == "stop"
    assert seen.completion.usage is not None
    assert (seen.stream.saw_done, seen.stream.attempts, len(server.requests)) == (True, 1, 1)
    await expect_connection(server, client, "reused" if connection == "reused" else "closed")
