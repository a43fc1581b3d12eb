"""Text, events, bytes and chunks share one cursor."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from shell_calls import CALL, Start, streamed

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
    stream = await streamed(client)
    assert WIRE == await take_raw(stream, 10**6)
    assert stream.completed
    assert stream.snapshot.choices[0].message.content == TEXT
    assert stream.timing.first_token is not None
    again = await streamed(client)
    await again.aclose()
    assert server.connections == 1


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [7, 250, 4000, 10**6])
async def test_text_goes_on_after_the_last_byte(start: Start, newline: bytes, size: int) -> None:
    """After any number of pieces of bytes, the text is that of all events whose end is not among them."""
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
    for pieces in (0, 1, 2, 5, 10**6):
        server.push(reply)
        stream = await streamed(client)
        text = text_of(await take_raw(stream, pieces))
        async for piece in stream.text:
            text += piece
        assert text == TEXT
        assert stream.completed
        assert stream.snapshot.choices[0].message.content == TEXT


@pytest.mark.parametrize("view", ["chunks", "text", "events"])
async def test_bytes_are_refused_once_anything_else_was_read(start: Start, view: str) -> None:
    """The refusal takes nothing out of the stream."""
    _, client = await start(reply_sse(*EVENTS, chunk(finish_reason="stop"), per_write=3))
    stream = await streamed(client)
    views: dict[str, Any] = {"chunks": stream, "text": stream.text, "events": stream.events()}
    await anext(views[view])
    for _ in range(2):
        with pytest.raises(TypeError, match="before anything else is read"):
            await anext(stream.raw)
    assert TEXT == (await stream.completion()).choices[0].message.content
    with pytest.raises(TypeError, match=r"stream\.raw"):
        await anext(stream.raw)


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
    stream = await streamed(client)
    data = await anext(stream.raw)
    assert b"boom" in data
    with pytest.raises(StreamServerError) as caught:
        await anext(stream.raw)
    assert caught.value.partial is not None
    assert caught.value.partial.choices[0].message.content == EVENTS[0]["choices"][0]["delta"]["content"]


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


async def test_bytes_are_refused_beside_a_reader_of_chunks(start: Start) -> None:
    async def reply(_request: Request, connection: Connection) -> None:
        await connection.write(
            head(200, {"content-type": "text/event-stream", "content-length": str(len(WIRE))})
        )
        await asyncio.sleep(0.05)
        await connection.write(WIRE)

    _, client = await start(reply)
    stream = await streamed(client)

    first, refused = await asyncio.gather(anext(stream), anext(stream.raw), return_exceptions=True)
    assert isinstance(refused, TypeError)
    assert not isinstance(first, BaseException)
    rest = "".join([piece async for piece in stream.text])
    assert TEXT == (first.choices[0].delta.content or "") + rest


async def test_what_goes_on_after_a_finish_reason_is_told_at_the_end(start: Start) -> None:
    _, client = await start(reply_sse(chunk("a", finish_reason="stop"), chunk("b")))
    async with client.chat.completions.stream(**CALL) as stream:
        events = stream.events()
        done = [event.content async for event in events if event.type == "content.done"]
        with pytest.raises(StopAsyncIteration):
            await anext(events)
    assert done == ["a", "ab"]
