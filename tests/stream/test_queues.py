"""Choices read apart, by tasks that do not wait for each other."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from client_calls import MESSAGES, Start

from gradient_async import (
    ChatCompletionChunk,
    ChoiceDelta,
    ChunkChoice,
    CompletionUsage,
    Limits,
    StreamLimitError,
    StreamTruncatedError,
)
from gradient_async.decoding import ChunkDecoder
from gradient_async.stream import ChatCompletionStream
from gradient_async.stream.queues import ChunkQueue
from gradient_async.testing import Connection, Request, chunk, reply_sse, sse

CALL: dict[str, Any] = {"model": "m", "messages": MESSAGES, "n": 3}
WIRE = [
    *(chunk(f"{index}{turn} ", index=index) for turn in range(4) for index in (1, 0, 2)),
    *(chunk(index=index, finish_reason="stop") for index in range(3)),
]
TEXTS = ["".join(f"{index}{turn} " for turn in range(4)) for index in range(3)]


async def text_of(stream: ChatCompletionStream, index: int, pause: float = 0.0) -> str:
    """Read one choice's text."""
    text = ""
    async for piece in stream.choice(index):
        assert [index] == [choice.index for choice in piece.choices]
        text += piece.choices[0].delta.content or ""
        await asyncio.sleep(pause)
    return text


@pytest.mark.parametrize("per_write", [1, 4, 99])
@pytest.mark.parametrize("pauses", [(0, 0, 0), (0, 0.003, 0), (0.004, 0, 0.001)])
async def test_each_task_gets_its_choice_whole(
    start: Start, per_write: int, pauses: tuple[float, ...]
) -> None:
    _, client = await start(reply_sse(*WIRE, per_write=per_write, gap=0.001))
    async with client.chat.completions.stream(**CALL) as stream:
        texts = await asyncio.gather(*(text_of(stream, index, pause) for index, pause in enumerate(pauses)))
        assert texts == TEXTS
        assert TEXTS == [choice.message.content for choice in (await stream.completion()).choices]
        assert stream.completed


async def test_a_choice_never_seen_ends_empty_and_one_never_asked_for_is_assembled(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE))
    async with client.chat.completions.stream(**CALL) as stream:
        assert await text_of(stream, 7) == ""
        assert TEXTS == [choice.message.content for choice in stream.snapshot.choices]


async def test_one_asked_for_late_begins_with_what_it_missed(start: Start) -> None:
    """In one chunk, tool calls, log probabilities and all; what the cursor had passed is not repeated."""
    fragment = {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    second = {"index": 1, "id": "d", "type": "function", "function": {"name": "g", "arguments": ""}}
    entry: dict[str, Any] = {"token": "b", "logprob": -1.0, "bytes": None, "top_logprobs": []}
    wire = [
        chunk("seen ", index=1, role="assistant", tool_calls=[fragment]),
        chunk("x", index=0),
        chunk("missed", index=1, tool_calls=[rest, second], reasoning_content="r", refusal="s"),
        chunk(index=1, logprobs={"content": [entry], "refusal": [entry]}, finish_reason="stop"),
        chunk(index=0, finish_reason="stop"),
    ]
    _, client = await start(reply_sse(*wire))
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream)
        assert await text_of(stream, 0) == "x"
        (late,) = [piece async for piece in stream.choice(1)]
    choice = late.choices[0]
    assert (choice.delta.role, choice.delta.content, choice.finish_reason) == (None, "missed", "stop")
    assert (choice.delta.reasoning_content, choice.delta.refusal) == ("r", "s")
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert choice.logprobs.refusal is not None
    calls = choice.delta.tool_calls or []
    assert [(call.index, call.id, call.function.name, call.function.arguments) for call in calls] == [
        (0, None, None, ": 1}"),
        (1, "d", "g", ""),
    ]


