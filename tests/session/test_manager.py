"""What is shared by all calls of a client: the gate that holds them, and the tokens that retries cost."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from client_calls import CALL, Start, create_completion, open_stream

from gradient_async import (
    AsyncGradient,
    GradientError,
    OverloadedError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    Timeout,
)
from gradient_async.testing import Request, reply_json, serve

pytestmark = pytest.mark.usefixtures("virtual_time")

SLOW_DOWN: Any = {"id": "too_many_requests", "message": "slow down"}


def refusal(seconds: float, status: int = 429) -> Any:
    return reply_json(SLOW_DOWN, status, {"retry-after": str(seconds), "x-request-id": "r1"})


async def test_new_calls_wait_while_the_server_said_to_wait(start: Start) -> None:
    """Also those that may not retry: they have not been sent once."""
    server, client = await start(refusal(0.3))
    with pytest.raises(RateLimitError):
        await create_completion(client)
    began = time.monotonic()
    calls = [asyncio.create_task(create_completion(client)) for _ in range(5)]
    await asyncio.sleep(0.2)
    assert len(server.requests) == 1
    assert all(completion.attempts == 1 for completion in await asyncio.gather(*calls))
    assert 0.25 <= time.monotonic() - began < 0.5
    assert (await create_completion(client)).choices
    assert len(server.requests) == 7


async def test_a_copy_waits_too_but_another_key_does_not(start: Start) -> None:
    _, client = await start(refusal(0.5, 503))
    with pytest.raises(OverloadedError):
        await open_stream(client)
    began = time.monotonic()
    await create_completion(client.with_options(model_access_key="another-key-0123"))
    assert time.monotonic() - began < 0.01
    await create_completion(client.with_options(timeout=3))
    assert time.monotonic() - began > 0.4


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"retry": Retry(budget=0.1)}, id="budget"),
        pytest.param({"timeout": Timeout(total=0.1)}, id="deadline"),
    ],
)
async def test_a_call_that_can_not_wait_so_long_is_refused_at_once(
    start: Start, options: dict[str, Any]
) -> None:
    server, client = await start(refusal(5.0))
    with pytest.raises(RateLimitError):
        await create_completion(client)
    began = time.monotonic()
    with pytest.raises(RateLimitError, match=r"not sent: .* asked to wait") as caught:
        await create_completion(client.with_options(**options))
    error = caught.value
    assert time.monotonic() - began < 0.01
    assert error.retry_after is not None
    assert 4.0 < error.retry_after <= 5.0
    assert (error.status_code, error.code, error.request_id) == (429, "too_many_requests", "r1")
    assert (error.attempts, len(server.requests)) == (0, 1)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"retry": Retry(budget=0.45)}, id="budget"),
        pytest.param({"timeout": Timeout(total=0.45)}, id="deadline"),
    ],
)
async def test_a_wait_that_is_spread_stays_within_what_the_call_may_wait(
    start: Start, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that wait for the same moment are sent a little later, each at its own time."""
    monkeypatch.setattr("gradient_async.session.manager._dice", lambda: 1.0)
    waits: list[float] = []

    def later(left: float, jitter: float) -> float:
        return left + jitter

    monkeypatch.setattr("gradient_async.session.manager.spread", later)

    async def note(seconds: float) -> None:
        waits.append(seconds)

    _, client = await start(refusal(0.4))
    with pytest.raises(RateLimitError):
        await create_completion(client)
    with monkeypatch.context() as patch:
        patch.setattr("gradient_async.session.manager.asyncio.sleep", note)
        with pytest.raises(GradientError):
            await create_completion(client.with_options(**options))
    assert max(waits) < 0.45 + 1e-6  # differences of clock readings are rounded


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        pytest.param(refusal(99999), RateLimitError, id="longer than any call would wait"),
        pytest.param(reply_json(SLOW_DOWN, 429), RateLimitError, id="no time given"),
        pytest.param(
            reply_json({"error": {"message": "no", "code": "insufficient_quota"}}, 429, {"retry-after": "3"}),
            QuotaExceededError,
            id="waiting does not help",
        ),
        pytest.param(refusal(3, 404), GradientError, id="one model only"),
        pytest.param(refusal(3, 504), GradientError, id="one request only"),
    ],
)
async def test_what_holds_nobody(start: Start, reply: Any, kind: type[GradientError]) -> None:
    _, client = await start(reply)
    with pytest.raises(kind):
        await create_completion(client)
    began = time.monotonic()
    await create_completion(client)
    assert time.monotonic() - began < 0.01


async def test_the_longest_wait_counts(start: Start) -> None:
    _, client = await start(refusal(0.4), refusal(0.1))
    results = await asyncio.gather(
        create_completion(client), create_completion(client), return_exceptions=True
    )
    assert [RateLimitError, RateLimitError] == [type(result) for result in results]
    began = time.monotonic()
    await create_completion(client)
    assert time.monotonic() - began > 0.3


async def test_a_failing_server_is_not_flooded_with_retries() -> None:
    """200 calls against a server that answers 503 to all: at most 220 requests."""

    async def overloaded(_request: Request, connection: Any) -> None:
        await reply_json({"message": "no room"}, 503)(_request, connection)

    async with serve(handler=overloaded) as server:
        client = AsyncGradient(
            inference_endpoint=server.url, model_access_key="k", retry=Retry(max_backoff=0.02)
        )
        async with client:
            results = await asyncio.gather(
                *(create_completion(client) for _ in range(200)), return_exceptions=True
            )
            assert {OverloadedError} == {type(result) for result in results}
            assert 200 < len(server.requests) <= 220
            with pytest.raises(OverloadedError, match="not tried again: too many calls") as caught:
                await create_completion(client)
            assert caught.value.attempts == 1


async def test_success_brings_the_tokens_back(start: Start) -> None:
    server, client = await start(max_retries=2, retry=Retry(max_backoff=0.01))
    for _ in range(30):
        server.push(reply_json({"message": "no room"}, 503))
        assert (await create_completion(client)).attempts == 2
    assert len(server.requests) == 60


async def test_a_call_cancelled_at_the_gate_was_never_sent(start: Start) -> None:
    server, client = await start(refusal(5.0))
    with pytest.raises(RateLimitError):
        await create_completion(client)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await client.chat.completions.create(**CALL)
    assert len(server.requests) == 1
