"""The JSON and the headers of replies: what the server sent and the fields of completions do not show."""

from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from client_calls import CALL, MESSAGES, Start, create_completion, open_stream

from gradient_async import (
    CallInfo,
    ChatCompletion,
    Hook,
    Limits,
    StreamInterruptedError,
    StreamLimitError,
)
from gradient_async.testing import chunk, completion, reply_bytes, reply_json, reply_sse
from gradient_async.types import Headers

HEADERS = {"x-model-router-selected-route": "cheap"}
SENT = completion("a", citations=["x"], provider=None)
REPLY = reply_json(SENT, headers=HEADERS)
STREAM = [
    chunk("a", role="assistant", obfuscation="z"),
    chunk("b", obfuscation="zz"),
    chunk(finish_reason="stop"),
]


async def test_an_awaited_reply_has_its_json_and_headers(start: Start) -> None:
    _, client = await start(REPLY)
    found = await create_completion(client)
    assert "cheap" == found.headers["X-Model-Router-Selected-Route"]
    assert SENT == found.body
    assert "citations" not in found.to_dict()
    assert "citations" not in repr(found)
    again: ChatCompletion = pickle.loads(pickle.dumps(found))  # noqa: S301  # our own
    assert (found, SENT, found.headers) == (again, again.body, again.headers)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"choices":[{"message":{"content":"a"}}],"id":5}', {"choices": [{"message": {"content": "a"}}], "id": 5}),
        (b'{"choices":[{"text":"a"}],"x":NaN}', {"choices": [{"text": "a"}], "x": None}),
        (b'{"choices":[{"message":{"content":"a\xff"}}]}', {"choices": [{"message": {"content": "a\ufffd"}}]}),
    ],
)  # fmt: skip
async def test_the_json_of_a_reply_in_another_shape(start: Start, content: bytes, expected: Any) -> None:
    """It is what the server sent, before it was repaired, and can be written again."""
    _, client = await start(reply_bytes(content, 200, {}, "application/json"))
    found = await create_completion(client)
    assert (found.choices[0].message.content or "").startswith("a")
    assert expected == found.body


async def test_a_stream_that_was_not_asked_for_has_the_json_of_its_completion(start: Start) -> None:
    _, client = await start(reply_sse(*STREAM, headers=HEADERS))
    found = await create_completion(client)
    assert found.to_dict() == found.body
    assert "cheap" == found.headers["x-model-router-selected-route"]


async def test_raw_response_and_map(start: Start) -> None:
    _, client = await start(REPLY, REPLY)
    response = await client.chat.completions.with_raw_response.create(model="m", messages=MESSAGES)
    assert SENT == (await response.parse()).body
    async for result in client.chat.completions.map([CALL]):
        found = result.unwrap()
        assert (SENT, "cheap") == (found.body, found.headers["x-model-router-selected-route"])


async def test_hooks_see_the_json(start: Start) -> None:
    seen: list[Any] = []

    class Watch(Hook):
        def on_end(self, call: CallInfo) -> None:
            assert call.completion is not None
            seen.append(call.completion.body)

    _, client = await start(REPLY, hooks=[Watch()])
    await create_completion(client)
    assert [SENT] == seen


@pytest.mark.parametrize("native", [False, True])
async def test_a_fan_out_of_awaited_replies(start: Start, *, native: bool) -> None:
    """Each result has the JSON and the headers of the reply that has its choice."""
    two = completion("a", citations=["x"])
    two["choices"].append({**two["choices"][0], "index": 1})
    sent = two if native else SENT
    _, client = await start(*[reply_json(sent, headers=HEADERS)] * (1 if native else 2))
    async with client.chat.completions.fan_out(
        n=2, stream=False, native=native, model="m", messages=MESSAGES
    ) as fan:
        assert [(None, Headers())] * 2 == [(result.body, result.headers) for result in fan.results]
        assert [sent] * (1 if native else 2) == [piece.body async for piece in fan]
        for result in fan.results:
            assert (sent, "cheap") == (result.body, result.headers["x-model-router-selected-route"])
            assert "citations" not in repr(result)
        assert None is (await fan.completion()).body


