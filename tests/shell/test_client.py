"""The client's surface: settings, what goes out, resources, raw responses."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
from typing import Any

import aiohttp
import pytest
from shell_calls import CALL, MESSAGES, Start, ask, streamed

import gradient_async
from gradient_async import (
    NOT_GIVEN,
    APIResponseValidationError,
    APIStatusError,
    AsyncGradient,
    ConfigurationError,
    InvalidRequestError,
    Limits,
    Retry,
    Timeout,
    omit,
)
from gradient_async.testing import (
    CLOSE,
    Request,
    chunk,
    completion,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
    serve,
)

STREAMED: dict[str, Any] = {**CALL, "stream": True}


async def sent(start: Start, options: dict[str, Any] | None = None, **params: Any) -> Request:
    """Return the request that a call sends."""
    server, client = await start(reply_json(completion()), **(options or {}))
    await client.chat.completions.create(**(CALL | params))
    return server.requests[0]


async def test_create_sends_exactly_what_is_given(start: Start) -> None:
    request = await sent(start, temperature=0.5, stop=NOT_GIVEN, seed=omit, max_tokens=None)
    assert {**CALL, "temperature": 0.5, "max_tokens": None} == request.json
    assert (request.method, request.path, request.query) == ("POST", "/v1/chat/completions", {})
    assert request.headers["authorization"] == "Bearer model-key-0123"
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["user-agent"].startswith("gradient_async/")


async def test_a_stream_asks_for_a_stream_and_for_usage(start: Start) -> None:
    server, client = await start()
    async with client.chat.completions.stream(**CALL):
        pass
    async with client.chat.completions.stream(**CALL, stream_options={"include_usage": False}):
        pass
    async with await streamed(client):
        pass
    bodies = [request.json for request in server.requests]
    assert {**CALL, "stream": True, "stream_options": {"include_usage": True}} == bodies[0]
    assert bodies[1]["stream_options"] == {"include_usage": False}
    assert {**CALL, "stream": True} == bodies[2]
    assert server.requests[2].headers["accept"] == "text/event-stream"
    with pytest.raises(TypeError, match="always streams"):
        client.chat.completions.stream(**STREAMED)


async def test_headers_query_and_body_can_be_added_to(start: Start) -> None:
    request = await sent(
        start,
        {"default_headers": {"X-One": "1", "User-Agent": "mine"}, "default_query": {"a": 1, "gone": None}},
        extra_headers={"authorization": "Bearer other", "x-two": 2, "accept": omit},
        extra_query={"flag": True},
        extra_body={"top_k": 5, "messages": [{"role": "odd"}]},
    )
    assert request.headers["authorization"] == "Bearer other"
    assert (request.headers["x-one"], request.headers["x-two"]) == ("1", "2")
    assert request.headers["user-agent"] == "mine"
    assert "accept" not in request.headers
    assert {"a": "1", "flag": "true"} == request.query
    assert request.json["top_k"] == 5
    assert request.json["messages"] == [{"role": "odd"}]


async def test_agents_have_their_own_url_and_key(start: Start) -> None:
    server, client = await start()
    got = await client.agents.chat.completions.create(messages=MESSAGES, include_retrieval_info=True)
    assert got.retrieval is not None
    async with client.agents.chat.completions.stream(messages=MESSAGES, k=3) as stream:
        assert (await stream.completion()).choices
    request = server.requests[0]
    assert (request.path, request.query) == ("/api/v1/chat/completions", {"agent": "true"})
    assert request.headers["authorization"] == "Bearer agent-key-0123"
    assert client.agent_endpoint == server.url


async def test_base_url_replaces_endpoint_and_version(start: Start) -> None:
    server, client = await start()
    other = client.with_options(base_url=server.url + "/")
    await ask(other)
    await other.agents.chat.completions.create(messages=MESSAGES)
    assert ["/chat/completions"] * 2 == [request.path for request in server.requests]
    assert {"agent": "true"} == server.requests[1].query


async def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serve() as server:
        monkeypatch.setenv("GRADIENT_INFERENCE_ENDPOINT", server.url)
        monkeypatch.setenv("GRADIENT_MODEL_ACCESS_KEY", "from-the-environment")
        async with AsyncGradient() as client:
            await ask(client)
        assert server.requests[0].headers["authorization"] == "Bearer from-the-environment"


async def test_a_missing_key_or_agent_is_an_error_of_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GRADIENT_MODEL_ACCESS_KEY", "DIGITALOCEAN_ACCESS_TOKEN", "GRADIENT_AGENT_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with AsyncGradient() as client:
        assert client.model_access_key is None
        assert client.agent_access_key is None
        with pytest.raises(ConfigurationError, match="GRADIENT_MODEL_ACCESS_KEY"):
            await ask(client)
        with pytest.raises(ConfigurationError, match="GRADIENT_AGENT_ACCESS_KEY"):
            await client.agents.chat.completions.create(messages=MESSAGES)
        other = client.with_options(agent_access_key="k")
        with pytest.raises(ConfigurationError, match="GRADIENT_AGENT_ENDPOINT"):
            await other.agents.chat.completions.create(messages=MESSAGES)
        with pytest.raises(ConfigurationError, match="agent_endpoint"):
            _ = client.agent_endpoint


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"http_client": object()}, TypeError, "session="),
        ({"max_retries": -1}, ConfigurationError, "max_retries=-1"),
        ({"max_retries": True}, ConfigurationError, "max_retries=True"),
        ({"max_connections": 0}, ConfigurationError, "max_connections=0"),
        ({"on_bad_event": "ignore"}, ConfigurationError, "on_bad_event='ignore'"),
        ({"timeout": "soon"}, ConfigurationError, "timeout='soon'"),
        ({"inference_endpoint": "http://example.com"}, ConfigurationError, "plain http"),
        ({"default_headers": {"x": "a\r\nb: c"}}, ConfigurationError, "line break"),
        ({"model_access_key": "sé"}, ConfigurationError, "visible ASCII"),
    ],
)
def test_options_that_can_not_be_used_are_refused(
    options: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        AsyncGradient(**options)


async def test_nothing_is_sent_that_is_known_to_be_wrong(start: Start) -> None:
    server, client = await start()
    create = client.chat.completions.create
    with pytest.raises(TypeError, match=r"'temprature'.*'temperature'"):
        await create(model="m", messages=MESSAGES, temprature=1)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # the mistake
    with pytest.raises(TypeError, match="'model'"):
        await create(messages=MESSAGES)  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]  # the mistake
    with pytest.raises(InvalidRequestError, match="temperature=3"):
        await create(model="m", messages=MESSAGES, temperature=3)
    with pytest.raises(ConfigurationError, match="header name"):
        await create(model="m", messages=MESSAGES, extra_headers={"a b": "c"})
    with pytest.raises(InvalidRequestError, match="JSON"):
        await create(model="m", messages=MESSAGES, extra_body={"x": object()})
    wrong: Any = [("x", "y")]
    for name in ("extra_headers", "extra_query", "extra_body"):
        call: dict[str, Any] = {name: wrong}
        with pytest.raises(TypeError, match=f"{name}: expected a dict, not list"):
            await create(model="m", messages=MESSAGES, **call)
    with pytest.raises(TypeError, match="extra_query: expected a dict, not list"):
        client.models.list(extra_query=wrong)
    assert [] == server.requests
    await client.with_options(validate=False).chat.completions.create(
        model="m", messages=MESSAGES, n=1, top_p=1.0, seed=2
    )
    assert len(server.requests) == 1


async def test_a_reply_is_a_message_of_the_next_request(start: Start) -> None:
    server, client = await start()
    first = await ask(client)
    messages = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "more"}]
    await client.chat.completions.create(model="m", messages=messages)
    assert {"role": "assistant", "content": first.choices[0].message.content} == server.requests[1].json[
        "messages"
    ][1]


async def test_models_can_be_awaited_and_iterated_over(start: Start) -> None:
    server, client = await start()
    listed = await client.models.list(extra_query={"page": 1}, timeout=5)
    assert [model.id for model in listed.data] == [model.id async for model in client.models.list()]
    assert (server.requests[0].method, server.requests[0].path) == ("GET", "/v1/models")
    assert {"page": "1"} == server.requests[0].query
    raw = await client.models.with_raw_response.list()
    assert listed == await raw.parse()
    assert listed == await (await client.with_raw_response.models.list()).parse()


async def test_a_list_of_models_that_is_none_is_an_error(start: Start) -> None:
    _, client = await start(reply_json({"data": "x"}), reply_json({"message": "no"}))
    with pytest.raises(APIResponseValidationError, match="no list named data"):
        await client.models.list()
    with pytest.raises(APIStatusError, match="no"):
        await client.models.list()


async def test_copies_share_connections_and_close_nothing(start: Start) -> None:
    server, client = await start(default_headers={"x-a": "1"}, default_query={"q": 1})
    copy = client.with_options(
        timeout=3,
        max_retries=5,
        retry=Retry(budget=1),
        limits=Limits(choices=2),
        strict=True,
        validate=False,
        on_bad_event="skip",
        default_headers={"x-b": "2"},
        set_default_query={"r": 2},
        api_key="another-key",
    )
    await ask(client)
    await ask(copy)
    await copy.close()
    assert not copy.is_closed()
    await client.copy(set_default_headers={"x-c": "3"}).chat.completions.create(model="m", messages=MESSAGES)
    assert server.connections == 1
    first, second, third = server.requests
    assert (second.headers["x-a"], second.headers["x-b"], second.query) == ("1", "2", {"r": "2"})
    assert ("x-a" in third.headers, third.headers["x-c"], first.query) == (False, "3", {"q": "1"})
    assert copy.timeout == Timeout.of(3)
    assert (copy.max_retries, copy.retry, copy.limits) == (5, Retry(budget=1), Limits(choices=2))
    assert (copy.strict, copy.validate, copy.on_bad_event) == (True, False, "skip")
    with pytest.raises(TypeError, match="session="):
        client.with_options(http_client=object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # the mistake


async def test_a_closed_client_says_so(start: Start) -> None:
    _, client = await start()
    await ask(client)
    await client.aclose()
    assert client.is_closed()
    with pytest.raises(ConfigurationError, match="has been closed"):
        await ask(client)


def test_keys_do_not_show() -> None:
    client = AsyncGradient(
        model_access_key="model-key-0123", agent_access_key="agent-key-0123", access_token="tok-en-0123"
    )
    shown = repr(client) + repr(vars(client)) + repr(vars(client).values())
    assert "0123" not in shown
    assert (client.model_access_key, client.agent_access_key) == ("model-key-0123", "agent-key-0123")
    assert client.base_url == "https://inference.do-ai.run/v1"
    assert client.inference_endpoint == "https://inference.do-ai.run"


async def test_a_raw_response_tells_which_http_it_came_by(start: Start) -> None:
    reply = reply_json(completion("Hi")).data
    _, client = await start(
        reply_writes([reply]), reply_writes([reply.replace(b"HTTP/1.1", b"HTTP/1.0", 1), CLOSE])
    )
    for version in ("HTTP/1.1", "HTTP/1.0"):
        response = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert version == response.http_version


async def test_raw_responses_have_status_headers_and_body(start: Start) -> None:
    _, client = await start(
        reply_json(completion("Hi"), headers={"x-request-id": "r1", "x-ratelimit-limit-requests": "7"})
    )
    response = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert (response.status_code, response.headers["x-request-id"], response.request_id) == (200, "r1", "r1")
    assert response.rate_limits is not None
    assert (response.method, response.http_version, response.retries_taken) == ("POST", "HTTP/1.1", 0)
    assert response.url == response.http_request.url
    assert response.elapsed.total_seconds() > 0
    assert response.is_closed
    assert (await response.json())["choices"][0]["message"]["content"] == "Hi"
    assert response.http_response.text == await response.text()
    assert [await response.read()] == [piece async for piece in response.iter_bytes()]
    parsed = await response.parse()
    assert parsed is await response.parse()
    assert parsed.choices[0].message.content == "Hi"
    assert "200" in repr(response)
    for resource in (client.with_raw_response.chat, client.chat.with_raw_response):
        assert (await (await resource.completions.create(model="m", messages=MESSAGES)).parse()).choices
    for agent in (client.with_raw_response.agents, client.agents.with_raw_response):
        assert (await (await agent.chat.completions.create(messages=MESSAGES)).parse()).choices
    assert (
        await client.agents.chat.completions.with_raw_response.create(messages=MESSAGES)
    ).status_code == 200
    stream = await (
        await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES, stream=True)
    ).parse()
    assert (await stream.completion()).choices


async def test_streaming_responses_are_read_by_the_caller(start: Start) -> None:
    server, client = await start()
    create = client.chat.completions.with_streaming_response.create
    async with create(model="m", messages=MESSAGES, stream=True) as response:
        lines = [line async for line in response.iter_lines()]
    assert lines[-2:] == ["data: [DONE]", ""]
    async with create(model="m", messages=MESSAGES, stream=True) as response:
        text = "".join([piece async for piece in response.iter_text(7)])
    assert text.split("\n")[:-1] == lines
    async with create(model="m", messages=MESSAGES) as awaited_response:
        pieces = [piece async for piece in awaited_response.iter_bytes(10)]
        assert {10} == {len(piece) for piece in pieces[:-1]}
    async with create(model="m", messages=MESSAGES, stream=True) as response:
        stream = await response.parse()
        assert (await stream.completion()).choices
    server.push(reply_sse(chunk("a"), end_delay=5))
    async with create(model="m", messages=MESSAGES, stream=True) as response:
        closed = [response.is_closed]
    assert [False, True] == [*closed, response.is_closed]
    for resource in (client.with_streaming_response.chat, client.chat.with_streaming_response):
        async with resource.completions.create(model="m", messages=MESSAGES) as awaited_response:
            assert (await awaited_response.parse()).choices
    agents = (client.with_streaming_response.agents.chat, client.agents.chat.with_streaming_response)
    for chat in agents:
        async with chat.completions.create(messages=MESSAGES) as awaited_response:
            assert (await awaited_response.parse()).choices
    async with client.agents.chat.completions.with_streaming_response.create(
        messages=MESSAGES
    ) as awaited_response:
        assert (await awaited_response.json())["choices"]
    async with await client.chat.completions.stream(**CALL) as awaited:
        assert (await awaited.completion()).choices


async def test_lines_and_text_of_a_body_without_a_last_line_end(start: Start) -> None:
    body = "één\r\ntwee".encode()
    _, client = await start(reply_bytes(body), reply_bytes(body[:-1] + b"\xc3"))
    async with client.chat.completions.with_streaming_response.create(
        model="m", messages=MESSAGES
    ) as response:
        assert ["één", "twee"] == [line async for line in response.iter_lines()]
    async with client.chat.completions.with_streaming_response.create(
        model="m", messages=MESSAGES
    ) as response:
        assert "één\r\ntwe\ufffd" == "".join([piece async for piece in response.iter_text(1)])


async def test_the_callers_own_session_is_used_and_never_closed() -> None:
    async with serve() as server, aiohttp.ClientSession() as session:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await ask(client)
        async with client.chat.completions.stream(**CALL) as stream:
            assert (await stream.completion()).choices
        await client.close()
        assert not session.closed
        closed = AsyncGradient(inference_endpoint=server.url, model_access_key="k", session=session)
        await session.close()
        with pytest.raises(ConfigurationError, match="session given to this client"):
            await ask(closed)


def test_a_client_made_at_import_time_works_in_every_loop_and_may_be_left_open() -> None:
    client = AsyncGradient(model_access_key="k")

    async def once() -> str | None:
        async with serve() as server:
            got = await ask(client.with_options(inference_endpoint=server.url))  # noqa: F821  # deleted later
            return got.choices[0].finish_reason

    assert ["stop", "stop"] == [asyncio.run(once()) for _ in range(2)]
    del client
    gc.collect()


async def test_a_client_dropped_in_a_running_loop_closes_its_connections() -> None:
    async with serve() as server:
        client = AsyncGradient(inference_endpoint=server.url, model_access_key="k")
        await ask(client)
        assert server.open_connections == 1
        gc.disable()
        try:
            del client
            await server.wait_closed_connections()
        finally:
            gc.enable()
        assert server.open_connections == 0


@pytest.mark.parametrize(
    "code", ["import gradient_async", "from gradient_async import AsyncGradient; AsyncGradient()"]
)
def test_importing_and_making_a_client_is_light(code: str) -> None:
    """Neither aiohttp, nor what only tests, the command line or one integration need is loaded."""
    heavy = {"aiohttp", "pydantic", "ray", "rich", "uvloop", "gradient_async.cli", "gradient_async.testing"}
    look = f"print(sorted({heavy} & (set(sys.modules) - before)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; before = set(sys.modules); {code}; {look}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_names_of_the_package() -> None:
    assert all(hasattr(gradient_async, name) for name in gradient_async.__all__)
    assert set(gradient_async.__all__) <= set(dir(gradient_async))
    assert gradient_async.AsyncClient is AsyncGradient
    with pytest.raises(AttributeError, match="no attribute 'Gradient'"):
        _ = getattr(gradient_async, "Gradient")  # noqa: B009  # the checkers know that it is not there
