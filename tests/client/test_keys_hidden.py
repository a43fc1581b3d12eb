"""A key shows nowhere: not in errors, their attributes, or tracebacks with captured locals."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from client_calls import CALL, Start, create_completion, open_stream
from leaked_key import KEY, MIDDLE, everything_shown

from gradient_async import (
    APIError,
    AsyncGradient,
    ConfigurationError,
    FanOutError,
    Gradient,
    GradientError,
    InvalidRequestError,
    Limits,
)
from gradient_async.testing import CLOSE, chunk, head, reply_bytes, reply_json, reply_sse, reply_writes

BAD = KEY + "\x01"
REFUSED: list[Any] = [
    pytest.param(lambda: AsyncGradient(model_access_key=BAD), id="a control character"),
    pytest.param(lambda: AsyncGradient(agent_access_key=KEY + "é"), id="not ASCII"),
    pytest.param(lambda: AsyncGradient(base_url=f"https://user:{KEY}@host/"), id="in the URL"),
    pytest.param(lambda: AsyncGradient(base_url="http://example.com", api_key=KEY), id="plain http"),
    pytest.param(lambda: AsyncGradient(access_token=KEY, max_retries=-1), id="another option"),
    pytest.param(lambda: AsyncGradient(default_headers={"Authorization": BAD + "\n"}), id="a header"),
    pytest.param(lambda: AsyncGradient(api_key="k").with_options(api_key=BAD), id="a copy"),
    pytest.param(lambda: setattr(AsyncGradient(api_key="k"), "api_key", BAD), id="an attribute"),
    pytest.param(lambda: setattr(AsyncGradient(), "base_url", f"https://u:{KEY}@x"), id="a URL that is set"),
    pytest.param(lambda: setattr(Gradient(), "api_key", BAD), id="an attribute, without asyncio"),
    pytest.param(
        lambda: setattr(Gradient(), "default_headers", {"Authorization": BAD}), id="headers, without asyncio"
    ),
]


@pytest.mark.parametrize("make", REFUSED)
def test_options_that_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make()
    assert MIDDLE not in everything_shown(caught.value)


HEADERS: Any = {"extra_headers": {"Authorization": f"Bearer {KEY}"}}
MISUSED: dict[str, Callable[[Any], Any]] = {
    "fan_out": lambda chat: chat.fan_out(n=0, **CALL, **HEADERS),
    "fan_out, native": lambda chat: chat.fan_out(n=1, native=7, **CALL, **HEADERS),
    "map": lambda chat: chat.map([], max_concurrency=0, **HEADERS),
    "map of no requests": lambda chat: chat.map(5, **HEADERS),
    "stream of no type": lambda chat: chat.stream(response_format=object(), **CALL, **HEADERS),
    "fan_out of no type": lambda chat: chat.fan_out(n=1, response_format=object(), **CALL, **HEADERS),
    "map of no type": lambda chat: chat.map([], response_format=object(), **HEADERS),
    "a list of headers": lambda chat: chat.fan_out(n=1, **CALL, extra_headers=[KEY]),
}


@pytest.mark.parametrize("call", MISUSED)
def test_calls_that_are_misused(call: str) -> None:
    with pytest.raises((TypeError, ConfigurationError, InvalidRequestError)) as caught:
        MISUSED[call](AsyncGradient(api_key="k").chat.completions)
    assert MIDDLE not in everything_shown(caught.value)


async def test_a_list_of_headers() -> None:
    headers: Any = [("Authorization", KEY)]
    with pytest.raises(TypeError, match=r"^extra_headers: expected a dict, not list$") as caught:
        await AsyncGradient(api_key="k").chat.completions.create(**CALL, extra_headers=headers)
    del headers
    assert MIDDLE not in everything_shown(caught.value)


def test_a_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", BAD)
    with pytest.raises(ConfigurationError) as caught:
        AsyncGradient()
    assert MIDDLE not in everything_shown(caught.value)


@pytest.mark.parametrize(
    ("options", "params"),
    [
        pytest.param({"model_access_key": KEY}, {}, id="key"),
        pytest.param({}, {"extra_headers": {"authorization": f"Bearer {KEY}"}}, id="header of a call"),
        pytest.param({"default_headers": {"X-Api-Key": KEY}}, {}, id="header of all calls"),
    ],
)
@pytest.mark.parametrize(
    ("reply", "stream"),
    [
        (reply_json({"error": {"message": f"bad key {KEY}", "code": KEY}}, 401, {"x-key": KEY}), False),
        (reply_json({"error": {"message": "x" * 480 + KEY}}, 401), False),
        (reply_json({"error": {"message": "x" * 480 + KEY}}, 401), True),
        (reply_json({"choices": KEY}, 200, {"x-request-id": KEY}), False),
        (reply_sse(chunk("a"), done=False, headers={"x-request-id": KEY}), True),
        (reply_sse(chunk("a"), {"error": {"message": "x" * 480 + KEY}}), True),
        (reply_bytes(b"<html>", 200, {"content-type": f"{'x' * 60}/{KEY}"}), True),
        (reply_bytes(b"", 200, {"content-encoding": f"{'x' * 60}{KEY}"}), False),
        (reply_bytes(b"", 307, {"location": f"https://{KEY}.example/"}), False),
        (reply_json({"error": {"message": KEY}}), False),
        (reply_json({"error": {"message": KEY}}), True),
        (reply_sse(chunk("a"), {"error": {"message": f"no {KEY}"}}), True),
        (reply_sse(chunk("a"), "{bad " + KEY + "}"), True),
        (reply_bytes(f"<html>{KEY}".encode(), 200, {"content-type": "text/html"}), True),
        (reply_json({}, 307, {"location": f"https://elsewhere/?key={KEY}"}), False),
        (reply_bytes(b"", 200, {"content-encoding": KEY}), True),
    ],
)
async def test_a_key_that_a_server_echoes(
    start: Start, options: dict[str, Any], params: dict[str, Any], reply: Any, *, stream: bool
) -> None:
    _, client = await start(reply, **options)
    with pytest.raises(GradientError) as caught:
        if stream:
            await (await open_stream(client, **params)).completion()
        else:
            await create_completion(client, **params)
    assert isinstance(caught.value, APIError)
    assert MIDDLE not in everything_shown(caught.value)
    assert KEY[:14] not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        reply_sse(chunk("a"), done=False, headers={"x-request-id": KEY}),
        reply_sse(chunk("a"), {"error": {"message": KEY}}, headers={"x-request-id": KEY}),
        reply_json({"error": {"message": KEY}}, 401, {"x-request-id": KEY}),
    ],
)
async def test_a_key_that_a_server_echoes_to_a_fan_out(start: Start, reply: Any) -> None:
    _, client = await start(reply, reply, model_access_key=KEY, max_retries=0)
    with pytest.raises(FanOutError) as caught:
        async with client.chat.completions.fan_out(n=2, **CALL) as fan:
            await fan.completion()
    for error in (caught.value, *caught.value.exceptions):
        assert MIDDLE not in "".join([str(error), repr(error), repr(vars(error)), repr(pickle.dumps(error))])


@pytest.mark.parametrize(
    "options",
    [
        {"model_access_key": "My Own Secret Key"},
        {"default_headers": {"Authorization": "Bearer My Own Secret Key"}},
        {"default_headers": {"authorization": "My Own Secret Key"}},
        {"default_headers": {"X-Api-Key": "My Own Secret Key"}},
    ],
)
async def test_a_key_with_spaces_is_taken_out_as_a_whole(start: Start, options: dict[str, Any]) -> None:
    """No word of it stays where a server echoes the key, or the header that holds it."""
    sent = options.get("default_headers", {"Authorization": "Bearer My Own Secret Key"})
    (header,) = sent.values()
    server, client = await start(
        reply_json({"error": {"message": f"bad key My Own Secret Key, sent as {header}"}}, 401), **options
    )
    with pytest.raises(APIError) as caught:
        await create_completion(client)
    assert header in server.requests[0].headers.values()
    assert "bad key My …Key, sent as " in str(caught.value)
    assert "Own" not in everything_shown(caught.value)
    assert "Secret" not in str(caught.value)


async def test_a_client_shows_no_key(start: Start) -> None:
    server, client = await start(model_access_key=KEY)
    await create_completion(client)
    assert server.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert repr(client).startswith("<AsyncGradient http://127.0.0.1:")
    assert MIDDLE not in repr(vars(client))


MUCH = KEY[: len(KEY) // 2 + 1] * 80_000  # more than a megabyte of half a key
LARGE: list[Any] = [
    pytest.param(reply_bytes(MUCH.encode(), 200, {"content-type": "application/json"}), False, id="no JSON"),
    pytest.param(reply_json({"choices": MUCH}), False, id="another shape"),
    pytest.param(reply_json({"choices": MUCH}), True, id="another shape of a stream"),
    pytest.param(reply_json({"error": {"message": MUCH}}), False, id="an error"),
    pytest.param(reply_json({"error": {"message": MUCH}}), True, id="an error in place of a stream"),
    pytest.param(reply_json({"error": {"message": "m", "x": [MUCH[:17]] * 60_000}}), False, id="a list"),
    pytest.param(reply_json({"error": {"message": "m", MUCH: {MUCH: MUCH}}}, 500), False, id="a status"),
    pytest.param(reply_sse(chunk("a"), {"error": {"message": MUCH}}), True, id="an event"),
    pytest.param(
        reply_sse(chunk("a"), {"error": {"message": "m", "x": [MUCH[:17]] * 60_000}}),
        True,
        id="a list in an event",
    ),
    pytest.param(reply_sse(chunk("a"), "{" + MUCH), True, id="an event that is no JSON"),
    pytest.param(
        reply_writes([head(headers={"content-length": "9999999"}) + MUCH.encode(), CLOSE]),
        False,
        id="a body that is cut",
    ),
]


@pytest.mark.parametrize(("reply", "stream"), LARGE)
async def test_an_error_holds_no_more_than_can_be_searched_for_keys(
    start: Start, reply: Any, *, stream: bool
) -> None:
    """The beginning of a large body, as of the body of any error; it took minutes to search all of it."""
    _, client = await start(reply, model_access_key=KEY, max_retries=0)
    with pytest.raises(APIError) as caught:
        await ((await open_stream(client)).completion() if stream else create_completion(client))
    error = caught.value
    body = error.body if isinstance(error.body, str) else json.dumps(error.body)
    assert len(body) <= 64 * 1024
    assert error.response is not None
    assert len(error.response.content) <= 64 * 1024
    assert KEY[:14] not in f"{error}{body}{error.response.content!r}"


async def test_how_much_an_error_holds_can_be_set(start: Start) -> None:
    """Only the beginning of a body, or its JSON as long as its text is not longer."""
    limits = Limits(error_body_bytes=100)
    reply = {"error": {"message": "m", "list": [1, "é", None]}}
    _, client = await start(reply_json(reply), reply_json(reply | {"x": "y" * 100}), limits=limits)
    with pytest.raises(APIError) as caught:
        await create_completion(client)
    assert reply == caught.value.body
    with pytest.raises(APIError) as caught:
        await create_completion(client)
    assert '{"error": {"message": "m", "list": [1, "é", null]}, "x": "' + "y" * 42 == caught.value.body
    assert caught.value.response is not None
    assert 100 == len(caught.value.response.content)