async def test_a_fan_out_of_streams(start: Start) -> None:
    _, client = await start(*[reply_sse(*STREAM, headers=HEADERS)] * 2, keep_body=True)
    async with client.chat.completions.fan_out(n=2, model="m", messages=MESSAGES) as fan:
        bodies = [piece.body async for piece in fan]
    for expected in STREAM:
        assert 2 == bodies.count(expected)
    assert ["cheap"] * 2 == [each.headers["x-model-router-selected-route"] for each in fan.results]


async def test_chunks_have_their_json_if_it_is_asked_for(start: Start) -> None:
    """With the setting of the client, which its copies share."""
    _, client = await start(*[reply_sse(*STREAM, headers=HEADERS)] * 5)
    for asked, each in (
        (False, client),
        (True, client.with_options(keep_body=True)),
        (True, client.with_options(keep_body=True).with_options(timeout=5)),
        (False, client.with_options(keep_body=True).copy(keep_body=False)),
    ):
        assert asked == each.keep_body
        stream = await open_stream(each)
        bodies = [piece.body async for piece in stream]
        assert (STREAM if asked else [None] * 3) == bodies
        whole = await stream.completion()
        assert (None, "cheap") == (whole.body, whole.headers["x-model-router-selected-route"])
        assert "ab" == whole.choices[0].message.content
    client.keep_body = True
    async with client.chat.completions.stream(**CALL) as opened:
        events = [event.chunk.body async for event in opened.events() if event.type == "chunk"]
    assert STREAM == events


async def test_a_whole_completion_in_place_of_a_stream(start: Start) -> None:
    _, client = await start(REPLY, REPLY)
    for keep_body in (True, False):
        stream = await open_stream(client.with_options(keep_body=keep_body))
        assert [SENT if keep_body else None] == [piece.body async for piece in stream]
        assert stream.was_buffered


async def test_readers_of_single_choices(start: Start) -> None:
    """A chunk of several choices has its JSON in each of its parts; waiting chunks are not merged, and keep theirs."""
    both = chunk("a", obfuscation="z")
    both["choices"].append({**both["choices"][0], "index": 1})
    texts = [chunk("t", obfuscation=str(number)) for number in range(100)]
    ends = [chunk(finish_reason="stop", index=index) for index in (0, 1)]
    _, client = await start(reply_sse(both, *texts, *ends), keep_body=True)
    stream = await open_stream(client, n=2)
    first, second = stream.choice(0), stream.choice(1)
    assert [both, ends[1]] == [piece.body async for piece in second]
    assert [both, *texts, ends[0]] == [piece.body async for piece in first]


async def test_waiting_chunks_count_their_json(start: Start) -> None:
    texts = [chunk("t", obfuscation="z" * 10_000) for _ in range(20)]
    last = chunk(finish_reason="stop", index=1)
    for keep_body in (False, True):
        _, client = await start(
            reply_sse(chunk("a"), *texts, last, chunk(finish_reason="stop")),
            keep_body=keep_body,
            limits=Limits(buffered_bytes=100_000),
        )
        stream = await open_stream(client, n=2)
        slow = stream.choice(0)
        assert 1 == len([piece async for piece in stream.choice(1)])
        if not keep_body:
            assert [piece async for piece in slow]
            continue
        with pytest.raises(StreamLimitError) as raised:
            [piece async for piece in slow]
        assert raised.value.partial is not None
        assert Headers() == raised.value.partial.headers


async def test_the_partial_of_an_error_has_no_headers(start: Start) -> None:
    """A server may echo a key there; the headers of `error.response` have none."""
    key = "model-key-0123"
    wire = reply_bytes(b"data: " + json.dumps(chunk("a")).encode() + b"\n\n", 200, {"x-echo": key, "content-length": "500"}, "text/event-stream")  # fmt: skip
    _, client = await start(wire)
    stream = await open_stream(client)
    assert key == stream.snapshot.headers["x-echo"]
    with pytest.raises(StreamInterruptedError) as raised:
        await stream.completion()
    error = raised.value
    assert error.partial is not None
    assert ("a", Headers()) == (error.partial.choices[0].message.content, error.partial.headers)
    assert error.response is not None
    assert key not in error.response.headers["x-echo"]
