"""Completions of models and agents: what is sent."""

from __future__ import annotations

from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion, open_stream

from gradient_async import (
    NOT_GIVEN,
    ConfigurationError,
    InvalidRequestError,
    omit,
)
from gradient_async.testing import (
    Request,
    completion,
    reply_json,
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
    async with await open_stream(client):
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
        extra_headers={"authorization": "Bearer other", "x-two": b"2", "accept": omit},
        extra_query={"flag": True, "id": [1, "b"], "none": []},
        extra_body={"top_k": 5, "messages": [{"role": "odd"}]},
    )
    assert request.headers["authorization"] == "Bearer other"
    assert (request.headers["x-one"], request.headers["x-two"]) == ("1", "2")
    assert request.headers["user-agent"] == "mine"
    assert "accept" not in request.headers
    assert request.target.endswith("?a=1&flag=true&id=1&id=b")
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
    first = await create_completion(client)
    messages = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "more"}]
    await client.chat.completions.create(model="m", messages=messages)
    assert {"role": "assistant", "content": first.choices[0].message.content} == server.requests[1].json[
        "messages"
    ][1]


async def test_map_and_fan_out_ask_streams_for_usage(start: Start) -> None:
    """Unless they are told otherwise; an awaited request has none of it."""
    server, client = await start()
    own: dict[str, Any] = {"stream_options": {"include_usage": False}}
    async with client.chat.completions.fan_out(n=2, **CALL) as fan:
        assert [0, 1] == [choice.index for choice in (await fan.completion()).choices]
    await client.chat.completions.fan_out(n=1, **CALL, **own).completion()
    await client.agents.chat.completions.fan_out(n=2, native=True, messages=MESSAGES).completion()
    await client.chat.completions.fan_out(n=1, stream=False, **CALL).completion()
    requests = [CALL, {**CALL, "stream": False}, {**CALL, **own}]
    results = client.chat.completions.map(requests, stream=True, max_concurrency=1)
    assert [None] * 3 == [result.error async for result in results]
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    assert [
        *[CALL | asked] * 2,
        CALL | asked | own,
        {"messages": MESSAGES, "n": 2} | asked,
        CALL,
        CALL | asked,
        CALL,
        CALL | asked | own,
    ] == [request.json for request in server.requests]
