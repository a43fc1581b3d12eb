"""`stream(response_format=T)`: a `ParsedChatCompletionStream`, its events, and the error of an answer that is no value."""

from __future__ import annotations

import asyncio
import copy
import pickle
from typing import Any, Literal

import pytest
from client_calls import CALL, MESSAGES, Start
from msgspec import Struct

from gradient_async import (
    Answer,
    AsyncGradient,
    AsyncStream,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionStream,
    ContentDoneEvent,
    ContentFilterFinishReasonError,
    InvalidRequestError,
    LengthFinishReasonError,
    OutputDecodeError,
    OutputError,
    OutputValidationError,
    ParsedChatCompletion,
    ParsedChatCompletionStream,
    StreamError,
    StreamTruncatedError,
)
from gradient_async.testing import Handler, chunk, reply_json, reply_sse


class Item(Struct):
    name: str
    price: int = 0


class Order(Struct):
    city: str
    items: list[Item] = []


USAGE: dict[str, Any] = {
    **chunk(),
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}
PIECES = ['{"city": "Ro', 'me", "items": [{"name', '": "tea", "price": 4', "2}]}"]
ORDER = Order("Rome", [Item("tea", 42)])


def says(*texts: str, finish_reason: str = "stop", index: int = 0, **extra: Any) -> list[dict[str, Any]]:
    """Return chunks with these pieces of text, and the end."""
    pieces = [chunk(text, index=index) for text in texts]
    return [*pieces, chunk(index=index, finish_reason=finish_reason, **extra)]


def streams(*texts: str, **extra: Any) -> Handler:
    return reply_sse(*says(*texts, **extra), USAGE)


async def opened(
    client: AsyncGradient, response_format: Any, **params: Any
) -> ParsedChatCompletionStream[Any]:
    stream: Any = client.chat.completions.stream
    found: ParsedChatCompletionStream[Any] = await stream(**(CALL | params), response_format=response_format)
    return found


async def read(stream: ChatCompletionStream) -> tuple[list[Any], OutputError | None]:
    """Read all events; return them, and the error in the place of the end."""
    events, iterator = list[Any](), stream.events()
    while True:
        try:
            events.append(await anext(iterator))
        except StopAsyncIteration:
            return events, None
        except OutputError as error:
            return events, error


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


async def test_it_is_a_stream_whose_completion_is_parsed(start: Start) -> None:
    """The schema is sent, and nothing else about the request changes."""
    server, client = await start(streams(*PIECES), streams(*PIECES))
    async with client.chat.completions.stream(**CALL, response_format=Order) as stream:
        assert ParsedChatCompletionStream is type(stream)
        assert isinstance(stream, ChatCompletionStream)
        completion = await stream.completion()
        assert "<ParsedChatCompletionStream completed" in repr(stream)
    assert ParsedChatCompletion is type(completion)
    assert (ORDER, ORDER) == (completion.parsed, completion.choices[0].message.parsed)
    assert completion.usage is not None
    assert (11, 1) == (completion.usage.total_tokens, completion.attempts)
    assert completion == await stream.get_final_completion()
    assert stream is await stream.until_done()
    body = server.requests[0].json
    usual = {"stream": True, "stream_options": {"include_usage": True}}
    assert {**CALL, **usual, "response_format": Answer(Order).response_format} == body
    agent = await client.agents.chat.completions.stream(messages=MESSAGES, response_format=Answer(Order))
    assert ORDER == (await agent.completion()).parsed


@pytest.mark.parametrize(
    ("response_format", "text", "value"),
    [
        (list[Item], '{"value":[{"name":"a"}]}', [Item("a")]),
        (Literal["a", "b"], '{"value":"b"}', "b"),
        (Item | None, '{"value":null}', None),
        (dict[str, int], '```json\n{"a":2.0}\n```', {"a": 2}),
    ],
)
async def test_every_form_of_a_type(start: Start, response_format: Any, text: str, value: Any) -> None:
    """Values are unwrapped before anybody sees them."""
    _, client = await start(streams(text))
    stream = await opened(client, response_format)
    events, error = await read(stream)
    (done,) = of_type(events, "content.done")
    assert (value, text, None) == (done.parsed, done.content, error)
    assert value == (await stream.completion()).parsed


