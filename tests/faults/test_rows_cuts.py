"""Rows of the fault list where an answer has begun and its connection or its body ends too early."""

from __future__ import annotations

from typing import Any

import pytest
from fault_requests import AMBIGUOUS, Connection, begun, expect_whole
from fault_rows import (
    FINISH,
    TEXT,
    TOKENS,
    Start,
    expect_connection,
    failed,
    healthy,
    streamed,
    tokens,
)

from gradient_async import StreamError, StreamInterruptedError, StreamTruncatedError
from gradient_async.testing import (
    CLOSE,
    RESET,
    Handler,
    head,
    http_chunk,
    reply_sse,
    reply_writes,
    sse,
)

pytestmark = pytest.mark.usefixtures("either_parser")

CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
THREE = begun(*TOKENS[:3])
THREE_SSE = sse(*TOKENS[:3], done=False)
THREE_SIZE = len(THREE_SSE)
THREE_EOF = begun(*TOKENS[:3], framing="eof")
TORN = http_chunk(sse(TOKENS[3], done=False))[:30]
NOT_WHOLE = "neither [DONE] nor a finish_reason"


def announced(body: bytes, length: int) -> bytes:
    """A stream of so many bytes, it is said."""
    return head(200, {"content-type": "text/event-stream", "content-length": str(length)}) + body


def finishing(event: dict[str, Any], reason: str) -> dict[str, Any]:
    """Give the only choice of an event a finish_reason."""
    return {**event, "choices": [{**event["choices"][0], "finish_reason": reason}]}


@pytest.mark.parametrize(
    ("reply", "kind", "count", "says", "connection"),
    [
        pytest.param(
            reply_writes([head(200, CHUNKED), CLOSE]),
            StreamInterruptedError,
            0,
            "",
            "closed",
            id="close_after_headers_chunked",
        ),
        pytest.param(
            reply_sse(done=False, framing="eof"),
            StreamTruncatedError,
            0,
            "ended before the first event",
            "closed",
            id="close_after_headers_eof",
        ),
        pytest.param(
            reply_writes([*THREE, 0.02, RESET]), StreamInterruptedError, 3, "", "closed", id="rst_mid_stream"
        ),
        pytest.param(
            reply_writes([*THREE, TORN, CLOSE]),
            StreamInterruptedError,
            3,
            "",
            "closed",
            id="fin_mid_http_chunk",
        ),
        pytest.param(
            reply_writes([*THREE, CLOSE]), StreamInterruptedError, 3, "", "closed", id="fin_between_chunks"
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], done=False),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "reused",
            id="cut_clean_chunked",
        ),
        pytest.param(
            reply_sse(TOKENS[0], finishing(TOKENS[1], "stop"), TOKENS[2], done=False),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "reused",
            id="cut_after_finish_taken_back",
        ),
        pytest.param(
            reply_sse(*[finishing(token, "null") for token in TOKENS[:3]], done=False),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "reused",
            id="cut_finish_null",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], done=False, framing="eof"),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "closed",
            id="cut_clean_eof",
        ),
        pytest.param(
            reply_writes([*THREE_EOF, sse(TOKENS[3], done=False)[:-20], CLOSE]),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "closed",
            id="cut_mid_event_eof",
        ),
        pytest.param(
            reply_writes([announced(THREE_SSE, 9999), CLOSE]),
            StreamInterruptedError,
            3,
            "",
            "closed",
            id="content_length_short",
        ),
        pytest.param(
            reply_sse(*TOKENS[:3], done=False, framing="length"),
            StreamTruncatedError,
            3,
            NOT_WHOLE,
            "reused",
            id="content_length_cuts",
        ),
        pytest.param(
            reply_sse(), StreamTruncatedError, 0, "[DONE] before any chunk", "reused", id="done_first"
        ),
    ],
)
async def test_a_stream_cut_short_raises_with_all_that_came(
    start: Start, reply: Handler, kind: type[StreamError], count: int, says: str, connection: Connection
) -> None:
    """A 200 has been seen: nothing is sent again, and nothing received is lost."""
    server, client = await start(reply, **AMBIGUOUS)
    error = failed(await streamed(client), kind, text=tokens(count), says=says, attempts=1, status_code=200)
    assert count == error.events
    assert 1 == len(server.requests)
    await expect_connection(server, client, connection)


SURPLUS = sse(*TOKENS[3:], FINISH)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([announced(b"", THREE_SIZE), 0.02, THREE_SSE, 0.02, SURPLUS], id="after_the_body"),
        pytest.param([announced(b"", THREE_SIZE), 0.02, THREE_SSE + SURPLUS], id="with_the_body"),
        pytest.param([announced(THREE_SSE + SURPLUS, THREE_SIZE)], id="with_all"),
    ],
)
async def test_bytes_beyond_the_content_length_are_no_part_of_the_stream(
    start: Start, steps: list[bytes | float]
) -> None:
    """Nor may they be taken for the next reply: the connection is not used again."""
    server, client = await start(reply_writes(steps), **AMBIGUOUS)
    failed(await streamed(client), StreamTruncatedError, text=tokens(3), says=NOT_WHOLE)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


