"""The facts that the generated tests of ``gradient`` assert of the asynchronous chat completions of models and agents."""

from __future__ import annotations

from typing import Any

import pytest
from client_calls import Start
from sdk_clients import GRADIENT, Sdk, differs

from gradient_async import ChatCompletion, InvalidRequestError
from gradient_async.testing import Reply, chunk, completion, reply_json, reply_sse

CALL: dict[str, Any] = {
    "messages": [{"content": "string", "role": "system"}],
    "model": "llama3-8b-instruct",
}
EVERY: dict[str, Any] = {
    **CALL,
    "frequency_penalty": -2,
    "logit_bias": {"foo": 0},
    "logprobs": True,
    "max_completion_tokens": 256,
    "max_tokens": 0,
    "metadata": {"foo": "string"},
    "n": 1,
    "presence_penalty": -2,
    "stop": "\n",
    "stream_options": {"include_usage": True},
    "temperature": 1,
    "tool_choice": "none",
    "tools": [
        {
            "type": "function",
            "function": {"name": "name", "description": "description", "parameters": {"foo": "bar"}},
        }
    ],
    "top_logprobs": 0,
    "top_p": 1,
    "user": "user-1234",
}
WHOLE = reply_json(completion("Hi"))
LONG = reply_sse(chunk("H"), chunk("i", finish_reason="stop"), end_delay=5)

BOTH = pytest.mark.parametrize("path", ["chat", "agents.chat"])


def completions(client: Any, path: str) -> Any:
    """Return the completions of models, or of the agent."""
    for name in path.split("."):
        client = getattr(client, name)
    return client.completions


async def started(start: Start, sdk: Sdk, *replies: Reply, **options: Any) -> tuple[Any, Any]:
    """Return a server and a client, which the test closes."""
    server, _ = await start(*replies)
    return server, sdk.client(server.url, max_retries=0, **options)


@BOTH
@GRADIENT
async def test_method_create(start: Start, sdk: Sdk, path: str) -> None:
    """Awaited (``overload_1``) and streamed (``overload_2``, which is closed before its end)."""
    server, client = await started(start, sdk, WHOLE, LONG)
    async with client:
        done = await completions(client, path).create(**CALL)
        assert "Hi" == done.choices[0].message.content
        assert ("chat.completion", "assistant", "stop") == (
            done.object,
            done.choices[0].message.role,
            done.choices[0].finish_reason,
        )
        assert CALL == server.requests[-1].json
        stream = await completions(client, path).create(**CALL, stream=True)
        assert {**CALL, "stream": True} == server.requests[-1].json
        await stream.response.aclose()
        await server.wait_closed_connections(1)


@BOTH
@GRADIENT
async def test_method_create_with_all_params(start: Start, sdk: Sdk, path: str) -> None:
    """With ``validate=False`` everything is sent as it is, as by the peers."""
    options = {"validate": False} if sdk.package == "gradient_async" else {}
    server, client = await started(start, sdk, WHOLE, LONG, **options)
    async with client:
        done = await completions(client, path).create(**EVERY, stream=False)
        assert "Hi" == done.choices[0].message.content
        assert {**EVERY, "stream": False} == server.requests[-1].json
        stream = await completions(client, path).create(**EVERY, stream=True)
        assert {**EVERY, "stream": True} == server.requests[-1].json
        await stream.response.aclose()


@differs("`stream_options` without `stream=True`, and `max_tokens=0`, are sent")
@BOTH
async def test_method_create_with_all_params_checked(start: Start, path: str) -> None:
    """With the default, `validate=True`, all of them pass but two, which the API refuses."""
    server, client = await start(WHOLE, LONG)
    create = completions(client, path).create
    with pytest.raises(InvalidRequestError, match="max_tokens=0"):
        await create(**EVERY, stream=True)
    fewer = {name: value for name, value in EVERY.items() if name != "max_tokens"}
    with pytest.raises(InvalidRequestError, match=r"stream_options=.*requires stream=True"):
        await create(**fewer, stream=False)
    assert [] == server.requests
    stream_options = fewer.pop("stream_options")
    await create(**fewer, stream=False)
    stream = await create(**fewer, stream_options=stream_options, stream=True)
    await stream.close()
    assert 2 == len(server.requests)


@BOTH
@GRADIENT
async def test_raw_response_create(start: Start, sdk: Sdk, path: str) -> None:
    server, client = await started(start, sdk, WHOLE, LONG)
    async with client:
        create = completions(client, path).with_raw_response.create
        response = await create(**CALL)
        assert response.is_closed is True
        assert response.http_request.headers.get("Content-Type") == "application/json"
        done = await response.parse()
        assert "Hi" == done.choices[0].message.content
        response = await create(**CALL, stream=True)
        stream = await response.parse()
        await stream.close()
        await server.wait_closed_connections(1)


@BOTH
@GRADIENT
async def test_streaming_response_create(start: Start, sdk: Sdk, path: str) -> None:
    server, client = await started(start, sdk, reply_json(completion("Hi" * 100_000)), LONG)
    async with client:
        create = completions(client, path).with_streaming_response.create
        async with create(**CALL) as response:
            assert not response.is_closed
            assert response.http_request.headers.get("Content-Type") == "application/json"
            done = await response.parse()
            assert "Hi" * 100_000 == done.choices[0].message.content
        assert response.is_closed is True
        async with create(**CALL, stream=True) as response:
            assert not response.is_closed
            stream = await response.parse()
            await stream.close()
        assert response.is_closed is True
        await server.wait_closed_connections(1)


async def test_the_reply_has_its_type(start: Start) -> None:
    """The reply is of this library's class, and has all fields of the reference's."""
    _, client = await start(WHOLE)
    done = await completions(client, "chat").create(**CALL)
    assert isinstance(done, ChatCompletion)
    assert {"id", "choices", "created", "model", "object", "usage"} <= done.model_dump().keys()