@pytest.mark.parametrize("response_format", [None, {"type": "json_object"}])
async def test_a_schema_as_the_api_takes_it_is_a_plain_stream(start: Start, response_format: Any) -> None:
    """It goes as it is, and `.parsed` is None, as in openai."""
    server, client = await start(streams('{"a":', "1}"))
    stream = await opened(client, response_format)
    assert ChatCompletionStream is type(stream)
    events, _ = await read(stream)
    assert {None} == {event.parsed for event in events if event.type.startswith("content.")}
    assert ChatCompletion is type(await stream.completion())
    assert response_format == server.requests[0].json["response_format"]


async def test_a_type_without_a_schema_is_refused_at_the_call(start: Start) -> None:
    server, client = await start()
    stream: Any = client.chat.completions.stream
    with pytest.raises(InvalidRequestError) as raised:
        stream(**CALL, response_format=object())
    assert ("response_format", []) == (raised.value.param, server.requests)


# The snapshot


async def test_the_snapshot_never_raises(start: Start) -> None:
    """Its `.parsed` is the valid answer, or None."""
    _, client = await start(streams(*PIECES))
    stream = await opened(client, Order)
    seen = [stream.snapshot, *[stream.snapshot async for _ in stream]]
    assert {ParsedChatCompletion} == {type(each) for each in seen}
    assert [None] * 4 + [ORDER] * 3 == [each.parsed for each in seen]
    assert seen[1].choices[0].message.content == PIECES[0]
    assert ORDER == stream.current_completion_snapshot.parsed


@pytest.mark.parametrize("text", ['{"city":1}', "no", '{"city":"a"'])
async def test_the_snapshot_of_an_answer_that_is_none(start: Start, text: str) -> None:
    _, client = await start(streams(text))
    stream = await opened(client, Order)
    async for _ in stream:
        assert stream.snapshot.parsed is None
    assert (text, None) == (stream.snapshot.choices[0].message.content, stream.snapshot.parsed)


# Events


async def test_deltas_show_what_is_known_so_far(start: Start) -> None:
    """From plain values; and it is one value that grows, the same dict at each event."""
    _, client = await start(streams("\n", *PIECES))
    stream = await opened(client, Order)
    known: list[Any] = []
    values: list[Any] = []
    async for event in stream.events():
        if event.type == "content.delta":
            known.append(copy.deepcopy(event.parsed))
            values.append(event.parsed)
        assert hasattr(event, "parsed") == event.type.startswith("content.")
    assert [
        None,
        {"city": "Ro"},
        {"city": "Rome", "items": [{}]},
        {"city": "Rome", "items": [{"name": "tea"}]},
        {"city": "Rome", "items": [{"name": "tea", "price": 42}]},
    ] == known
    assert 1 == len({id(value) for value in values[1:]})


async def test_done_has_the_value(start: Start) -> None:
    """It is made when it is read, and once."""
    _, client = await start(streams(*PIECES))
    events, error = await read(await opened(client, Order))
    (done,) = of_type(events, "content.done")
    assert ContentDoneEvent is type(done)
    assert (ORDER, None) == (done.parsed, error)
    assert done.parsed is done.parsed
    assert {"turn": 0, "type": "content.done", "choice": 0, "content": "".join(PIECES)} == done.to_dict()
    again = pickle.loads(pickle.dumps(done))  # noqa: S301  # our own
    with pytest.raises(AttributeError, match="a copy of an event has no snapshot and no parsed answer"):
        _ = again.parsed


async def test_done_raises_the_error_of_the_answer(start: Start) -> None:
    """Reading `.parsed` raises; the events go on to the end, where the error comes again."""
    handler = reply_sse(*says('{"city":', "1}"), USAGE, headers={"x-request-id": "r-1"})
    _, client = await start(handler)
    stream = await opened(client, Order)
    events, error = await read(stream)
    (done,) = of_type(events, "content.done")
    for _ in range(2):
        with pytest.raises(OutputValidationError) as raised:
            _ = done.parsed
        assert ("$.city", 0, {"city": 1}) == (raised.value.path, raised.value.choice, raised.value.parsed)
        assert '{"city":1}' == raised.value.text == raised.value.completion.choices[0].message.content
        assert "r-1" == raised.value.request_id
    assert isinstance(error, OutputValidationError)
    assert "usage" == events[-1].type, "the stream has been read to its end"


