"""What came to a choice after a moment makes, with what came before it, the same choice."""

from __future__ import annotations

import random
from typing import Any

import pytest
from chunking import chunk
from merge_streams import SERVERS, make_stream

from gradient_async.assembly import CompletionAssembler, Position, position_of, since
from gradient_async.decoding import ChunkDecoder
from gradient_async.types import ChatCompletion, ChatCompletionChunk, ChunkChoice, CompletionUsage

# With these, calls are told apart by what comes when: calls that take turns, or a name and the same arguments that come
# apart. One delta cannot tell that.
UNCLEAR = {"all at zero, in pieces"}


def added(*chunks: ChatCompletionChunk) -> CompletionAssembler:
    assembler = CompletionAssembler()
    assembler.extend(chunks)
    return assembler


def completed(*chunks: ChatCompletionChunk, after: int) -> tuple[ChatCompletion, ChatCompletion]:
    """Return the completion of chunks, and that of the first ones and of what came after them as one chunk."""
    assembler = added(*chunks[:after])
    positions = {index: position_of(state) for index, state in assembler.choices.items()}
    assembler.extend(chunks[after:])
    rest = [
        came
        for index, state in sorted(assembler.choices.items())
        if (came := since(state, positions.get(index, Position()))) is not None
    ]
    return assembler.completion, added(*chunks[:after], ChatCompletionChunk(choices=rest)).completion


def seeds() -> list[int]:
    streams = ((seed, make_stream(seed)) for seed in range(3000))
    return [
        seed for seed, stream in streams if not stream.spoiled and stream.server in SERVERS.keys() - UNCLEAR
    ]


def test_of_random_streams() -> None:
    for seed in seeds():
        chunks = ChunkDecoder().feed(make_stream(seed).wire())
        whole, other = completed(*chunks, after=random.Random(seed).randint(0, len(chunks)))
        assert [choice.message for choice in whole.choices] == [choice.message for choice in other.choices]
        whole, other = completed(*chunks, after=0)
        assert [choice.message for choice in whole.choices] == [choice.message for choice in other.choices]


def call(index: int | None = 0, **function: Any) -> ChatCompletionChunk:
    more = {
        name: function.pop(name) for name in ("id", "type", "custom", "extra_content") if name in function
    }
    return chunk(tool_calls=[{"index": index, "function": function, **more}])


