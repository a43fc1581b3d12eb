"""Rows of the fault list where a server is silent or says nothing of use, and where it is only slow."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest
from fault_requests import AMBIGUOUS, CALL_BODY, RETRYING, Ask, ask_repeatedly, begun, expect_whole
from fault_rows import CALL, FINISH, TOKENS, Start, asked, expect_connection, failed, streamed, tokens

from gradient_async import APITimeoutError, ChatCompletionStream, Limits, Phase, StreamTimeoutError, Timeout
from gradient_async.testing import (
    HOLD,
    Handler,
    chunk,
    forever,
    head,
    http_chunk,
    reply_sse,
    reply_writes,
    sse,
)

pytestmark = pytest.mark.usefixtures("virtual_time")

LIMIT = 0.15
SLACK = 0.01  # seconds; it includes the wait before a retry
OPENED = begun()
THREE = begun(*TOKENS[:3])
DONE = [*begun(*TOKENS, FINISH), http_chunk(b"data: [DONE]\n\n")]
KEEP_ALIVE = http_chunk(b": keep-alive\n\n")
NOTHING = http_chunk(sse(chunk(""), done=False))
NO_CALL = http_chunk(
    sse(chunk(tool_calls=[{"index": 0, "id": "", "function": {"arguments": ""}}]), done=False)
)
USAGE = http_chunk(sse(chunk("", usage={"prompt_tokens": 3, "total_tokens": 3}), done=False))
ROLE = http_chunk(sse(chunk("", role="assistant"), done=False))
TOKEN = http_chunk(sse(chunk("more "), done=False))


@pytest.mark.parametrize(
    ("ask", "timeout"),
    [
        pytest.param(streamed, Timeout(first_token=LIMIT), id="stream"),
        pytest.param(asked, Timeout(response=LIMIT), id="call"),
    ],
)
@pytest.mark.parametrize(
    ("options", "posts"),
    [pytest.param(RETRYING, 1, id="once"), pytest.param(AMBIGUOUS, 3, id="ambiguous")],
)
@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(reply_writes([HOLD]), id="stall_headers"),
        pytest.param(reply_writes([b"HTTP/1.1 200 OK\r\nX: ", forever(b"x", 0.02)]), id="drip_headers"),
    ],
)
async def test_headers_have_to_end_within_the_limit(
    start: Start, ask: Ask, timeout: Timeout, reply: Handler, options: Mapping[str, Any], posts: int
) -> None:
    """However they drip; and the server may be at work, so it is asked again only if that is allowed."""
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=posts, timeout=timeout, **options)
    failed(seen, APITimeoutError, phase="response", ambiguous=True, attempts=posts)
    assert LIMIT * posts <= round(seen.seconds, 6) < (LIMIT + SLACK) * posts
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize(
    ("steps", "phase", "count"),
    [
        pytest.param([*OPENED, HOLD], "first_token", 0, id="stall_first_event"),
        pytest.param([*THREE, HOLD], "idle", 3, id="stall_mid_stream"),
        pytest.param([*OPENED, forever(http_chunk(b"x"), 0.02)], "first_token", 0, id="slow_drip"),
        pytest.param([*THREE, forever(http_chunk(b"x"), 0.02)], "idle", 3, id="slow_drip_after_tokens"),
        pytest.param([*OPENED, forever(KEEP_ALIVE, 0.02)], "first_token", 0, id="comments_forever"),
        pytest.param([*THREE, forever(KEEP_ALIVE, 0.02)], "idle", 3, id="comments_after_tokens"),
        pytest.param([*OPENED, ROLE, forever(NOTHING, 0.02)], "first_token", 0, id="empty_deltas_forever"),
        pytest.param([*THREE, forever(NOTHING, 0.02)], "idle", 3, id="empty_deltas_after_tokens"),
        pytest.param([*THREE, forever(NO_CALL, 0.02)], "idle", 3, id="empty_calls_after_tokens"),
        pytest.param([*THREE, forever(USAGE, 0.02)], "idle", 3, id="usage_repeated"),
    ],
)
async def test_content_has_to_come_within_the_limit(
    start: Start, steps: list[Any], phase: Phase, count: int
) -> None:
    """Whatever bytes drip: they prove the socket, not the answer."""
    timeout = Timeout(first_token=LIMIT, idle=None) if phase == "first_token" else Timeout(idle=LIMIT)
    server, client, seen = await ask_repeatedly(
        start, streamed, reply_writes(steps), posts=1, timeout=timeout, **AMBIGUOUS
    )
    says = f"Timeout.{phase}"
    error = failed(seen, StreamTimeoutError, text=tokens(count), says=says, phase=phase, attempts=1)
    assert error.partial is not None
    roles = [choice.message.role for choice in error.partial.choices]
    assert ["assistant"] * (count > 0 or ROLE in steps) == roles
    assert LIMIT <= seen.seconds < LIMIT + SLACK
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([HOLD], id="stall_first_event"),
        pytest.param([CALL_BODY[:50], HOLD], id="stall_mid_stream"),
        pytest.param([forever(b" ", 0.02)], id="slow_drip"),
    ],
)
async def test_a_reply_has_to_be_whole_within_the_limit(start: Start, steps: list[Any]) -> None:
    headers = head(200, {"content-type": "application/json", "content-length": "9999"})
    server, client, seen = await ask_repeatedly(
        start, asked, reply_writes([headers, *steps]), posts=1, timeout=Timeout(response=LIMIT), **AMBIGUOUS
    )
    failed(seen, APITimeoutError, says="Timeout.response", phase="response", ambiguous=True, attempts=1)
    assert LIMIT <= seen.seconds < LIMIT + SLACK
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize(
    ("reply", "timeout"),
    [
        pytest.param(
            reply_sse(*[b": keep-alive\n\n"] * 6, *TOKENS, FINISH, gap=0.05),
            Timeout(first_token=5.0, idle=0.2),
            id="comments_then_ok",
        ),
        pytest.param(
            reply_writes([*THREE, 0.5, *reply_sse(*TOKENS[3:], FINISH).steps[1:]]),
            Timeout(first_token=0.4, idle=5.0),
            id="pause_then_rest",
        ),
        pytest.param(reply_sse(*TOKENS, FINISH, gap=0.15), Timeout(idle=0.6), id="four_seconds"),
    ],
)
async def test_a_server_may_take_its_time_within_the_limits(
    start: Start, reply: Handler, timeout: Timeout
) -> None:
    server, client = await start(reply, timeout=timeout, **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "reused")


@pytest.mark.parametrize(
    ("rest", "limits"),
    [
        pytest.param([HOLD], Limits(), id="open_after_done"),
        # No limit but that of bytes can end this one in time.
        pytest.param(
            [forever(http_chunk(b": %a\n" % (b"x" * 1000)))],
            Limits(drain_seconds=10.0),
            id="garbage_after_done",
        ),
    ],
)
async def test_what_follows_done_is_not_waited_for(start: Start, rest: list[Any], limits: Limits) -> None:
    """The answer is whole: 100 ms or 64 KiB more, and the connection is given up."""
    server, client = await start(reply_writes([*DONE, *rest]), limits=limits, **AMBIGUOUS)
    seen = await streamed(client)
    assert seen.seconds < 0.1 + SLACK
    await expect_whole(server, client, seen, "closed")


ENDLESS = reply_writes([*OPENED, forever(TOKEN, 0.01)])


async def test_infinite(start: Start) -> None:
    """A stream without an end brings events until its reader stops; the server sees that at once."""
    server, client = await start(ENDLESS, **AMBIGUOUS)
    stream: ChatCompletionStream = await client.chat.completions.create(stream=True, **CALL)
    texts = [(await anext(stream)).choices[0].delta.content for _ in range(20)]
    assert ["more "] * 20 == texts
    stopped = time.monotonic()
    await stream.aclose()
    await server.wait_closed_connections()
    closed = server.requests[0].closed_at
    assert closed is not None
    assert closed - stopped < 0.01
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize(
    ("reply", "begins"),
    [
        pytest.param(ENDLESS, "more more ", id="of_events"),
        pytest.param(reply_writes([*OPENED, HOLD]), "", id="of_silence"),
    ],
)
async def test_an_infinite_stream_ends_with_the_time_for_the_call(
    start: Start, reply: Handler, begins: str
) -> None:
    timeout = Timeout(total=0.3)
    server, client, seen = await ask_repeatedly(start, streamed, reply, posts=1, timeout=timeout, **AMBIGUOUS)
    assert seen.delivered.startswith(begins)
    failed(seen, StreamTimeoutError, text=seen.delivered, says="Timeout.total", phase="total", attempts=1)
    assert 0.29 <= seen.seconds < 0.3 + SLACK
    await expect_connection(server, client, "closed")
