"""Text, events, bytes and chunks share one cursor."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_calls import CALL, Start, open_stream

from gradient_async import ChatCompletionStream, StreamServerError
from gradient_async.decoding import ChunkDecoder
from gradient_async.testing import Connection, Request, chunk, head, reply_sse, sse

# Text of one, two, three and four bytes; one event longer than a slice of the decoder, so that cuts hit it.
EVENTS = [chunk("x" if n % 4 else "é" * (5000 if n == 8 else 3), index=0) for n in range(12)]
WIRE = sse(*EVENTS, chunk(finish_reason="stop"))
TEXT = "".join(str(event["choices"][0]["delta"]["content"]) for event in EVENTS)


def text_of(data: bytes) -> str:
    """The text in the bytes of whole events."""
    chunks = ChunkDecoder().feed(data)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def take_raw(stream: ChatCompletionStream, count: int) -> bytes:
    """Take so many pieces of bytes, or what there is."""
    pieces: list[bytes] = []
    raw = stream.raw
    while len(pieces) < count:
        try:
            pieces.append(await anext(raw))
        except StopAsyncIteration:
            break
    return b"".join(pieces)


async def test_bytes_are_relayed_as_received_and_assembled_all_the_same(start: Start) -> None:
    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(
            head(200, {"content-type": "text/event-stream", "content-length": str(len(WIRE))})
        )
        for at in range(0, len(WIRE), 1000):
            await connection.write(WIRE[at : at + 1000])
            await asyncio.sleep(0.001)

    server, client = await start(reply)
    stream = await open_stream(client)
    assert WIRE == await take_raw(stream, 10**6)
    assert stream.completed
    assert stream.snapshot.choices[0].message.content == TEXT
    assert stream.timing.first_token is not None
    again = await open_stream(client)
    await again.aclose()
    assert server.connections == 1


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [7, 250, 4000, 10**6])
async def test_text_goes_on_after_the_bytes(start: Start, newline: bytes, size: int) -> None:
    """After any number of pieces that were relayed, text goes on with the very next chunk."""
    wire = WIRE.replace(b"\n", newline)

    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(
            head(200, {"content-type": "text/event-stream", "content-length": str(len(wire))})
        )
        for at in range(0, len(wire), size):
            await connection.write(wire[at : at + size])
            if size > 100:
                await asyncio.sleep(0)

    server, client = await start()
    for pieces in (0, 1, 2, 3, 10**6):
        server.push(reply)
        stream = await open_stream(client)
        relayed = await take_raw(stream, pieces)
        assert wire.startswith(relayed)
        rest = "".join([piece async for piece in stream.text])
        assert TEXT.endswith(rest)
        assert stream.completed
        assert stream.snapshot.choices[0].message.content == TEXT
        if pieces == 10**6:
            assert (wire, "") == (relayed, rest)


@pytest.mark.parametrize("way", ["chunks", "text", "events", "completion", "a reader that waits"])
async def test_bytes_are_chosen_before_anything_else_is_read(start: Start, way: str) -> None:
    """What was decoded for another reader can't be relayed as it was received."""
    _, client = await start(reply_sse(*EVENTS))
    stream = await open_stream(client)
    waiting: list[asyncio.Task[Any]] = []
    if way == "chunks":
        await anext(stream)
    elif way == "text":
        await anext(stream.text)
    elif way == "events":
        await anext(stream.events())
    elif way == "completion":
        await stream.completion()
    else:
        waiting.append(asyncio.create_task(anext(stream)))
        await asyncio.sleep(0)
    with pytest.raises(TypeError, match="before anything else"):
        _ = stream.raw
    for task in waiting:
        task.cancel()
    await stream.aclose()


async def test_text_events_and_chunks_go_on_where_the_other_stopped(start: Start) -> None:
    _, client = await start(reply_sse(*EVENTS, chunk(finish_reason="stop"), per_write=3))
    async with client.chat.completions.stream(**CALL) as stream:
        seen = (await anext(stream)).choices[0].delta.content or ""
        seen += await anext(stream.text)
        kinds: list[str] = []
        async for event in stream.events():
            kinds.append(event.type)
            if event.type == "content.delta":
                seen += event.delta
                assert event.snapshot == seen
                if len(kinds) == 4:
                    break
        async for piece in stream.text:
            seen += piece
    assert kinds == ["chunk", "content.delta"] * 2
    assert seen == TEXT


async def test_text_is_that_of_choice_0_alone(start: Start) -> None:
    both = chunk("a")
    both["choices"].append(chunk("b", index=1)["choices"][0])
    _, client = await start(reply_sse(both, chunk("c", index=1), chunk("d"), chunk(""), done=True))
    async with client.chat.completions.stream(**CALL, n=2) as stream:
        assert ["a", "d"] == [piece async for piece in stream.text]


async def test_bytes_that_tell_an_error_come_before_it(start: Start) -> None:
    _, client = await start(reply_sse(EVENTS[0], {"error": {"message": "boom"}}, per_write=9))
    stream = await open_stream(client)
    data = await anext(stream.raw)
    assert b"boom" in data
    with pytest.raises(StreamServerError) as caught:
        await anext(stream.raw)
    assert caught.value.partial is not None
    assert caught.value.partial.choices[0].message.content == EVENTS[0]["choices"][0]["delta"]["content"]


