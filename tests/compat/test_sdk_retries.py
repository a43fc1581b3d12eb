"""The facts that the suites of ``gradient`` and ``openai`` assert of retries, redirects and connections, in ``test_client.py``."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from client_calls import Start
from sdk_clients import ALL, OPENAI, OURS, Sdk, create, differs

import gradient_async
from gradient_async import APIConnectionError, APIStatusError, ConfigurationError, Retry
from gradient_async.policy.ratelimit import retry_after
from gradient_async.policy.retry import backoff, wait_before_retry
from gradient_async.testing import CLOSE, HOLD, reply_json, reply_writes

NOW = 1696004797.0  # Fri, 29 Sep 2023 16:26:37 GMT
BROKEN = reply_json({"error": "broken"}, 500, {"retry-after-ms": "1"})


@OURS
@differs("`max_retries=None` is a `TypeError`")
def test_client_max_retries_validation(sdk: Sdk) -> None:
    with pytest.raises(ConfigurationError, match="max_retries=None: expected a whole number"):
        sdk.client(max_retries=None)


@pytest.mark.parametrize(
    ("header", "wait"),
    [
        ("20", 20),
        ("0", 0),
        ("-10", None),
        ("60", 60),
        ("Fri, 29 Sep 2023 16:26:57 GMT", 20),
        ("Fri, 29 Sep 2023 16:26:37 GMT", 0),
        ("Fri, 29 Sep 2023 16:26:27 GMT", 0),
        ("Fri, 29 Sep 2023 16:27:37 GMT", 60),
        ("Zun, 29 Sep 2023 16:26:27 GMT", 0),  # a time in the past, whatever the day is called
        ("Fri, 29 Sep 100000 16:26:57 GMT", None),
        ("nan", None),
        ("", None),
    ],
)
def test_parse_retry_after_header(header: str, wait: float | None) -> None:
    """The wait that a server asks for; without one, and with one of 0, the client chooses its own."""
    assert wait == retry_after({"retry-after": header}, status=429, now=NOW, jitter=0.5)


@differs("The wait before a retry is 0.5, 1, 2 ... 8 seconds, less at most a quarter")
def test_the_clients_own_wait() -> None:
    """The rest of `test_parse_retry_after_header`: a random part of the same waits, whatever the number of attempts."""
    assert [0.5, 1, 2, 4, 8, 8] == [backoff(attempt, 8, 1.0) for attempt in (1, 2, 3, 4, 5, 1100)]
    assert 0.25 == backoff(1, 8, 0.5)


@differs(
    "`Retry-After` above 60 seconds is replaced by a shorter wait (`gradient`); up to 120 it is obeyed (`openai`)"
)
@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after": "61"}, 61),
        ({"retry-after": "Fri, 29 Sep 2023 16:27:38 GMT"}, 61),
        ({"retry-after": "120"}, 120),
        ({"retry-after-ms": "120001"}, 120.001),
        ({"retry-after": "99999999999999999999999999999999999"}, 1e35),
    ],
)
def test_retry_after_max_delay(headers: dict[str, str], wait: float) -> None:
    asked = retry_after(headers, status=429, now=NOW, jitter=0.5)
    assert asked == pytest.approx(wait)
    response = gradient_async.ResponseInfo(status_code=429, headers=gradient_async.Headers())
    error = gradient_async.RateLimitError("busy", response=response, retry_after=asked)
    for budget, expected in ((60, None), (1e36, asked)):
        policy = Retry(budget=budget)
        assert expected == wait_before_retry(error, policy, failures=1, max_retries=2, spent=0, jitter=0)


@OPENAI
async def test_does_not_retry_retry_after_above_max(start: Start, sdk: Sdk) -> None:
    server, _ = await start(reply_json({"error": {}}, 429, {"retry-after": "121"}))
    async with sdk.client(server.url) as client:
        with pytest.raises(sdk.module.APIStatusError):
            await create(client)
    assert 1 == len(server.requests)


@ALL
async def test_invalid_retry_after_date_does_not_mask_status_error(start: Start, sdk: Sdk) -> None:
    date = "Fri, 29 Sep 100000 16:26:57 GMT"
    server, _ = await start(reply_json({"error": {}}, 400, {"retry-after": date}))
    async with sdk.client(server.url) as client:
        with pytest.raises(sdk.module.BadRequestError):
            await create(client)
    assert 1 == len(server.requests)


@ALL
@pytest.mark.parametrize("status", [401, 403])
async def test_401_without_workload_identity_and_non_401_errors_no_retry(
    start: Start, sdk: Sdk, status: int
) -> None:
    server, _ = await start(reply_json({"error": "no"}, status))
    async with sdk.client(server.url) as client:
        kind = sdk.module.AuthenticationError if status == 401 else sdk.module.PermissionDeniedError
        with pytest.raises(kind):
            await create(client)
    assert 1 == len(server.requests)


async def open_response(client: Any) -> Any:
    """Request a completion as a response whose body is unread."""
    return await client.chat.completions.with_streaming_response.create(
        messages=[{"role": "system", "content": "string"}], model="llama3-8b-instruct"
    ).__aenter__()


@ALL
async def test_retrying_timeout_errors_doesnt_leak(start: Start, sdk: Sdk) -> None:
    server, _ = await start(*[reply_writes([HOLD])] * 3)
    async with sdk.client(server.url, timeout=0.05, max_retries=0) as client:
        with pytest.raises(sdk.module.APITimeoutError):
            await open_response(client)
        await server.wait_closed_connections()


@OURS
async def test_retrying_status_errors_doesnt_leak(start: Start, sdk: Sdk) -> None:
    """All attempts use one connection, and the next call uses it again."""
    server, _ = await start(*[BROKEN] * 3)
    async with sdk.client(server.url) as client:
        with pytest.raises(sdk.module.APIStatusError):
            await open_response(client)
        assert (3, 1) == (len(server.requests), server.connections)
        await create(client)
        assert 1 == server.connections


@ALL
@pytest.mark.parametrize("failures", [0, 2, 4])
@pytest.mark.parametrize("kind", ["raw", "streaming"])
async def test_retries_taken_and_of_new_response_class(
    start: Start, sdk: Sdk, failures: int, kind: Literal["raw", "streaming"]
) -> None:
    server, _ = await start(*[BROKEN] * failures)
    async with sdk.client(server.url) as client:
        completions = client.with_options(max_retries=4).chat.completions
        call: Any = {"messages": [{"role": "system", "content": "string"}], "model": "llama3-8b-instruct"}
        if kind == "raw":
            response = await completions.with_raw_response.create(**call)
        else:
            async with completions.with_streaming_response.create(**call) as response:
                await response.read()
        assert failures == response.retries_taken
        assert 1 + failures == len(server.requests)


@ALL
@pytest.mark.parametrize("value", ["42", None])
async def test_overwrite_and_omit_retry_count_header(start: Start, sdk: Sdk, value: str | None) -> None:
    """The header is the caller's, in each attempt."""
    server, _ = await start(*[BROKEN] * 2)
    header = {"x-stainless-retry-count": sdk.module.Omit() if value is None else value}
    async with sdk.client(server.url) as client:
        await create(client, extra_headers=header)
    assert [value] * 3 == [request.headers.get("x-stainless-retry-count") for request in server.requests]


@OURS
@differs("An attempt whose connection is lost is repeated")
async def test_retries_taken_after_a_lost_connection(start: Start, sdk: Sdk) -> None:
    server, _ = await start(*[reply_writes([CLOSE])] * 2)
    async with sdk.client(server.url) as client:
        with pytest.raises(APIConnectionError):
            await create(client)
        assert 1 == len(server.requests)
        retry = Retry(ambiguous=True, max_backoff=0.001)
        assert 2 == (await create(client.copy(retry=retry))).attempts


@OURS
@differs("Redirects are followed, unless the request has `follow_redirects=False`")
async def test_follow_redirects_and_follow_redirects_disabled(start: Start, sdk: Sdk) -> None:
    server, _ = await start()
    server.push(reply_json({}, 302, {"location": f"{server.url}/redirected"}))
    async with sdk.client(server.url) as client:
        with pytest.raises(APIStatusError) as caught:
            await create(client)
    assert isinstance(caught.value, gradient_async.UnexpectedRedirectError)
    assert caught.value.response is not None
    assert 302 == caught.value.response.status_code
    assert f"{server.url}/redirected" == caught.value.response.headers["Location"]
    assert 1 == len(server.requests)