async def test_one_asked_for_late_misses_no_field(start: Start) -> None:
    """Also those that few servers send."""

    def late(**delta: Any) -> dict[str, Any]:
        return chunk(choices=[{"index": 1, "delta": delta}])

    wire = [
        chunk("x", role="assistant"),
        late(annotations=[1], images=[{"a": 1}], content_parts=["p"], extra_content={"g": {"a": 1}}),
        late(audio={"id": "a", "data": "x"}, reasoning_details=[{"type": "t", "index": 0, "text": "a"}]),
        late(audio={"data": "y"}, reasoning_details=[{"type": "t", "index": 0, "text": "b"}]),
        late(annotations=[2], extra_content={"g": {"b": 2}}, function_call={"name": "f", "arguments": "{}"}),
        late(tool_calls=[{"index": 0, "custom": {"input": "i"}, "extra_content": {"c": 3}}]),
        *(chunk(index=index, finish_reason="stop") for index in range(2)),
    ]
    _, client = await start(reply_sse(*wire))
    async with client.chat.completions.stream(**CALL) as stream:
        assert await text_of(stream, 0) == "x"
        (missed,) = [piece async for piece in stream.choice(1)]
        expected = (await stream.completion()).choices[1].message
    delta = missed.choices[0].delta
    for name in ("annotations", "images", "content_parts", "extra_content", "audio", "reasoning_details"):
        assert getattr(expected, name) is not None
        assert getattr(expected, name) == getattr(delta, name)
    assert delta.function_call is not None
    assert ("f", "{}") == (delta.function_call.name, delta.function_call.arguments)
    (call,) = delta.tool_calls or []
    assert ({"input": "i"}, {"c": 3}) == (call.custom, call.extra_content)


@pytest.mark.parametrize("per_write", [1, 99])
@pytest.mark.parametrize("first", ["events", "choice"])
async def test_events_beside_readers_of_choices_show_their_moment(
    start: Start, per_write: int, first: str
) -> None:
    """The reader of the choice takes chunks of all; those of the reader of events wait in a queue."""
    calls = [("f", None), (None, '{"x"'), (None, ":1}"), ("g", "{"), (None, "}")]
    wire = [
        chunk("a"),
        *(
            chunk(tool_calls=[{"index": 0, "function": {"name": name, "arguments": text}}])
            for name, text in calls
        ),
        chunk("b", index=1),
        chunk("c"),
        *(chunk(index=index, finish_reason="stop") for index in range(2)),
    ]
    _, client = await start(reply_sse(*wire, per_write=per_write))
    async with client.chat.completions.stream(**CALL) as stream:
        events = stream.events() if first == "events" else None
        told = [await anext(events)] if events is not None else []
        one = stream.choice(1)
        told.append(await anext(events or stream.events()))
        assert "b" == "".join([piece.choices[0].delta.content or "" async for piece in one])
        told += [event async for event in events or stream.events()]
    deltas = [event for event in told if event.type == "tool_calls.function.arguments.delta"]
    assert [(0, '{"x"'), (0, '{"x":1}'), (1, "{"), (1, "{}")] == [
        (event.index, event.arguments) for event in deltas
    ]
    texts = [event.snapshot for event in told if event.type == "content.delta" and event.choice == 0]
    assert ["a", "ac"][-len(texts) :] == texts


async def test_the_same_index_again_goes_on_where_its_reader_stopped(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE, per_write=5))
    async with client.chat.completions.stream(**CALL) as stream:
        first = await anext(stream.choice(1))
        assert TEXTS[1] == (first.choices[0].delta.content or "") + await text_of(stream, 1)
        assert await text_of(stream, 1) == ""


async def test_a_choice_asked_for_when_nothing_more_came_has_nothing_to_catch_up(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE, per_write=99))
    async with client.chat.completions.stream(**CALL) as stream:
        for _ in WIRE:
            await anext(stream)
        assert ["", ""] == [await text_of(stream, index) for index in (0, 1)]


async def test_if_the_reader_is_cancelled_another_takes_over(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE, gap=0.005))
    async with client.chat.completions.stream(**CALL) as stream:
        tasks = [asyncio.create_task(text_of(stream, index)) for index in range(3)]
        await asyncio.sleep(0.012)
        tasks[0].cancel()
        assert TEXTS[1:] == await asyncio.gather(*tasks[1:])
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]
        rest = await text_of(stream, 0)
        assert TEXTS[0].endswith(rest)


