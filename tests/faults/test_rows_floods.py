"""Rows of the fault list about bytes that are no content, sent as fast as the socket takes them."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any

import pytest
from fault_requests import AMBIGUOUS
from fault_rows import TOKENS, asked, failed, healthy_call, streamed, tokens

from gradient_async import AsyncGradient, StreamTimeoutError, Timeout
from gradient_async.testing import Handler, chunk, forever, head, http_chunk, reply_writes, serve, sse

CHUNKED = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
LIMIT = 0.2


def flood(again: bytes, before: bytes = b"", **headers: str) -> Handler:
    """Something at first, and then the same for ever, without a pause."""
    fields = {**CHUNKED, **{name.replace("_", "-"): value for name, value in headers.items()}}
    steps = [http_chunk(before)] if before else []
    return reply_writes([head(200, fields), *steps, forever(http_chunk(again * (65_536 // len(again))))])


def opened(data: bytes) -> bytes:
    """The beginning of a gzip body, flushed."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush(zlib.Z_SYNC_FLUSH)


COMMENTS = b": keep-alive\n\n"
EMPTY = sse(chunk(""), done=False)
NOTHING = b"\x00\x00\x00\xff\xff"  # a block of gzip that holds no byte
THREE = sse(*TOKENS[:3], done=False)


@pytest.mark.parametrize(
    ("reply", "timeout", "phase", "count"),
    [
        pytest.param(flood(COMMENTS), Timeout(first_token=LIMIT), "first_token", 0, id="comments_forever"),
        pytest.param(flood(COMMENTS, THREE), Timeout(idle=LIMIT), "idle", 3, id="comments_after_tokens"),
        pytest.param(flood(EMPTY), Timeout(first_token=LIMIT), "first_token", 0, id="empty_deltas_forever"),
        pytest.param(flood(COMMENTS, THREE), Timeout(total=LIMIT), "total", 3, id="total"),
        pytest.param(flood(NOTHING, opened(COMMENTS), content_encoding="gzip"), Timeout(first_token=LIMIT), "first_token", 0, id="gzip"),
    ],
)  # fmt: skip
async def test_what_floods_without_content_is_no_answer(
    reply: Handler, timeout: Timeout, phase: str, count: int
) -> None:
    """The server runs apart, so that it never lets the client wait."""
    with serve(reply, healthy_call()) as server:
        options: dict[str, Any] = {"inference_endpoint": server.url, "model_access_key": "key", **AMBIGUOUS}
        async with AsyncGradient(timeout=timeout, **options) as client:
            seen = await streamed(client, within=2.5)
            failed(seen, StreamTimeoutError, text=tokens(count), phase=phase, attempts=1)
            assert seen.seconds < 2
            await asyncio.to_thread(server.wait_closed_connections)
            assert 1 == len(server.requests)
            assert (await asked(client)).error is None