ENTRY = {"token": "a", "logprob": -1.0}
STREAMS: dict[str, list[ChatCompletionChunk]] = {
    "text": [chunk(role="assistant", content="a"), chunk(content="b", reasoning_content="r"), chunk(refusal="n")],
    "logprobs": [chunk(logprobs={"content": [ENTRY]}), chunk(logprobs={"content": [ENTRY], "refusal": [ENTRY]})],
    "other fields": [
        chunk(annotations=[1], images=[{"a": 1}], content_parts=["x"], extra_content={"g": {"a": 1}}),
        chunk(annotations=[2], images=[{"a": 2}], content_parts=["y"], extra_content={"g": {"b": 2}}),
        chunk(audio={"id": "a", "data": "x"}, reasoning_details=[{"type": "t", "index": 0, "text": "a"}]),
        chunk(audio={"data": "y"}, reasoning_details=[{"type": "t", "index": 0, "text": "b", "signature": "s"}]),
    ],
    "older call": [chunk(function_call={"name": "f"}), chunk(function_call={"arguments": "{"}), chunk(function_call={"arguments": "}"})],
    "custom call": [
        call(id="a", type="custom", custom={"name": "f", "input": "x"}, extra_content={"a": 1}),
        call(custom={"input": "y"}),
        call(extra_content={"b": 2}),
    ],
    "id and type late": [call(name="f", arguments="["), call(id="a", arguments="1"), call(type="t", arguments="]")],
    "name in pieces": [call(name="get_"), call(name="wea"), call(name="ther", arguments="["), call(arguments="]")],
    "name restated": [call(name="get"), call(arguments="["), call(name="get_weather"), call(arguments="]")],
    "name restated longer": [call(name="get", arguments="["), call(name="get_weather", arguments="]")],
    "placeholder": [call(name="f", arguments="{}"), call(arguments='{"a"'), call(arguments=":1}")],
    "placeholder in pieces": [call(name="f"), call(arguments="{"), call(arguments="}"), call(arguments='{"a":1}')],
    "two calls of one index": [
        call(id="a", name="f", arguments="["),
        call(id="b", name="g", arguments="["),
        call(id="a", arguments="1]"),
        call(arguments="2]"),
    ],
    "two calls without an index": [
        call(None, id="a", name="f", arguments="["),
        call(None, id="b", name="g", arguments="["),
        call(None, id="a", arguments="1]"),
        call(None, arguments="2]"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("chunks", STREAMS.values(), ids=STREAMS)
def test_of_every_field_at_every_moment(chunks: list[ChatCompletionChunk]) -> None:
    for after in range(len(chunks) + 1):
        whole, other = completed(*chunks, after=after)
        assert whole == other


MORE: dict[str, list[ChatCompletionChunk]] = {
    **STREAMS,
    "no entries": [chunk(content="a", logprobs={"content": [], "refusal": None})],
    "text after a finish_reason": [chunk(content="a", finish="length"), chunk(content="b")],
    "fields of the reply": [
        ChatCompletionChunk(
            id="c-1", created=7, model="m", system_fingerprint="f", service_tier="s", usage=CompletionUsage(total_tokens=3)
        ),
        ChatCompletionChunk(retrieval={"documents": [1]}, functions={"called": ["f"]}),
    ],
    "two choices, the second first": [chunk(1, content="b"), chunk(content="a", finish="stop")],
    "a choice without content": [chunk()],
    "nothing": [],
}  # fmt: skip


@pytest.mark.parametrize("chunks", MORE.values(), ids=MORE)
def test_everything_as_one_chunk(chunks: list[ChatCompletionChunk]) -> None:
    whole = added(*chunks)
    assert whole.completion == added(whole.chunk).completion


def test_calls_continue_after_everything_as_one_chunk() -> None:
    first, rest = (
        [call(2, id="a", name="f", arguments="["), call(5, id="b", name="g")],
        call(2, arguments="1]"),
    )
    assert added(*first, rest).completion == added(added(*first).chunk, rest).completion


def came_to(*chunks: ChatCompletionChunk, after: int) -> ChunkChoice | None:
    """Return what came to choice 0 after the first chunks."""
    assembler = added(*chunks[:after])
    position = position_of(assembler.choices[0]) if after else Position()
    assembler.extend(chunks[after:])
    return since(assembler.choices[0], position)


ONLY: dict[str, list[ChatCompletionChunk]] = {
    "text": [
        chunk(role="assistant", content="a", annotations=[1], images=[{"a": 1}], audio={"id": "a"}),
        chunk(content="b"),
    ],
    "a role": [chunk(content="a"), chunk(role="assistant")],
    "log probabilities of text": [chunk(content="a"), chunk(logprobs={"content": [ENTRY]})],
    "log probabilities of a refusal": [chunk(content="a"), chunk(logprobs={"refusal": [ENTRY]})],
    "arguments": [
        call(id="a", type="custom", name="f", arguments="[", custom={"input": "x"}, extra_content={"a": 1}),
        call(arguments="]"),
    ],
    "arguments of a call without an index": [call(None, id="a", arguments="["), call(None, arguments="]")],
    "arguments of the first of two calls": [
        chunk(tool_calls=[{"index": 0, "id": "a"}, {"index": 1, "id": "b"}]),
        call(0, arguments="["),
    ],
    "arguments in place of a placeholder": [call(name="f", arguments="{}"), call(arguments='{"a":1}')],
    "an id": [call(arguments="["), call(id="a")],
}  # fmt: skip


@pytest.mark.parametrize("chunks", ONLY.values(), ids=ONLY)
def test_nothing_is_told_again(chunks: list[ChatCompletionChunk]) -> None:
    """After one chunk, the next is all that came."""
    assert chunks[1].choices[0] == came_to(*chunks, after=1)


@pytest.mark.parametrize("index", [0, None])
def test_a_call_comes_as_it_was_opened(index: int | None) -> None:
    """With its index if it had one, and with arguments, to which those of later chunks are appended."""
    opened = call(index, name="f", arguments="")
    assert opened.choices[0] == came_to(opened, after=0)
    two = [call(index, name="f", arguments="1"), call(index, name="g", arguments="2")]
    choice = came_to(*two, after=0)
    assert choice is not None
    assert [one.choices[0].delta.tool_calls for one in two] == [
        [one] for one in choice.delta.tool_calls or ()
    ]


def test_nothing_came() -> None:
    assembler = added(call(name="f", arguments="{"), chunk(function_call={"name": "f"}), chunk(finish="stop"))
    state = assembler.choices[0]
    assert None is since(state, position_of(state))


@pytest.mark.parametrize(
    ("before", "behind", "expected"),
    [
        ([], [chunk(finish="stop")], "stop"),
        ([chunk(finish="stop")], [], None),
        ([chunk(finish="stop")], [chunk(content="b")], None),
        ([chunk(finish="stop")], [chunk(content="b"), chunk(finish="length")], "length"),
    ],
)
def test_finish_reason(
    before: list[ChatCompletionChunk], behind: list[ChatCompletionChunk], expected: str | None
) -> None:
    """The reason that came since; none where content has taken it back."""
    assembler = added(chunk(content="a"), *before)
    position = position_of(assembler.choices[0])
    assembler.extend(behind)
    came = since(assembler.choices[0], position)
    assert expected == (None if came is None else came.finish_reason)


def test_calls_are_told_by_index_where_that_suffices() -> None:
    assembler = added(call(id="a", name="f", arguments="{"))
    position = position_of(assembler.choices[0])
    assembler.add(call(arguments="}"))
    came = since(assembler.choices[0], position)
    assert came is not None
    assert call(arguments="}").choices[0].delta.tool_calls == came.delta.tool_calls