async def test_an_error_reaches_every_reader(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE[:6], done=False))
    async with client.chat.completions.stream(**CALL) as stream:
        results = await asyncio.gather(
            *(text_of(stream, index) for index in range(3)), return_exceptions=True
        )
    assert [StreamTruncatedError] * 3 == [type(result) for result in results]


async def test_an_index_out_of_bounds_reaches_every_reader(start: Start) -> None:
    _, client = await start(reply_sse(chunk("a"), chunk("b", index=-3)))
    async with client.chat.completions.stream(**CALL) as stream:
        with pytest.raises(Exception, match="index -3"):
            await text_of(stream, 0)


async def test_the_whole_stream_can_be_read_beside_its_choices(start: Start) -> None:
    _, client = await start(reply_sse(*WIRE, per_write=2, gap=0.001), reply_sse(*WIRE, per_write=2))
    async with client.chat.completions.stream(**CALL) as stream:
        first = await anext(stream)

        async def whole() -> list[ChatCompletionChunk]:
            return [piece async for piece in stream]

        text, rest = await asyncio.gather(text_of(stream, 0), whole())
    assert text == TEXTS[0]
    assert len(WIRE) == len([first, *rest])
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream.choice(0))
        later = [piece async for piece in stream]
        assert 0 < len(later) < len(WIRE)


