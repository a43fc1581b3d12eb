"""Awaited completions: what comes back, and every way it can fail."""

from __future__ import annotations

import time
import traceback
from typing import Any

import pytest
from client_calls import MESSAGES, Start, create_completion

from gradient_async import (
    APIConnectionError,
    APIError,
    APIResponseValidationError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    GatewayTimeoutError,
    InternalServerError,
    Limits,
    NotFoundError,
    OverloadedError,
    PaymentRequiredError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    RequestTimeoutError,
    RequestTooLargeError,
    Retry,
    StreamError,
    StreamLimitError,
    StreamProtocolError,
    StreamServerError,
    StreamTruncatedError,
    Timeout,
    UnexpectedRedirectError,
    UnprocessableEntityError,
)
from gradient_async.testing import (
    CLOSE,
    HOLD,
    RESET,
    Connection,
    Handler,
    Request,
    chunk,
    completion,
    forever,
    head,
    reply_bytes,
    reply_json,
    reply_writes,
    sse,
)


async def failing(start: Start, *replies: Handler, **options: Any) -> APIError:
    """Return the error that a call raises."""
    _, client = await start(*replies, **options)
    with pytest.raises(APIError) as caught:
        await create_completion(client)
    return caught.value


async def test_a_completion_and_what_the_session_knows_of_it(start: Start) -> None:
    """Body fields from the body; request id, limits and attempts from the session, never from the body."""
    body = completion("Hi", request_id="forged", attempts=9) | {"@attempts": 7, "@request_id": "forged"}
    headers = {"x-request-id": "req-7", "x-ratelimit-limit-requests": "5"}
    server, client = await start(reply_json(body, headers=headers))
    got = await create_completion(client)
    assert got.choices[0].message.content == "Hi"
    assert (got.request_id, got.attempts) == ("req-7", 1)
    assert got.rate_limits is not None
    assert got.rate_limits.requests.limit == 5
    assert "request_id" not in got.to_dict()
    assert {"model": "m", "messages": MESSAGES} == server.requests[0].json


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (402, PaymentRequiredError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (408, RequestTimeoutError),
        (413, RequestTooLargeError),
        (422, UnprocessableEntityError),
        (429, RateLimitError),
        (500, InternalServerError),
        (503, OverloadedError),
        (504, GatewayTimeoutError),
        (529, OverloadedError),
        (418, APIStatusError),
    ],
)
async def test_a_status_is_an_error_of_its_class(
    start: Start, status: int, kind: type[APIStatusError]
) -> None:
    body = {"error": {"message": "no\x1b[2J", "type": "t", "code": 12, "param": "p"}, "request_id": "in-body"}
    error = await failing(start, reply_json(body, status, {"x-request-id": "in-header"}))
    assert type(error) is kind
    assert (error.status_code, error.code, error.type, error.param) == (status, "12", "t", "p")
    assert error.request_id == "in-body"
    assert error.body == body
    assert "no\\x1b[2J" in str(error)
    assert error.response is not None
    assert error.request is not None
    assert (error.response.status_code, error.response.headers["X-Request-Id"]) == (status, "in-header")
    assert error.headers == error.response.headers
    assert error.response.json() == body
    assert error.request.method == "POST"
    assert error.request.url.endswith("/v1/chat/completions")
    assert error.attempts == 1
    assert error.elapsed is not None


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        (b'{"id":"unauthorized","message":"who are you"}', "who are you", "unauthorized"),
        (b'{"error":"in words"}', "in words", None),
        (b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}', "busy", None),
        (
            b'{"detail":[{"loc":["body","n"],"msg":"too many","type":"value_error"}]}',
            "body.n: too many",
            None,
        ),
        (b"<html><h1>Bad gateway</h1></html>", "Bad gateway", None),
        (b"", "no message", None),
    ],
)
async def test_error_bodies_of_every_shape_are_understood(
    start: Start, body: bytes, message: str, code: str | None
) -> None:
    error = await failing(start, reply_bytes(body, 400))
    assert isinstance(error, BadRequestError)
    assert message in str(error)
    assert error.code == code


