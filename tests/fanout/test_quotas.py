"""Quotas that a server on loopback holds: no request is lost, few are sent twice, and little time is lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from client_calls import CALL, create_completion
from many_servers import prompts

from gradient_async import AsyncGradient, ChatCompletion, RateLimitError
from gradient_async.testing import Connection, Quota, Request, Server, completion, reply_json, serve
from gradient_async.testing.quota import Meter

pytestmark = pytest.mark.usefixtures("virtual_time")

SMALL: dict[str, Any] = {"requests": 10, "per_second": 40}
KINDS: dict[str, dict[str, Any]] = {
    "reset": {},
    "Retry-After": {"wait": "retry-after"},
    "no wait": {"wait": "unknown"},
    "529": {"status": 529},
    "529, no wait": {"status": 529, "wait": "unknown"},
    "503, Retry-After": {"status": 503, "wait": "retry-after"},
}


@asynccontextmanager
async def at(quota: Quota | None, **options: Any) -> AsyncGenerator[tuple[Server, AsyncGradient]]:
    """Start a server with a quota, and a client with default settings."""
    served = {name: options.pop(name) for name in ("delay", "handler") if name in options}
    async with (
        serve(rate_limit=quota, **served) as server,
        AsyncGradient(inference_endpoint=server.url, model_access_key="k", **options) as client,
    ):
        yield server, client


async def map_all(client: AsyncGradient, count: int, **options: Any) -> tuple[int, int]:
    """Make so many requests, which must all succeed; return the sum of their tokens and the largest of attempts."""
    tokens = attempts = 0
    async for result in client.chat.completions.map(prompts(count), **options):
        found = result.unwrap()
        attempts = max(attempts, found.attempts)
        tokens += found.usage.total_tokens if found.usage is not None else 0
    return tokens, attempts


def check(server: Server, rows: int, began: float, ideal: float) -> None:
    """Expect few requests and little time; other sequences of random numbers need a little more or less."""
    assert len(server.requests) <= 1.3 * rows
    assert time.monotonic() - began <= 1.15 * ideal + 2


@pytest.mark.parametrize(
    ("kind", "client_options", "options"),
    [
        *(pytest.param(kind, {}, {}, id=kind) for kind in KINDS),
        pytest.param("reset", {}, {"stream": True}, id="streamed"),
        pytest.param("no wait", {"max_retries": 0}, {}, id="no retries"),
        pytest.param("Retry-After", {"delay": 0.1}, {"max_concurrency": 200}, id="slow"),
        pytest.param("reset", {}, {"adaptive": True}, id="adaptive"),
    ],
)
async def test_map(kind: str, client_options: dict[str, Any], options: dict[str, Any]) -> None:
    async with at(Quota(**SMALL, **KINDS[kind]), **client_options) as (server, client):
        began = time.monotonic()
        await map_all(client, 100, **options)
        check(server, 100, began, 90 / 40)


@pytest.mark.parametrize("kind", KINDS)
async def test_map_at_a_quota_of_tokens(kind: str) -> None:
    async with at(Quota(tokens=1600, tokens_per_second=1600, **KINDS[kind])) as (server, client):
        began = time.monotonic()
        tokens, _ = await map_all(client, 150)
        check(server, 150, began, max(0, tokens - 1600) / 1600)


@pytest.mark.parametrize("headers", [{}, {"retry-after": "0.2"}], ids=["nothing", "Retry-After"])
@pytest.mark.parametrize("status", [429, 529])
async def test_map_where_no_level_is_told(status: int, headers: dict[str, str]) -> None:
    meter = Meter(Quota(**SMALL))

    async def answer(request: Request, connection: Connection) -> None:
        accepted, _ = meter.admit(1, now=time.monotonic(), wall=time.time())
        refusal = reply_json({"id": "too_many_requests", "message": "slow down"}, status, headers)
        await (reply_json(completion("hi")) if accepted else refusal)(request, connection)

    async with at(None, handler=answer) as (server, client):
        began = time.monotonic()
        await map_all(client, 200)
        check(server, 200, began, 190 / 40)


@pytest.mark.parametrize("kind", KINDS)
async def test_fan_out_of_60(kind: str) -> None:
    async with at(Quota(**SMALL, **KINDS[kind])) as (server, client):
        began = time.monotonic()
        async with client.chat.completions.fan_out(n=60, **CALL) as fan:
            found = await fan.completion()
        assert 60 == len(found.choices)
        check(server, 60, began, 50 / 40)


async def test_two_keys_on_one_client() -> None:
    """Each has its own quota; the second is not held up by the first."""
    async with at(Quota(**SMALL)) as (server, client):
        other = client.with_options(api_key="other")
        began = time.monotonic()

        async def seconds(client: AsyncGradient, count: int) -> float:
            await map_all(client, count)
            return time.monotonic() - began

        many, few = await asyncio.gather(seconds(client, 100), seconds(other, 8))
        assert few < 0.7 * many
        check(server, 108, began, 90 / 40)


@pytest.mark.parametrize(
    ("kind", "stream"),
    [("reset", False), ("Retry-After", False), ("529", False), ("503, Retry-After", False), ("reset", True)],
)
async def test_many_single_calls_at_once(kind: str, stream: bool) -> None:
    """None fails after fewer attempts than `max_retries` allows, and a call with another key is untouched."""
    async with at(Quota(requests=60, per_second=40, **KINDS[kind])) as (server, client):

        async def call() -> int:
            if not stream:
                return (await create_completion(client)).attempts
            async with client.chat.completions.stream(**CALL) as opened:
                found: ChatCompletion = await opened.completion()
                return found.attempts

        calls = asyncio.gather(*(call() for _ in range(200)), return_exceptions=True)
        await asyncio.sleep(0.3)
        other = client.with_options(api_key="other")
        assert 1 == (await create_completion(other)).attempts
        for outcome in await calls:
            assert 3 == getattr(outcome, "attempts", 3), outcome
        assert len(server.requests) <= 601


async def test_failures_of_one_key_do_not_spend_the_retries_of_another() -> None:
    """The bucket of tokens is one for each key: at a single 500 a call with another key is retried."""
    failed: set[str] = set()

    async def answer(request: Request, connection: Connection) -> None:
        key = request.headers["authorization"]
        first = key not in failed
        failed.add(key)
        if key == "Bearer k" or first:
            await reply_json({}, 500)(request, connection)
        else:
            await reply_json(completion("hi"))(request, connection)

    async with at(None, handler=answer) as (_, client):
        await asyncio.gather(*(create_completion(client) for _ in range(40)), return_exceptions=True)
        assert 2 == (await create_completion(client.with_options(api_key="other"))).attempts


async def test_a_quota_that_is_spent_for_longer_than_the_budget_is_an_error() -> None:
    """The wait is told, and nothing is held for it."""
    refusal = reply_json({"id": "too_many_requests", "message": "slow down"}, 429, {"retry-after": "3600"})
    async with at(None, handler=refusal) as (server, client):
        results = [result async for result in client.chat.completions.map(prompts(3))]
        assert [3600.0] * 3 == [r.error.retry_after for r in results if isinstance(r.error, RateLimitError)]
        assert 3 == len(server.requests)
