"""The facts that ``test_completions_streaming.py`` of ``openai`` asserts of ``chat.completions.stream``, and its order of events.

Where ``openai`` is installed, its own helper gets the same chunks, and must make the same events but for the
intended differences.
"""

from __future__ import annotations

from typing import Any, get_overloads, get_type_hints

import pytest
from client_calls import CALL, Start
from msgspec import Struct
from sdk_clients import differs

from gradient_async import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionStreamState,
    LengthFinishReasonError,
)
from gradient_async.client.completions import Completions
from gradient_async.testing import chunk, reply_sse
from gradient_async.types.params import ChatCompletionCreate, ChatCompletionParse

# Events that `openai` does not have.
OWN = {"tool_calls.start", "reasoning.delta", "reasoning.done", "finish", "usage"}


def logprobs(part: str, *tokens: str) -> dict[str, Any]:
    """Return log probabilities of text or refusal."""
    entries = [
        {"token": token, "logprob": -0.5, "bytes": list(token.encode()), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": None, "refusal": None, part: entries}


def call(index: int, arguments: str, **names: str) -> list[dict[str, Any]]:
    """Return a piece of a tool call; the first has an id and a name."""
    function = {"name": names["name"], "arguments": arguments} if names else {"arguments": arguments}
    first = {"id": names["id"], "type": "function"} if names else {}
    return [{"index": index, **first, "function": function}]


USAGE: dict[str, Any] = {
    **chunk(),
    "choices": [],
    "usage": {"prompt_tokens": 9, "completion_tokens": 2, "total_tokens": 11},
}
TEXT = [chunk("", role="assistant"), chunk("The "), chunk("sun."), chunk(finish_reason="stop"), USAGE]
THREE = [
    *[chunk("", index=index, role="assistant") for index in range(3)],
    *[chunk(text, index=index) for text in ('{"city": "', 'Rome"}') for index in range(3)],
    *[chunk(index=index, finish_reason="stop") for index in range(3)],
    USAGE,
]
REFUSAL = [
    chunk(refusal="", role="assistant", logprobs=logprobs("refusal")),
    chunk(refusal="I'm ", logprobs=logprobs("refusal", "I'm ")),
    chunk(refusal="sorry.", logprobs=logprobs("refusal", "sorry.")),
    chunk(finish_reason="stop"),
]
TOKENS = [
    chunk("", role="assistant", logprobs=logprobs("content")),
    chunk("Foo", logprobs=logprobs("content", "Foo")),
    chunk("!", logprobs=logprobs("content", "!")),
    chunk(finish_reason="stop"),
]
WEATHER = '{"city":"Edinburgh","country":"UK"}'
TOOL = [
    chunk(role="assistant", tool_calls=call(0, "", id="call_1", name="GetWeather")),
    chunk(tool_calls=call(0, WEATHER[:9])),
    chunk(tool_calls=call(0, WEATHER[9:])),
    chunk(finish_reason="tool_calls"),
    USAGE,
]
TOOLS = [
    chunk("I look.", role="assistant"),
    *TOOL[:3],
    chunk(tool_calls=call(1, "", id="call_2", name="get_stock_price")),
    chunk(tool_calls=call(1, '{"ticker": "AAPL"}')),
    chunk(finish_reason="tool_calls"),
]
STREAMS: dict[str, list[dict[str, Any]]] = {
    "text": TEXT,
    "three choices": THREE,
    "refusal": REFUSAL,
    "log probabilities": TOKENS,
    "a tool": TOOL,
}


async def listen(
    start: Start, chunks: list[dict[str, Any]], **params: Any
) -> tuple[list[Any], ChatCompletion, dict[str, Any]]:
    """Read a stream by its events; return them, the completion, and the body of the request."""
    server, client = await start(reply_sse(*chunks))
    async with client.chat.completions.stream(**{**CALL, **params}) as stream:
        events = [event async for event in stream.events()]
        completion = await stream.get_final_completion()
        assert completion.to_dict() == stream.current_completion_snapshot.to_dict()
    return events, completion, server.requests[-1].json


def of_type(events: list[Any], kind: str) -> list[Any]:
    return [event for event in events if event.type == kind]


async def test_parse_nothing(start: Start) -> None:
    events, completion, _ = await listen(start, TEXT)
    (choice,) = completion.choices
    assert ("stop", 0, None) == (choice.finish_reason, choice.index, choice.logprobs)
    message = choice.message
    assert ("assistant", "The sun.", None, None) == (
        message.role,
        message.content,
        message.refusal,
        message.tool_calls,
    )
    assert completion.usage is not None
    assert 11 == completion.usage.total_tokens
    (done,) = of_type(events, "content.done")
    assert ("The sun.", None) == (done.content, done.parsed)
    assert ["The ", "The sun."] == [event.snapshot for event in of_type(events, "content.delta")]


@differs("`async for` over the stream gives events")
async def test_events_and_chunks(start: Start) -> None:
    """A part of every test of that suite."""
    _, client = await start(*[reply_sse(*TEXT)] * 2)
    async with client.chat.completions.stream(**CALL) as stream:
        chunks = [each async for each in stream]
    async with client.chat.completions.stream(**CALL) as stream:
        events = [event async for event in stream.events()]
    assert chunks == [event.chunk for event in of_type(events, "chunk")]


@differs("`parsed` of `content.delta` is another object at each event")
async def test_parse_pydantic_model_and_multiple_choices(start: Start) -> None:
    """A JSON schema in a dict is sent as it is, and the content is the model's JSON; a class is the type of values."""

    class Location(Struct):
        city: str

    schema = {"type": "json_schema", "json_schema": {"name": "Location", "schema": {"type": "object"}}}
    events, completion, sent = await listen(start, THREE, n=3, response_format=schema)
    assert (schema, 3) == (sent["response_format"], sent["n"])
    assert ['{"city": "Rome"}'] * 3 == [choice.message.content for choice in completion.choices]
    assert {None} == {event.parsed for event in of_type(events, "content.done")}
    assert [0, 1, 2] == [event.choice for event in of_type(events, "content.done")]
    parsed: Any
    events, parsed, sent = await listen(start, THREE, n=3, response_format=Location)
    assert "json_schema" == sent["response_format"]["type"]
    assert [Location("Rome")] * 3 == [event.parsed for event in of_type(events, "content.done")]
    assert [Location("Rome")] * 3 == [choice.message.parsed for choice in parsed.choices]
    first, last = (event.parsed for event in of_type(events, "content.delta") if event.choice == 0)
    assert first is last


@differs(
    "A text cut short by `max_tokens` is a `LengthFinishReasonError` in the middle of the stream, if `response_format` is a class or a tool is strict"
)
async def test_parse_max_tokens_reached(start: Start) -> None:
    cut = [chunk('{"', role="assistant"), chunk(finish_reason="length")]
    _, completion, _ = await listen(start, cut, max_tokens=1, response_format={"type": "json_object"})
    assert ("length", '{"') == (completion.choices[0].finish_reason, completion.choices[0].message.content)
    with pytest.raises(LengthFinishReasonError):
        await listen(start, cut, max_tokens=1, response_format=dict[str, int])


async def test_parse_pydantic_model_refusal_and_refusal_logprobs_events(start: Start) -> None:
    events, completion, _ = await listen(start, REFUSAL, logprobs=True)
    (done,) = of_type(events, "refusal.done")
    message = completion.choices[0].message
    assert ("I'm sorry.", "I'm sorry.", None) == (done.refusal, message.refusal, message.content)
    assert [*["logprobs.refusal.delta"] * 2, "logprobs.refusal.done"] == [
        event.type for event in events if event.type.startswith("logprobs")
    ]
    (entries,) = of_type(events, "logprobs.refusal.done")
    found = completion.choices[0].logprobs
    assert found is not None
    assert (None, entries.refusal) == (found.content, found.refusal)


async def test_content_logprobs_events(start: Start) -> None:
    events, completion, _ = await listen(start, TOKENS, logprobs=True)
    first, second, done = (event for event in events if event.type.startswith("logprobs"))
    assert ["Foo"] == [entry.token for entry in first.content]
    assert ["!"] == [entry.token for entry in second.content]
    assert ["Foo", "!"] == [entry.token for entry in second.snapshot]
    assert ("logprobs.content.done", second.snapshot) == (done.type, done.content)
    found = completion.choices[0].logprobs
    assert found is not None
    assert (done.content, None) == (found.content, found.refusal)
    assert "Foo!" == completion.choices[0].message.content


@differs(
    "`function.parsed_arguments` of a message is an instance of the tool's class, or None if the tool is not strict"
)
@pytest.mark.parametrize("strict", [True, False])
async def test_parse_pydantic_tool_strict_tools_and_non_strict_tools(start: Start, *, strict: bool) -> None:
    """The tool is a dict with a JSON schema, sent as it is; events have the arguments as plain values."""
    function = {
        "name": "GetWeather",
        "parameters": {"type": "object"},
        **({"strict": True} if strict else {}),
    }
    tools = [{"type": "function", "function": function}]
    events, completion, sent = await listen(start, TOOL, tools=tools)
    assert tools == sent["tools"]
    assert completion.choices[0].message.tool_calls is not None
    (tool_call,) = completion.choices[0].message.tool_calls
    assert ("call_1", "function") == (tool_call.id, tool_call.type)
    assert ("GetWeather", WEATHER) == (tool_call.function.name, tool_call.function.arguments)
    assert {"city": "Edinburgh", "country": "UK"} == tool_call.function.parsed_arguments
    (done,) = of_type(events, "tool_calls.function.arguments.done")
    assert (0, "GetWeather", WEATHER) == (done.index, done.name, done.arguments)
    assert {"city": "Edinburgh", "country": "UK"} == done.parsed_arguments


async def test_parse_multiple_pydantic_tools(start: Start) -> None:
    events, completion, _ = await listen(start, TOOLS)
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    assert [("call_1", "GetWeather", WEATHER), ("call_2", "get_stock_price", '{"ticker": "AAPL"}')] == [
        (each.id, each.function.name, each.function.arguments) for each in calls
    ]
    assert [(0, "GetWeather"), (1, "get_stock_price")] == [
        (event.index, event.name) for event in of_type(events, "tool_calls.function.arguments.done")
    ]


async def test_non_pydantic_response_format(start: Start) -> None:
    events, completion, sent = await listen(start, TEXT, response_format={"type": "json_object"})
    assert {"type": "json_object"} == sent["response_format"]
    assert "The sun." == completion.choices[0].message.content
    assert [None] == [event.parsed for event in of_type(events, "content.done")]


@differs("`chunk.obfuscation` is an attribute")
@pytest.mark.parametrize("padding", [("first", "last"), (None, "last"), ("", "")])
async def test_stream_obfuscation_stays_on_raw_chunks(
    start: Start, padding: tuple[str | None, str | None]
) -> None:
    values: list[dict[str, Any]] = [{} if value is None else {"obfuscation": value} for value in padding]
    chunks = [chunk("Hello", **values[0]), chunk(" world", finish_reason="stop", **values[1])]
    _, client = await start(reply_sse(*chunks), keep_body=True)
    state = ChatCompletionStreamState()
    found: list[str | None] = []
    async with client.chat.completions.stream(**CALL) as stream:
        async for each in stream:
            before = each.to_dict()
            (event, *_) = state.handle_chunk(each)
            assert before == each.to_dict()
            assert event.type == "chunk"
            assert event.chunk is each
            assert each.body is not None
            found.append(each.body.get("obfuscation"))
            assert "obfuscation" not in event.snapshot.to_dict()
    assert list(padding) == found
    done = state.get_final_completion()
    assert "Hello world" == done.choices[0].message.content
    assert "obfuscation" not in done.to_json()


def test_chat_completion_state_helper() -> None:
    state = ChatCompletionStreamState()
    for each in TEXT:
        state.handle_chunk(ChatCompletionChunk.model_validate(each))
    assert state.current_completion_snapshot == state.get_final_completion()
    assert "The sun." == state.get_final_completion().choices[0].message.content


def test_stream_method_in_sync() -> None:
    """`create` and `stream` take the same parameters; `create` takes ``stream`` as well."""
    names = get_type_hints(ChatCompletionCreate).keys()
    for method in get_overloads(Completions.create):
        assert method.__annotations__["params"] == "Unpack[ChatCompletionCreate]"
    for method in get_overloads(Completions.stream):
        assert method.__annotations__["params"] == "Unpack[ChatCompletionParse]"
        assert "response_format" in method.__annotations__
    assert get_type_hints(ChatCompletionParse).keys() | {"response_format"} == names
    assert "stream" not in names


# The order of events


def own_events(chunks: list[dict[str, Any]]) -> list[list[str]]:
    """Return the types of the events of each chunk."""
    state = ChatCompletionStreamState()
    return [
        [event.type for event in state.handle_chunk(ChatCompletionChunk.model_validate(each))]
        for each in chunks
    ]


def openai_events(chunks: list[dict[str, Any]]) -> list[list[str]]:
    """Return the types of the events that ``openai`` makes of each chunk."""
    helper: Any = pytest.importorskip("openai.lib.streaming.chat")
    types: Any = pytest.importorskip("openai.types.chat")
    state = helper.ChatCompletionStreamState()
    return [
        [event.type for event in state.handle_chunk(types.ChatCompletionChunk.model_validate(each))]
        for each in chunks
    ]


@differs("A piece without text is a delta event, too", "`stream()` has only the events of `openai`")
@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
@pytest.mark.filterwarnings("default")
def test_the_order_of_events_is_that_of_openai(chunks: list[dict[str, Any]]) -> None:
    """But for events of its own, and delta events without text."""
    for each, ours, theirs in zip(chunks, own_events(chunks), openai_events(chunks), strict=True):
        is_empty = any(empty(choice["delta"]) for choice in each["choices"])
        expected = [kind for kind in theirs if not (is_empty and kind.endswith(".delta"))]
        assert expected == [kind for kind in ours if kind not in OWN]


@differs("A text or a tool call is done when the next tool call begins")
def test_done_events_come_with_the_finish_reason() -> None:
    *earlier, last = own_events(TOOLS)
    assert [] == [kind for kinds in earlier for kind in kinds if kind.endswith(".done")]
    assert ["chunk", "content.done", *["tool_calls.function.arguments.done"] * 2, "finish"] == last


@pytest.mark.filterwarnings("default")
def test_done_events_have_the_order_of_openai() -> None:
    ours, theirs = (
        [kind for kinds in events for kind in kinds if kind.endswith(".done")]
        for events in (own_events(TOOLS), openai_events(TOOLS))
    )
    assert ours == theirs


def empty(delta: dict[str, Any]) -> bool:
    """Return whether a delta has an empty text, or a tool call without arguments."""
    calls = delta.get("tool_calls", [])
    texts = [delta.get("content"), delta.get("refusal"), *[each["function"]["arguments"] for each in calls]]
    return "" in texts


def test_the_order_of_events_of_several_choices() -> None:
    """As in `test_parse_pydantic_model_multiple_choices`: each chunk, then what it has, and usage at the end."""
    assert [
        *[["chunk"]] * 3,
        *[["chunk", "content.delta"]] * 6,
        *[["chunk", "content.done", "finish"]] * 3,
        ["chunk", "usage"],
    ] == own_events(THREE)