async def test_a_quota_is_told_from_a_busy_minute(start: Start) -> None:
    quota = {"error": {"message": "", "code": "insufficient_quota"}}
    error = await failing(start, reply_json(quota, 429))
    assert type(error) is QuotaExceededError
    assert str(error).endswith("; the account's quota is used up, and waiting does not help")


async def test_redirects_are_errors_that_name_the_origin_alone(start: Start) -> None:
    reply = reply_bytes(b"", 307, {"location": "https://elsewhere.example/secret?path"})
    error = await failing(start, reply)
    assert isinstance(error, UnexpectedRedirectError)
    assert "https://elsewhere.example" in str(error)
    assert "secret" not in str(error)
    error = await failing(start, reply_bytes(b"", 302, {"location": "/inside"}))
    assert "a path of its own" in str(error)


async def test_an_error_in_a_200_is_a_status_error(start: Start) -> None:
    error = await failing(start, reply_json({"error": {"message": "late", "code": "c"}}))
    assert isinstance(error, APIStatusError)
    assert (error.status_code, error.code) == (200, "c")
    error = await failing(start, reply_json({"choices": [], "error": {"message": "late"}}))
    assert isinstance(error, APIStatusError)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"null", "not a chat completion"),
        (b"{}", "no choices"),
        (b'{"choices":"x"}', "$.choices"),
        (b'{"id":"a","choices":[{"index":0', "not a chat completion"),
        (b"", "not a chat completion"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
async def test_a_200_that_is_no_completion_is_a_validation_error(
    start: Start, body: bytes, says: str
) -> None:
    error = await failing(start, reply_bytes(body))
    assert isinstance(error, APIResponseValidationError)
    assert says in str(error)
    assert (error.status_code, error.body_head) == (200, body[:200])


async def test_no_content_is_a_validation_error(start: Start) -> None:
    error = await failing(start, reply_writes([head(204)]))
    assert isinstance(error, APIResponseValidationError)
    assert error.status_code == 204


async def test_nobody_listens(start: Start) -> None:
    error = await failing(
        start, inference_endpoint="http://127.0.0.1:1", max_retries=1, retry=Retry(max_backoff=0)
    )
    assert isinstance(error, APIConnectionError)
    assert (error.phase, error.ambiguous, error.attempts) == ("connect", False, 2)
    assert "127.0.0.1:1" in str(error)


@pytest.mark.parametrize(
    ("reply", "phase"),
    [
        (reply_writes([CLOSE]), "response"),
        (reply_writes([RESET]), "response"),
        (reply_writes([b"HTTP/1.1 200 OK\r\nContent-", CLOSE]), "response"),
        (reply_writes([b"SSH-2.0-OpenSSH\r\n", CLOSE]), "response"),
        (reply_writes([head(200, {"content-length": "100"}), b'{"id"', CLOSE]), "body"),
        (reply_writes([head(200, {"content-length": "100"}), b'{"id"', RESET]), "body"),
    ],
)
async def test_a_connection_lost_says_when_and_is_not_repeated(
    start: Start, reply: Handler, phase: str
) -> None:
    server, client = await start(reply, max_retries=2)
    with pytest.raises(APIConnectionError) as caught:
        await create_completion(client)
    assert (caught.value.phase, caught.value.ambiguous) == (phase, True)
    assert len(server.requests) == 1


async def test_a_loss_is_repeated_if_the_caller_says_so(start: Start) -> None:
    server, client = await start(
        reply_writes([CLOSE]), max_retries=1, retry=Retry(ambiguous=True, max_backoff=0.01)
    )
    got = await create_completion(client)
    assert (got.attempts, len(server.requests)) == (2, 2)


async def test_a_failing_server_is_tried_again_within_the_number(start: Start) -> None:
    busy = reply_json({"message": "busy"}, 503)
    server, client = await start(busy, busy, max_retries=2, retry=Retry(max_backoff=0.01))
    assert (await create_completion(client)).attempts == 3
    assert len(server.requests) == 3
    error = await failing(start, busy, busy, max_retries=1, retry=Retry(max_backoff=0.01))
    assert error.attempts == 2


@pytest.mark.usefixtures("virtual_time")
async def test_a_servers_wait_is_waited_and_one_beyond_the_budget_is_an_error_at_once(start: Start) -> None:
    limited = reply_json({"message": "slow down"}, 429, {"retry-after-ms": "120"})
    _, client = await start(limited, max_retries=1)
    began = time.monotonic()
    assert (await create_completion(client)).attempts == 2
    assert time.monotonic() - began >= 0.12
    absurd = reply_json({"message": "slow down"}, 429, {"retry-after": "99999"})
    error = await failing(start, absurd, max_retries=2)
    assert (error.retry_after, error.attempts) == (99999.0, 1)
    later = reply_json({"message": "slow down"}, 429, {"retry-after": "5"})
    error = await failing(start, later, max_retries=2, timeout=Timeout(total=0.5))
    assert (error.retry_after, error.attempts) == (5.0, 1)


@pytest.mark.usefixtures("virtual_time")
@pytest.mark.parametrize(
    ("reply", "timeout", "phase"),
    [
        (reply_writes([HOLD]), Timeout(response=0.1), "response"),
        (reply_writes([HOLD]), Timeout(total=0.1), "total"),
        (reply_writes([b"HTTP/1.1 200 OK\r\nx: ", forever(b"y", 0.02)]), Timeout(response=0.1), "response"),
        (
            reply_writes([head(200, {"content-length": "9"}), forever(b" ", 0.02)]),
            Timeout(response=0.1),
            "response",
        ),
        (reply_writes([head(200, {"content-length": "9"}), HOLD]), Timeout(total=0.1), "total"),
    ],
)
async def test_time_limits_hold_whatever_drips(
    start: Start, reply: Handler, timeout: Timeout, phase: str
) -> None:
    server, client = await start(reply)
    began = time.monotonic()
    with pytest.raises(APITimeoutError) as caught:
        await create_completion(client, timeout=timeout)
    assert caught.value.phase == phase
    assert isinstance(caught.value, TimeoutError)
    assert 0.09 <= time.monotonic() - began < 0.13
    assert len(server.requests) == 1


async def test_an_error_body_is_bounded_in_time_and_size(start: Start) -> None:
    limits = Limits(error_body_bytes=50, error_body_seconds=0.1)
    stalled = reply_writes([head(400, {"content-length": "99"}), b"partly", HOLD])
    error = await failing(start, stalled, limits=limits)
    assert isinstance(error, BadRequestError)
    assert error.body == "partly"
    error = await failing(start, reply_bytes(b"x" * 10_000, 400), limits=limits)
    assert error.body == "x" * 50


async def test_an_event_stream_that_was_not_asked_for_is_assembled(start: Start) -> None:
    """Awaited, raw, and in a map; with what the session knows of the reply."""
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    reply = reply_bytes(
        sse(chunk("Hel"), chunk("lo", finish_reason="stop"), chunk(usage=usage) | {"choices": []}),
        headers={
            "content-type": "text/event-stream",
            "x-request-id": "req-7",
            "x-ratelimit-limit-requests": "5",
        },
    )
    _, client = await start(reply, reply, reply)
    raw = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    (mapped,) = [each async for each in client.chat.completions.map([{"model": "m", "messages": MESSAGES}])]
    for got in (await create_completion(client), await raw.parse(), mapped.unwrap()):
        assert ("Hello", "stop") == (got.choices[0].message.content, got.choices[0].finish_reason)
        assert got.usage is not None
        assert got.usage.total_tokens == 3
        assert (got.request_id, got.attempts) == ("req-7", 1)
        assert got.rate_limits is not None
        assert got.rate_limits.requests.limit == 5


@pytest.mark.parametrize(
    ("body", "options", "kind", "says"),
    [
        (sse(chunk("Hello"), done=False), {}, StreamTruncatedError, "neither [DONE] nor"),
        (sse(chunk("Hello"), {"error": {"message": "no room"}}), {}, StreamServerError, "no room"),
        (sse(chunk("Hello")), {"strict": True}, StreamTruncatedError, "without a finish_reason"),
        (sse(chunk("Hello"), "nonsense"), {}, StreamProtocolError, "event 2"),
        (
            sse(chunk("Hello"), chunk("x", index=9)),
            {"limits": Limits(choices=4)},
            StreamLimitError,
            "choices=4",
        ),
        (
            sse(chunk("Hello"), {"error": {"message": "no model-key-0123"}}),
            {},
            StreamServerError,
            "sent an error",
        ),
    ],
)
async def test_an_event_stream_that_was_not_asked_for_is_judged(
    start: Start, body: bytes, options: dict[str, Any], kind: type[StreamError], says: str
) -> None:
    """As any other stream is, with everything that came in ``.partial``."""
    error = await failing(start, reply_bytes(body, headers={"x-request-id": "req-8"}), **options)
    assert isinstance(error, kind)
    assert says in error.message
    assert (error.status_code, error.request_id, error.bytes_received) == (200, "req-8", len(body))
    assert error.partial is not None
    assert str(error.partial.choices[0].message.content).startswith("Hello")
    assert "key-0123" not in str(error)
    assert None is error.__context__


async def test_all_choices_that_were_asked_for_have_to_come(start: Start) -> None:
    body = sse(chunk("a", finish_reason="stop"), done=False)
    _, client = await start(reply_bytes(body), reply_bytes(sse(chunk("a", finish_reason="stop"), "nonsense")))
    with pytest.raises(StreamTruncatedError):
        await create_completion(client, n=2)
    skipping = client.with_options(on_bad_event="skip")
    assert (await create_completion(skipping)).choices[0].message.content == "a"


async def test_a_body_beyond_its_limit_is_refused(start: Start) -> None:
    error = await failing(start, reply_bytes(b" " * 10_000), limits=Limits(body_bytes=1000))
    assert isinstance(error, APIResponseValidationError)
    assert "body_bytes=1000" in str(error)


async def test_keys_are_nowhere_in_an_error(start: Start) -> None:
    """Not in its text, its representation, its traceback, nor in what it was caused by."""

    async def echo(request: Request, connection: Connection) -> None:
        await reply_json({"message": f"bad header: {request.headers['authorization']}"}, 401)(
            request, connection
        )

    for reply in (echo, reply_writes([CLOSE]), reply_writes([b"nonsense\r\n\r\n", CLOSE])):
        error = await failing(start, reply)
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())
        chain = [error, error.__cause__, error.__context__]
        for text in (
            shown,
            *(repr(link) + str(link) + repr(vars(link)) for link in chain if link is not None),
        ):
            assert "key-0123" not in text


async def test_a_reply_of_too_many_values_is_refused(start: Start) -> None:
    """Bytes bound neither memory nor time."""
    many = '{"choices":[' + "{}," * 10_000 + "{}]}"
    _, client = await start(reply_bytes(many.encode(), 200, {"content-type": "application/json"}))
    with pytest.raises(
        APIResponseValidationError, match=r"the reply has more than values=100000 .*Limits\(values="
    ):
        await create_completion(client)


async def test_a_long_event_stream_that_was_not_asked_for_is_assembled(start: Start) -> None:
    pieces = [f"{number} " for number in range(500)]
    _, client = await start(
        reply_bytes(
            sse(*map(chunk, pieces), chunk(finish_reason="stop")), 200, {"content-type": "text/event-stream"}
        )
    )
    assert "".join(pieces) == (await create_completion(client)).choices[0].message.content


async def test_a_long_reply_that_is_no_completion_is_told_as_what_it_is(start: Start) -> None:
    long = '{"error":{"message":"no","x":"' + "x" * 100_000 + '"}}'
    _, client = await start(reply_bytes(long.encode(), 200, {"content-type": "application/json"}))
    with pytest.raises(APIStatusError, match="no"):
        await create_completion(client)