@pytest.mark.parametrize(
    "wire",
    [
        [
            chunk("", role="assistant"),
            chunk(refusal="I "),
            chunk(refusal="won't"),
            chunk(finish_reason="stop"),
        ],
        [chunk('{"ci', role="assistant"), chunk(refusal="I won't"), chunk(finish_reason="stop")],
    ],
)
async def test_a_refusal_has_no_value_and_is_no_fault(start: Start, wire: list[Any]) -> None:
    _, client = await start(reply_sse(*wire))
    stream = await opened(client, Order)
    events, error = await read(stream)
    completion = await stream.completion()
    assert (None, None) == (error, completion.parsed)
    assert completion.choices[0].message.refusal
    text = wire[0]["choices"][0]["delta"]["content"]
    assert ([None] if text else []) == [event.parsed for event in of_type(events, "content.done")]


async def test_a_call_beside_an_empty_text_makes_no_event_of_text(start: Start) -> None:
    """`content.done` comes only if text came."""
    call = [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}]
    _, client = await start(reply_sse(chunk("", tool_calls=call), chunk(finish_reason="tool_calls")))
    stream = await opened(client, Order, tools=[{"type": "function", "function": {"name": "f"}}])
    events, error = await read(stream)
    assert ([], None) == (of_type(events, "content.done"), error)
    assert {"a": 1} == of_type(events, "tool_calls.function.arguments.done")[0].parsed_arguments
    assert (await stream.completion()).parsed is None


async def test_an_answer_in_a_fence_grows_as_well(start: Start) -> None:
    texts = ["``", "`json", "\n", "{", '"city": "Ro', 'me"}', "\n```"]
    _, client = await start(streams(*texts))
    known = [
        copy.deepcopy(event.parsed)
        async for event in (await opened(client, Order)).events()
        if event.type == "content.delta"
    ]
    assert [None, None, None, {}, {"city": "Ro"}, {"city": "Rome"}, {"city": "Rome"}] == known


# The error


FAULTS: list[tuple[list[dict[str, Any]], type[OutputError]]] = [
    (says("no"), OutputDecodeError),
    (says(""), OutputDecodeError),
    (says('{"city":1}'), OutputValidationError),
    (says('{"city":"a"}', finish_reason="length"), LengthFinishReasonError),
    (says('{"city":"a', finish_reason="content_filter"), ContentFilterFinishReasonError),
]


@pytest.mark.parametrize(("wire", "kind"), FAULTS)
async def test_the_error_comes_at_the_end(start: Start, wire: list[Any], kind: type[OutputError]) -> None:
    """From `completion()`, and from `events()` in the place of the end: usage is known, and the connection is reused."""
    server, client = await start(handler=reply_sse(*wire, USAGE))
    for attempt in range(2):
        stream = await opened(client, Order)
        with pytest.raises(kind) as raised:
            await (stream.completion() if attempt else stream.get_final_completion())
        with pytest.raises(kind):  # again, and another copy
            await stream.completion()
        with pytest.raises(kind):
            await stream.until_done()
        usage = raised.value.completion.usage
        assert usage is not None
        assert (11, True) == (usage.total_tokens, stream.completed)
        assert (kind, None) == (type((await read(stream))[1]), stream.snapshot.parsed)
        other = await opened(client, Order)
        iterator = other.events()
        events, error = await read(other)
        assert kind is type(error)
        assert "usage" == events[-1].type
        with pytest.raises(StopAsyncIteration):
            while True:
                await anext(other)
        for _ in range(2):
            with pytest.raises(kind):
                while True:
                    await anext(iterator)
    assert 1 == len({request.connection for request in server.requests})


@pytest.mark.parametrize(("wire", "kind"), FAULTS)
async def test_who_reads_chunks_text_or_bytes_is_not_told(
    start: Start, wire: list[Any], kind: type[OutputError]
) -> None:
    _, client = await start(handler=reply_sse(*wire))
    for view in ("chunks", "text", "raw", "choice"):
        stream = await opened(client, Order)
        reader: Any = stream.choice(0) if view == "choice" else getattr(stream, view, stream)
        assert [each async for each in reader] or not wire[0]["choices"][0]["delta"]["content"]
        assert stream.completed
        with pytest.raises(kind):
            await stream.completion()