def call(index: int, arguments: str | None, **more: Any) -> dict[str, Any]:
    """A fragment of a tool call."""
    function = {
        key: value
        for key, value in {"name": more.pop("name", None), "arguments": arguments}.items()
        if value is not None
    }
    return {"index": index, "function": function, **more}


def entry(token: str) -> dict[str, Any]:
    """A token's log probability."""
    return {"token": token, "logprob": -0.5, "bytes": None, "top_logprobs": []}


async def test_events_tell_everything_and_name_their_choice(start: Start) -> None:
    wire: list[dict[str, Any]] = [
        chunk(role="assistant", reasoning_content="hm"),
        chunk("Hel", logprobs={"content": [entry("Hel")], "refusal": None}),
        chunk("lo", index=1),
        chunk(refusal="no", index=2, logprobs={"content": None, "refusal": [entry("no")]}),
        chunk(tool_calls=[call(0, "", id="a", name="f"), call(1, '{"x', id="b", name="g")]),
        chunk(tool_calls=[call(1, '": 1'), call(1, "}"), call(0, None)]),
        chunk("lo!", logprobs={"content": [entry("lo!")], "refusal": None}, finish_reason="tool_calls"),
        chunk(finish_reason="stop", index=1),
        chunk(usage={"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}) | {"choices": []},
    ]
    _, client = await start(reply_sse(*wire))
    async with client.chat.completions.stream(**CALL, n=3) as stream:
        events = [event async for event in stream.events() if event.type != "chunk"]
    reported = [(event.type, event.choice) for event in events]
    assert reported == [
        ("reasoning.delta", 0),
        ("content.delta", 0),
        ("logprobs.content.delta", 0),
        ("content.delta", 1),
        ("refusal.delta", 2),
        ("logprobs.refusal.delta", 2),
        ("tool_calls.start", 0),
        ("tool_calls.start", 0),
        ("tool_calls.function.arguments.delta", 0),
        ("tool_calls.function.arguments.delta", 0),
        ("tool_calls.function.arguments.delta", 0),
        ("content.delta", 0),
        ("logprobs.content.delta", 0),
        ("reasoning.done", 0),
        ("content.done", 0),
        ("tool_calls.function.arguments.done", 0),
        ("tool_calls.function.arguments.done", 0),
        ("logprobs.content.done", 0),
        ("finish", 0),
        ("content.done", 1),
        ("finish", 1),
        ("usage", None),
        ("refusal.done", 2),
        ("logprobs.refusal.done", 2),
    ]
    # Snapshots are those of their moment, also when they are looked at later.
    snapshots: list[Any] = [getattr(event, "snapshot", None) for event in events]
    assert [snapshots[0], snapshots[1], snapshots[4], snapshots[11]] == ["hm", "Hel", "no", "Hello!"]
    assert [len(snapshots[at]) for at in (2, 5, 12)] == [1, 1, 2]
    deltas = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert [(event.id, event.name, event.index, event.arguments) for event in deltas] == [
        ("b", "g", 1, '{"x'),
        ("b", "g", 1, '{"x": 1'),
        ("b", "g", 1, '{"x": 1}'),
    ]
    assert {"x": 1} == deltas[-1].parsed_arguments
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [(event.id, event.arguments, event.parsed_arguments) for event in done] == [
        ("a", "", None),
        ("b", '{"x": 1}', {"x": 1}),
    ]
    usage = next(event for event in events if event.type == "usage")
    assert usage.usage.total_tokens == 3


async def test_a_chunk_event_knows_the_completion_so_far(start: Start) -> None:
    _, client = await start(reply_sse(chunk("a"), chunk("b"), chunk(finish_reason="stop")))
    async with client.chat.completions.stream(**CALL) as stream:
        first = await anext(stream.events())
        assert first.type == "chunk"
        assert first.snapshot.choices[0].message.content == "a"
        assert stream.snapshot == stream.snapshot


async def test_events_of_two_iterators_are_those_of_one_stream(start: Start) -> None:
    _, client = await start(reply_sse(chunk("a"), chunk("b", finish_reason="stop")))
    async with client.chat.completions.stream(**CALL) as stream:
        first = [(await anext(stream.events())).type]
        second = [event.type async for event in stream.events()]
    assert first + second == ["chunk", "chunk", "content.delta", "content.done", "finish"]


async def test_what_goes_on_after_a_finish_reason_is_told_at_the_end(start: Start) -> None:
    _, client = await start(reply_sse(chunk("a", finish_reason="stop"), chunk("b")))
    async with client.chat.completions.stream(**CALL) as stream:
        events = stream.events()
        done = [event.content async for event in events if event.type == "content.done"]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert done == ["a", "ab"]


async def test_text_goes_on_after_a_large_read(start: Start) -> None:
    """A read of many events is read as texts; events that are cut and come one by one after it are read as chunks."""
    pieces = [sse(chunk(f"{number} ")).removesuffix(b"data: [DONE]\n\n") for number in range(300)]

    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(head(200, {"content-type": "text/event-stream", "connection": "close"}))
        await connection.write(b"".join(pieces[:280]))
        for piece in pieces[280:]:
            for part in (piece[:20], piece[20:]):
                await asyncio.sleep(0.002)
                await connection.write(part)
        await connection.write(sse(chunk(finish_reason="stop")))

    _, client = await start(reply)
    stream = await open_stream(client)
    text = "".join([piece async for piece in stream.text])
    assert "".join(f"{number} " for number in range(300)) == text
    assert text == (await stream.completion()).choices[0].message.content