FULL = begun(*TOKENS, FINISH, framing="eof")


@pytest.mark.parametrize(
    ("last", "done"),
    [
        pytest.param([b"data: [DONE]\n"], True, id="after_done"),
        pytest.param([b"data: [DONE]"], True, id="in_the_line_of_done"),
        pytest.param([b"data: [DO"], False, id="in_done"),
    ],
)
async def test_an_end_before_the_last_blank_line_counts_if_all_is_there(
    start: Start, last: list[bytes], done: bool
) -> None:
    server, client = await start(reply_writes([*FULL, *last, CLOSE]), **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "closed", done=done)


@pytest.mark.parametrize(
    ("events", "last", "count"),
    [
        pytest.param(TOKENS[:3], sse(TOKENS[3], done=False)[:-1], 4, id="after_its_line"),
        pytest.param(TOKENS[:3], sse(TOKENS[3], done=False)[:-2], 4, id="after_its_json"),
        pytest.param(TOKENS[:3], sse(TOKENS[3], done=False)[:-3], 3, id="in_its_json"),
        pytest.param(TOKENS[:4], sse(FINISH, done=False)[:-1], None, id="after_finish"),
    ],
)
async def test_cut_before_blank_line(
    start: Start, events: list[dict[str, Any]], last: bytes, count: int | None
) -> None:
    """The last event counts if its data is whole; then the rule of completion says how the stream ended."""
    server, client = await start(reply_writes([*begun(*events, framing="eof"), last, CLOSE]), **AMBIGUOUS)
    seen = await streamed(client)
    if count is None:
        assert (tokens(4), None) == (seen.delivered, seen.error)
    else:
        failed(seen, StreamTruncatedError, text=tokens(count), says=NOT_WHOLE)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


async def test_finish_no_done(start: Start) -> None:
    """A finish_reason for every choice makes a stream whole, where HTTP has ended."""
    server, client = await start(reply_sse(*TOKENS, FINISH, done=False), **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "reused", done=False)


async def test_done_no_finish(start: Start) -> None:
    """[DONE] makes a stream whole, as some servers never tell why they stopped."""
    server, client = await start(reply_sse(*TOKENS), **AMBIGUOUS)
    seen = await streamed(client)
    assert seen.completion is not None
    assert seen.completion.choices[0].finish_reason is None
    await expect_whole(server, client, seen, "reused")


async def test_done_without_a_finish_reason_is_too_little_for_the_strict(start: Start) -> None:
    server, client = await start(reply_sse(*TOKENS), strict=True, **AMBIGUOUS)
    failed(await streamed(client), StreamTruncatedError, text=TEXT, says="finish_reason")
    assert 1 == len(server.requests)
    await expect_connection(server, client, "reused")


@pytest.mark.parametrize("pace", [0.0, 0.02])
@pytest.mark.parametrize(
    "end",
    [pytest.param([RESET], id="burst_then_rst"), pytest.param([TORN, CLOSE], id="burst_then_fin_mid_chunk")],
)
@pytest.mark.parametrize(
    ("before", "came"),
    [
        pytest.param([], 0, id="with_headers"),
        pytest.param([begun()[0], 0.02], 0, id="after_headers"),
        # A consumer with a pace is busy with the first event as the others come, and the loss.
        pytest.param([*begun(TOKENS[0]), 0.005], 1, id="after_an_event"),
    ],
)
async def test_events_received_come_before_the_loss_whatever_the_pace(
    start: Start, before: list[Any], came: int, end: list[Any], pace: float
) -> None:
    headers = b"" if before else begun()[0]
    *torn, loss = end
    burst = headers + http_chunk(sse(*TOKENS[came:4], done=False)) + b"".join(torn)
    server, client = await start(reply_writes([*before, burst, loss]), **AMBIGUOUS)
    seen = await streamed(client, pace=pace)
    failed(seen, StreamInterruptedError, text=tokens(4), attempts=1, events=4)
    assert 4 == len(seen.chunks)
    assert 1 == len(server.requests)
    await expect_connection(server, client, "closed")


@pytest.mark.parametrize("loss", [CLOSE, RESET], ids=["fin", "rst"])
async def test_a_loss_after_all_has_come_costs_only_the_connection(start: Start, loss: Any) -> None:
    server, client = await start(reply_writes([*begun(*TOKENS, FINISH), 0.02, loss]), **AMBIGUOUS)
    await expect_whole(server, client, await streamed(client), "closed", done=False)


async def test_a_cut_stream_does_not_spoil_the_next(start: Start) -> None:
    server, client = await start(reply_writes([*THREE, CLOSE]), healthy())
    failed(await streamed(client), StreamInterruptedError, text=tokens(3))
    seen = await streamed(client)
    assert (TEXT, None, 2) == (seen.delivered, seen.error, len(server.requests))