async def test_the_first_faulty_choice_is_raised(start: Start) -> None:
    """With n > 1; all choices are in the error, the valid ones parsed."""
    wire = [chunk(text, index=index) for index, text in enumerate(['{"city":"a"}', "no", '{"city":1}'])]
    ends = [chunk(index=index, finish_reason="stop") for index in (2, 1, 0)]
    _, client = await start(reply_sse(*wire, *ends))
    stream = await opened(client, Order, n=3)
    events, error = await read(stream)
    assert isinstance(error, OutputDecodeError)
    assert (1, "no") == (error.choice, error.text)
    parsed = [choice.message.parsed for choice in error.completion.choices]
    assert [Order("a"), None, None] == parsed == [c.message.parsed for c in stream.snapshot.choices]
    dones = {event.choice: event for event in of_type(events, "content.done")}
    assert Order("a") == dones[0].parsed
    with pytest.raises(OutputValidationError) as raised:
        _ = dones[2].parsed
    assert 2 == raised.value.choice


async def test_a_stream_error_wins(start: Start) -> None:
    """Its `.partial` is a ChatCompletion as ever."""
    cut = reply_sse(chunk('{"city":1'), done=False)
    _, client = await start(handler=cut)
    for read_all in (read, ChatCompletionStream.completion, ChatCompletionStream.until_done):
        stream = await opened(client, Order)
        with pytest.raises(StreamTruncatedError) as raised:
            await read_all(stream)
        assert ChatCompletion is type(raised.value.partial)
        assert not isinstance(raised.value, OutputError)
    assert stream.snapshot.parsed is None


async def test_an_error_of_a_slow_reader_has_a_plain_partial(start: Start) -> None:
    _, client = await start(streams(*PIECES))
    stream = await opened(client, Order)
    assert ChatCompletion is type(stream.overflow("a reader").partial)
    await stream.aclose()


async def test_a_whole_completion_in_place_of_a_stream(start: Start) -> None:
    """A server that ignores ``stream=True``."""
    message = {"role": "assistant", "content": "".join(PIECES)}
    whole = {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
    }
    _, client = await start(reply_json(whole))
    stream = await opened(client, Order)
    events, error = await read(stream)
    assert (None, [ORDER]) == (error, [event.parsed for event in of_type(events, "content.done")])
    assert stream.was_buffered


async def test_a_stream_without_a_finish_reason(start: Start) -> None:
    """The events of the end are made when the stream has ended."""
    _, client = await start(reply_sse(*map(chunk, PIECES)))
    stream = await opened(client, Order)
    events, error = await read(stream)
    assert (None, ORDER) == (error, of_type(events, "content.done")[0].parsed)


async def test_events_beside_readers_of_single_choices(start: Start) -> None:
    """The events continue with a copy of the assembler, and each choice has its own value."""
    wire = [chunk(text, index=index) for text in PIECES for index in (0, 1)]
    _, client = await start(reply_sse(*wire, *says(index=0), *says(index=1)))
    stream = await opened(client, Order, n=2)
    events = stream.events()
    first = await anext(events)
    while first.type != "content.delta":
        first = await anext(events)
    grown = first.parsed
    assert {"city": "Ro"} == grown

    async def listen() -> list[Any]:
        return [(event.choice, event.parsed) async for event in events if event.type == "content.done"]

    async def follow() -> str:
        return "".join([text async for text in stream.choice(1).text])

    found, text = await asyncio.gather(listen(), follow())
    assert [(0, ORDER), (1, ORDER)] == found
    # The reader of the choice begins where the reader of events was, which depends on the reads.
    assert "".join(PIECES).endswith(text) and text.endswith("".join(PIECES[1:]))


async def test_leaving_closes_it(start: Start) -> None:
    _, client = await start(streams(*PIECES))
    async with client.chat.completions.stream(**CALL, response_format=Order) as stream:
        async for event in stream.events():
            if event.type == "content.delta":
                break
    assert stream.is_closed
    assert (None, PIECES[0]) == (stream.snapshot.parsed, stream.snapshot.choices[0].message.content)
    with pytest.raises(StreamError):
        await stream.completion()


def test_the_plain_stream_is_subscripted_by_its_chunks() -> None:
    """`AsyncStream[ChatCompletionChunk]`, the annotation of openai, goes on meaning the plain stream."""
    plain: Any = AsyncStream[ChatCompletionChunk]
    typed: Any = ParsedChatCompletionStream[Order]
    assert (ChatCompletionStream, ParsedChatCompletionStream) == (plain.__origin__, typed.__origin__)