async def test_a_chunk_of_several_choices_is_taken_apart(start: Start) -> None:
    both = chunk("a", usage={"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2})
    both["choices"].append(chunk("b", index=1, finish_reason="stop")["choices"][0])
    _, client = await start(reply_sse(both, chunk(finish_reason="stop")))
    async with client.chat.completions.stream(**CALL) as stream:
        texts = await asyncio.gather(text_of(stream, 0), text_of(stream, 1))
        assert list(texts) == ["a", "b"]
        assert stream.snapshot.usage is not None


async def test_a_reader_that_lags_too_far_is_told_and_nobody_else(start: Start) -> None:
    long = [chunk("x" * 100, index=turn % 2) for turn in range(400)]
    long += [chunk(index=index, finish_reason="stop") for index in range(2)]
    _, client = await start(
        reply_sse(*long, per_write=50), reply_sse(*long, per_write=50), limits=Limits(buffered_bytes=30_000)
    )
    async with client.chat.completions.stream(**CALL) as stream:
        lagging = stream.choice(1)
        assert len(await text_of(stream, 0)) == 20_000
        with pytest.raises(StreamLimitError, match=r"choice 1 .*buffered_bytes=30000") as caught:
            await anext(lagging)
        assert caught.value.partial is not None
        assert stream.completed
    async with client.chat.completions.stream(**CALL) as stream:
        await anext(stream)
        assert len(await text_of(stream, 0)) == 19_900
        with pytest.raises(StreamLimitError, match="the reader of the whole stream"):
            await anext(stream)


def plain(text: str, index: int = 0) -> ChatCompletionChunk:
    """A chunk of nothing but text."""
    return ChatCompletionChunk(choices=[ChunkChoice(index=index, delta=ChoiceDelta(content=text))])


def drained(queue: ChunkQueue) -> list[ChatCompletionChunk]:
    chunks: list[ChatCompletionChunk] = []
    while queue:
        chunks.append(queue.take())
    return chunks


def test_adjacent_text_is_merged_where_many_chunks_wait() -> None:
    """Who keeps up sees every chunk; who lags sees as much text in fewer chunks, in a fraction of the room."""
    queue = ChunkQueue(10**9)
    originals = [plain(f"{turn} ") for turn in range(10_000)]
    for piece in originals:
        queue.put(piece)
    merged = drained(queue)
    assert len(merged) == 64
    assert "".join(f"{turn} " for turn in range(10_000)) == "".join(
        piece.choices[0].delta.content or "" for piece in merged
    )
    assert originals[63].choices[0].delta.content == "63 "  # others may hold it: it is not changed


def test_what_is_not_plain_text_of_one_choice_is_not_merged() -> None:
    queue = ChunkQueue(10**9)
    odd = plain("r")
    odd.choices[0].delta.role = "assistant"
    last = plain("f")
    last.choices[0].finish_reason = "stop"
    reported = plain("u")
    reported.usage = CompletionUsage()
    pieces = [plain(str(turn)) for turn in range(64)] + [
        odd,
        plain("a"),
        plain("b"),
        last,
        plain("c", 1),
        plain("d"),
        reported,
    ]
    for piece in pieces:
        queue.put(piece)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == "".join(
        piece.choices[0].delta.content or "" for piece in drained(queue)
    )
    queue.put(plain("again"))
    assert len(drained(queue)) == 1


@pytest.mark.parametrize("name", ["retrieval", "functions", "guardrails"])
def test_a_field_of_the_reply_is_not_lost_by_merging(name: str) -> None:
    queue = ChunkQueue(10**6)
    for _ in range(70):
        queue.put(plain("a"))
    found = plain("b")
    setattr(found, name, {"a": 1})
    queue.put(found)
    queue.put(plain("c"))
    assert [found] == [chunk for chunk in drained(queue) if getattr(chunk, name) is not None]


@pytest.mark.parametrize("name", ["id", "model", "created", "system_fingerprint", "service_tier"])
def test_a_field_of_which_the_first_value_counts_is_not_lost_by_merging(name: str) -> None:
    queue = ChunkQueue(10**6)
    for _ in range(70):
        queue.put(plain("a"))
    value: Any = 7 if name == "created" else "x"
    for _ in range(70):
        found = plain("b")
        setattr(found, name, value)
        queue.put(found)
    chunks = drained(queue)
    assert ["b" * 70] == [chunk.choices[0].delta.content for chunk in chunks if getattr(chunk, name)]
    assert len(chunks) == 65


@pytest.mark.parametrize(
    "delta",
    [
        {"content": "\u20ac" * 400},
        {"reasoning_content": "\u20ac" * 400},
        {"images": ["x" * 1200]},
        {"audio": {"data": "x" * 1200}},
        {"tool_calls": [{"index": 0, "function": {"arguments": "\u20ac" * 400}}]},
        {"function_call": {"arguments": "\u20ac" * 400}},
        {"tool_calls": [{"index": 0, "custom": "x" * 1200}]},
        {"tool_calls": [{"index": 0, "extra_content": ["x" * 1200]}]},
    ],
)
@pytest.mark.parametrize("field", ["choices", "retrieval"])
def test_what_a_lane_holds_is_counted_in_bytes(delta: dict[str, Any], field: str) -> None:
    """Pictures and other fields count too, an object or an array as 512 bytes more."""
    (piece,) = ChunkDecoder().feed(sse({"choices": [{"delta": delta}], "retrieval": "x" * 1200}, done=False))
    if field == "choices":
        piece.retrieval = None
    else:
        piece.choices.clear()
    lane = ChunkQueue(1_600)
    lane.put(piece)
    assert lane.overflowed
    lane = ChunkQueue(2_600)
    for _ in range(10):
        lane.put(piece)
        assert [piece] == drained(lane)
    assert not lane.overflowed


def test_what_a_lane_holds_is_bounded_and_room_is_given_back() -> None:
    queue = ChunkQueue(20_000)
    for _ in range(100):
        queue.put(plain("x" * 1000))
        queue.take()
    overflowed = [queue.overflowed]
    for _ in range(30):
        queue.put(plain("x" * 1000))
    assert [False, True] == [*overflowed, queue.overflowed]
    assert not queue
    queue.put(plain("x"))
    assert not queue


async def test_readers_of_choices_do_not_open_more_connections(start: Start) -> None:
    seen: list[int] = []

    async def reply(request: Request, connection: Connection) -> None:
        seen.append(connection.number)
        await reply_sse(*WIRE)(request, connection)

    server, client = await start(reply, reply)
    for _ in range(2):
        async with client.chat.completions.stream(**CALL) as stream:
            await asyncio.gather(*(text_of(stream, index) for index in range(3)))
    assert (seen, server.connections) == ([1, 1], 1)
