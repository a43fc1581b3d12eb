"""Every way to read a stream whose events are alike but for their text, changed in the middle of a run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from client_calls import CALL, Start, open_stream

from gradient_async import ChatCompletionStream, Limits, StreamLimitError
from gradient_async.decoding import ChunkDecoder
from gradient_async.stream.timing import Content
from gradient_async.testing import Handler, chunk, head, reply_writes, sse
from gradient_async.types import TextBatch

TEXTS = [f"<{n}>" if n % 5 else "" for n in range(60)]
TEXT = "".join(TEXTS)
HEAD = head(200, {"content-type": "text/event-stream", "connection": "close"})


def reply(name: str = "content", index: int = 0) -> Handler:
    """Send two events, then the run in one write, larger than what is decoded at once, then the end."""
    deltas: list[dict[str, Any]] = [{name: content} for content in ("", "first", *TEXTS)]
    empty, first, *others = (chunk(index=index, **fields) for fields in deltas)
    begin, run = sse(empty, first, done=False), sse(*others, done=False)
    decoder = ChunkDecoder()
    decoder.feed(begin)
    decoder.push(run)
    assert isinstance(decoder.decode_slice(), TextBatch)
    assert len(run) > 8000
    return reply_writes([HEAD + begin, 0.02, run, 0.02, sse(chunk(finish_reason="stop", index=index))])


def text_of(data: bytes) -> str:
    """The text in the bytes of whole events."""
    chunks = ChunkDecoder().feed(data)
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


async def by_chunk(stream: ChatCompletionStream) -> str:
    return (await anext(stream)).choices[0].delta.content or ""


async def by_text(stream: ChatCompletionStream) -> str:
    return await anext(stream.text)


async def by_event(stream: ChatCompletionStream) -> str:
    """The next chunk by its event; the others of it are left to who made them."""
    event = await anext(stream.events())
    assert event.type == "chunk"
    return event.chunk.choices[0].delta.content or ""


def snapshot_text(stream: ChatCompletionStream) -> str:
    """The text of the snapshot."""
    choices = stream.snapshot.choices
    return (choices[0].message.content or "") if choices else ""


Way = Callable[[ChatCompletionStream], Awaitable[str]]


async def test_ways_to_read_change_in_the_middle_of_a_run(start: Start) -> None:
    """Nothing is lost or told twice, and the snapshot is what was read, at any time."""
    server, client = await start()
    dice = random.Random(5)
    for _ in range(6):
        server.push(reply())
        stream = await open_stream(client)
        seen = ""
        ways: list[Way] = [by_chunk, by_text, by_event]
        while len(seen) < 100:
            seen += await dice.choice(ways)(stream)
            if dice.random() < 0.5:
                assert seen == snapshot_text(stream)
        assert "first" + TEXT != seen
        assert stream.id
        seen += "".join([text async for text in stream.text])
        assert seen == "first" + TEXT == snapshot_text(stream)
        assert stream.completed


@pytest.mark.parametrize(("texts", "chunks"), [(0, 1), (1, 0), (1, 1), (3, 2), (47, 1), (48, 0)])
@pytest.mark.parametrize("then", [by_text, by_chunk])
async def test_whatever_was_read_before(start: Start, texts: int, chunks: int, then: Way) -> None:
    """Text, then chunks of the same batch, then either: the next one is the very next."""
    _, client = await start(reply())
    stream = await open_stream(client)
    seen = await by_chunk(stream)
    for _ in range(texts):
        seen += await by_text(stream)
    for _ in range(chunks):
        seen += await by_chunk(stream)
    assert seen == snapshot_text(stream)
    with pytest.raises(StopAsyncIteration):
        while True:
            seen += await then(stream)
    assert "first" + TEXT == seen == snapshot_text(stream)


async def test_the_rest_of_a_run_is_in_the_completion(start: Start) -> None:
    _, client = await start(reply())
    async with client.chat.completions.stream(**CALL) as stream:
        assert ["first", "<1>"] == [await by_text(stream), await by_text(stream)]
        whole = await stream.completion()
    assert "first" + TEXT == whole.choices[0].message.content


@pytest.mark.parametrize("late", [False, True])
async def test_a_choice_asked_for_in_the_middle_of_a_run(start: Start, late: bool) -> None:
    """Its reader gets what the cursor has not passed, and so does who reads the whole stream."""
    _, client = await start(reply())
    stream = await open_stream(client)
    seen = await by_text(stream) + await by_text(stream)
    if late:
        seen += await by_chunk(stream)
    choice = stream.choice(0)
    rest = "".join([piece async for piece in choice.text])
    own = "".join([piece async for piece in stream.text])
    assert "first" + TEXT == seen + rest == seen + own == snapshot_text(stream)


async def test_a_choice_asked_for_by_another_task_while_text_is_awaited(start: Start) -> None:
    _, client = await start(reply())
    stream = await open_stream(client)
    assert "first" == await by_text(stream)
    waiting = asyncio.create_task(by_text(stream))
    await asyncio.sleep(0)
    rest = "".join([piece async for piece in stream.choice(0).text])
    assert TEXT == rest
    assert "<1>" == await waiting
    assert TEXT.removeprefix("<1>") == "".join([piece async for piece in stream.text])


async def test_two_tasks_share_a_run_as_text_and_as_chunks(start: Start) -> None:
    """Also when one of them is cancelled on the way: what it has not returned is the other's."""
    _, client = await start(reply())
    stream = await open_stream(client)
    seen: list[str] = []

    async def read(way: Way) -> None:
        while True:
            try:
                seen.append(await way(stream))
            except StopAsyncIteration:
                return
            await asyncio.sleep(0)

    tasks = [asyncio.create_task(read(way)) for way in (by_text, by_chunk, by_text)]
    await asyncio.sleep(0.001)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert "first" + TEXT == "".join(seen) == snapshot_text(stream)


