"""Rows of the fault list where the server says how long to wait before another try."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from email.utils import formatdate

import pytest
from fault_requests import BOTH_WAYS, RETRYING, Ask, ask_repeatedly, healthy_for
from fault_rows import TEXT, Start, asked, expect_connection, failed, streamed

from gradient_async import QuotaExceededError, RateLimitError, Timeout
from gradient_async.testing import Handler, reply_json

pytestmark = pytest.mark.usefixtures("virtual_time")

NOON = "Wed, 01 Jan 2025 12:00:00 GMT"
SLOW_DOWN = {"id": "too_many_requests", "message": "slow down"}


def limited(headers: Mapping[str, str | None]) -> Handler:
    """A 429."""
    return reply_json(SLOW_DOWN, 429, headers)


@pytest.mark.parametrize(
    ("ask", "headers", "seconds"),
    [
        pytest.param(asked, {"retry-after": "1"}, 1.0, id="status_429_seconds"),
        pytest.param(
            streamed,
            {"date": NOON, "retry-after": NOON.replace(":00 ", ":01 ")},
            1.0,
            id="status_429_date",
        ),
        pytest.param(asked, {"retry-after-ms": "300"}, 0.3, id="status_429_ms"),
        pytest.param(streamed, {"retry-after-ms": "300", "retry-after": "50"}, 0.3, id="ms_before_seconds"),
        pytest.param(streamed, {"retry-after": "0"}, 0.0, id="status_429_zero"),
    ],
)
async def test_a_retry_does_not_come_before_the_server_allows(
    start: Start, ask: Ask, headers: Mapping[str, str], seconds: float
) -> None:
    server, client, seen = await ask_repeatedly(start, ask, limited(headers), posts=2, max_retries=1)
    failed(seen, RateLimitError, says="slow down", retry_after=seconds, attempts=2, status_code=429)
    first, second = server.requests
    assert seconds <= second.received_at - first.received_at < seconds + 0.8
    await expect_connection(server, client, "reused")
    assert 1 == server.connections


@BOTH_WAYS
async def test_status_429_then_ok(start: Start, ask: Ask) -> None:
    server, client = await start(limited({"retry-after": "1"}), healthy_for(ask), **RETRYING)
    seen = await ask(client)
    assert (TEXT, None) == (seen.delivered, seen.error)
    assert seen.completion is not None
    assert 2 == seen.completion.attempts == len(server.requests)
    assert 1.0 <= seen.seconds < 1.8
    await expect_connection(server, client, "reused")


@BOTH_WAYS
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("-5", id="status_429_negative"),
        pytest.param("nan", id="status_429_nan"),
        pytest.param("soon", id="status_429_words"),
        pytest.param("", id="status_429_empty"),
    ],
)
async def test_a_wait_that_is_none_is_ignored(start: Start, ask: Ask, value: str) -> None:
    server, client, seen = await ask_repeatedly(start, ask, limited({"retry-after": value}), posts=3)
    failed(seen, RateLimitError, retry_after=None, attempts=3)
    assert seen.seconds < 0.5
    await expect_connection(server, client, "reused")


@BOTH_WAYS
@pytest.mark.parametrize(
    ("headers", "seconds", "timeout"),
    [
        pytest.param({"retry-after": "99999"}, 99999.0, Timeout(), id="status_429_absurd"),
        pytest.param({"retry-after": "1e400"}, float("inf"), Timeout(), id="status_429_inf"),
        pytest.param({"retry-after": "30"}, 30.0, Timeout(total=20), id="status_429_30s"),
        pytest.param(
            {"date": NOON, "retry-after": NOON.replace("12:00", "13:00")}, 3600.0, Timeout(), id="an_hour"
        ),
    ],
)
async def test_a_wait_beyond_the_budget_or_the_deadline_is_an_error_at_once(
    start: Start, ask: Ask, headers: Mapping[str, str], seconds: float, timeout: Timeout
) -> None:
    """The error says how long, so that the caller can decide."""
    server, _, seen = await ask_repeatedly(start, ask, limited(headers), posts=1, timeout=timeout)
    failed(seen, RateLimitError, retry_after=seconds, attempts=1)
    assert seen.seconds < 0.4
    assert 1 == server.open_connections  # kept; another call might have to wait for the server's time


@BOTH_WAYS
async def test_a_wait_within_budget_and_deadline_is_waited_for(start: Start, ask: Ask) -> None:
    server, client = await start(limited({"retry-after": "30"}), **RETRYING)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await ask(client)
    assert 1 == len(server.requests)


@BOTH_WAYS
async def test_a_date_without_the_clock_of_the_server_goes_by_ours(start: Start, ask: Ask) -> None:
    """Dates have whole seconds, so up to one is missing."""
    date = formatdate(time.time() + 2, usegmt=True)
    _, _, seen = await ask_repeatedly(start, ask, limited({"retry-after": date}), posts=1, max_retries=0)
    error = failed(seen, RateLimitError)
    assert error.retry_after is not None
    assert 0.5 < error.retry_after <= 2.0


@BOTH_WAYS
async def test_status_429_quota(start: Start, ask: Ask) -> None:
    """A spent quota is not mended by waiting, whatever wait is named."""
    body = {
        "error": {"message": "you have no quota", "type": "insufficient_quota", "code": "insufficient_quota"}
    }
    reply = reply_json(body, 429, {"retry-after": "0"})
    server, client, seen = await ask_repeatedly(start, ask, reply, posts=1)
    failed(seen, QuotaExceededError, says="no quota", code="insufficient_quota", attempts=1, retry_after=0.0)
    await expect_connection(server, client, "reused")
