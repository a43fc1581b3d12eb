"""`with_raw_response` and `with_streaming_response`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start

from gradient_async.client.raw import ResponseContext
from gradient_async.testing import (
    CLOSE,
    chunk,
    completion,
    reply_bytes,
    reply_json,
    reply_sse,
    reply_writes,
)


async def test_a_raw_response_tells_which_http_it_came_by(start: Start) -> None:
    reply = reply_json(completion("Hi")).data
    _, client = await start(
        reply_writes([reply]), reply_writes([reply.replace(b"HTTP/1.1", b"HTTP/1.0", 1), CLOSE])
    )
    for version in ("HTTP/1.1", "HTTP/1.0"):
        response = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
        assert version == response.http_version


async def test_raw_responses_have_status_headers_and_body(start: Start) -> None:
    reply = reply_json(completion("Hi"), headers={"x-request-id": "r1", "x-ratelimit-limit-requests": "7"})
    _, client = await start(reply_writes([0.01, *reply.steps]))
    response = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert (response.status_code, response.headers["x-request-id"], response.request_id) == (200, "r1", "r1")
    assert response.rate_limits is not None
    assert (response.method, response.http_version, response.retries_taken) == ("POST", "HTTP/1.1", 0)
    assert response.url == response.http_request.url
    sent = response.http_request.headers
    assert ("Bearer [key]", "application/json") == (sent["authorization"], sent["Content-Type"])
    assert "Bearer" not in repr(response.http_request)
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


async def test_pieces_are_of_the_size_asked_for(start: Start) -> None:
    """Whether the body is read as it arrives, or was read before."""
    body = bytes(range(256)) * 4000
    _, client = await start(reply_bytes(body), reply_bytes(body))
    create = client.chat.completions.with_streaming_response.create
    for read_before in (False, True):
        async with create(model="m", messages=MESSAGES) as response:
            if read_before:
                assert body == await response.read()
            pieces = [piece async for piece in response.iter_bytes(1000)]
        assert body == b"".join(pieces)
        assert {1000} == {len(piece) for piece in pieces}


async def test_options_of_a_raw_list_of_models_are_checked(start: Start) -> None:
    server, client = await start()
    wrong: Any = [("x", "y")]
    with pytest.raises(TypeError, match="extra_headers: expected a dict, not list"):
        await client.models.with_raw_response.list(extra_headers=wrong)
    assert [] == server.requests
    await client.models.with_raw_response.list(extra_headers={"X-A": "1"}, extra_query={"page": 2}, timeout=5)
    assert ("1", {"page": "2"}) == (server.requests[0].headers["x-a"], server.requests[0].query)


async def test_a_line_of_many_pieces_takes_linear_time(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece was once joined to all before it."""
    _, client = await start()
    line = ""

    async def pieces(_response: Any) -> AsyncIterator[str]:
        yield "a\r\n\n"
        for at in range(0, len(line), 7):
            yield line[at : at + 7]
        yield "\nb"

    create: Any = client.chat.completions.with_streaming_response.create
    context: ResponseContext[Any] = create(**CALL)
    async with context as response:
        monkeypatch.setattr(type(response), "iter_text", pieces)
        times: list[float] = []
        for size in (250_000, 250_000, 2_000_000):
            line = "x" * size
            began = time.thread_time()
            assert ["a", "", line, "b"] == [each async for each in response.iter_lines()]
            times.append(time.thread_time() - began)
    assert times[2] < 32 * min(times[:2])  # 8 times as much; 64 if it were quadratic