@pytest.mark.parametrize(("name", "index"), [("reasoning_content", 0), ("content", 1)])
async def test_what_is_no_text_of_choice_0_is_not_told_as_such(start: Start, name: str, index: int) -> None:
    server, client = await start(reply(name, index))
    stream = await open_stream(client, n=1 + index)
    assert [] == [piece async for piece in stream.text]
    message: Any = stream.snapshot.choices[0].message
    assert "first" + TEXT == getattr(message, name)
    server.push(reply(name, index))
    again = await open_stream(client, n=1 + index)
    pieces = [getattr(piece.choices[0].delta, name) async for piece in again]
    assert ["", "first", *TEXTS, None] == pieces


async def test_a_limit_in_a_run_leaves_all_that_was_received_in_partial(start: Start) -> None:
    """It is raised by the read after the piece that is too much, whichever way the run is read."""
    for way in (by_text, by_chunk):
        _, client = await start(reply(), limits=Limits(completion_bytes=20))
        stream = await open_stream(client)
        seen = ""
        with pytest.raises(StreamLimitError) as caught:
            while True:
                seen += await way(stream)
        assert caught.value.partial is not None
        assert "first" + TEXT == seen == caught.value.partial.choices[0].message.content


async def test_a_chunk_may_be_changed_without_touching_the_others(start: Start) -> None:
    _, client = await start(reply())
    stream = await open_stream(client)
    seen = await by_chunk(stream) + await by_text(stream)
    async for piece in stream:
        seen += piece.choices[0].delta.content or ""
        piece.choices.clear()
    assert "first" + TEXT == seen


@pytest.mark.parametrize("called", [True, False])
def test_a_run_is_a_sign_of_life_where_its_chunks_are(called: bool) -> None:
    """Empty pieces are none, whether of text or of a call."""

    def piece(text: str) -> Any:
        fields: dict[str, Any] = {"content": text}
        if called:
            fields = {"tool_calls": [{"index": 0, "function": {"arguments": text}}]}
        return chunk(**fields)

    decoder = ChunkDecoder()
    decoder.feed(sse(piece("a"), piece("a"), done=False))
    decoder.push(sse(piece(""), piece(""), done=False))
    run = decoder.decode_slice()
    assert isinstance(run, TextBatch)
    assert (False, False) == (Content().is_in(run), Content().is_in(list(run)))
    decoder.push(sse(piece(""), piece("b"), done=False))
    run = decoder.decode_slice()
    assert isinstance(run, TextBatch)
    assert (True, True) == (Content().is_in(run), Content().is_in(list(run)))
