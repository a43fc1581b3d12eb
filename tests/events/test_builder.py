"""Chunks become typed events, with snapshots of their moment."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Iterator
from functools import partial
from typing import Any, get_args

import msgspec
import pytest
from work import lines_run

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamLimitError
from gradient_async.events import ChatCompletionStreamEvent, EventBuilder
from gradient_async.partial import PartialJSON
from gradient_async.testing import chunk, sse
from gradient_async.types.nesting import is_deeper


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


def events_of(*wire: dict[str, Any]) -> list[ChatCompletionStreamEvent]:
    """Decode and assemble a stream; return its events, each made when its chunk has just been added."""
    assembler = CompletionAssembler(n=3)
    builder = EventBuilder(assembler)
    events: list[ChatCompletionStreamEvent] = []
    for piece in ChunkDecoder(n=3).feed(sse(*wire)):
        assembler.add(piece)
        events += builder.add(piece)
    return [*events, *builder.end()]


def test_events_tell_everything_and_name_their_choice() -> None:
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
    events = [event for event in events_of(*wire) if event.type != "chunk"]
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


def test_a_choice_that_goes_on_after_its_finish_reason_is_told_again_at_the_end() -> None:
    """With all of its text; and a chunk event shows what has come by the time it is looked at."""
    events = events_of(chunk("a", finish_reason="stop"), chunk("b"))
    assert ["a", "ab"] == [event.content for event in events if event.type == "content.done"]
    first = events[0]
    assert first.type == "chunk"
    assert "ab" == first.snapshot.choices[0].message.content


def test_a_finish_reason_in_each_chunk_joins_the_text_twice() -> None:
    """At the first, and at the end; with the last reason. To join it for each would cost the square of its length."""
    events = events_of(*(chunk(str(n), finish_reason=f"r{n}") for n in range(5)))
    told = [
        getattr(event, "content", None) or getattr(event, "finish_reason", None)
        for event in events
        if event.type in {"content.done", "finish"}
    ]
    assert ["0", "r0", "01234", "r4"] == told


@pytest.mark.parametrize("field", ["content", "reasoning_content", "refusal"])
@pytest.mark.parametrize("texts", [[""], ["", ""], ["", "", "a"], ["a", ""]])
@pytest.mark.parametrize("finish_reason", [None, "tool_calls"])
def test_a_text_is_done_only_if_there_was_a_text(
    field: str, texts: list[str], finish_reason: str | None
) -> None:
    """An empty text, with which many servers begin a reply that calls tools, is no text."""
    wire: list[dict[str, Any]] = [
        chunk(choices=[{"delta": {"role": "assistant", field: text}}]) for text in texts
    ]
    events = events_of(*wire, chunk(tool_calls=[call(0, "{}", name="f")]), chunk(finish_reason=finish_reason))
    kind = field.removesuffix("_content")
    said = "".join(texts)
    told = [event.type for event in events if event.type.startswith(kind)]
    assert ([f"{kind}.delta", f"{kind}.done"] if said else []) == told
    assert [said] * bool(said) == [getattr(event, kind) for event in events if event.type == f"{kind}.done"]


@pytest.mark.parametrize("later", ["", "b"])
def test_an_empty_text_after_the_finish_reason_is_not_told(later: str) -> None:
    events = events_of(chunk("", finish_reason="stop"), chunk(later))
    assert [later] * bool(later) == [event.content for event in events if event.type == "content.done"]


def test_a_second_finish_reason_is_told_at_the_end() -> None:
    events = events_of(chunk("a", finish_reason="stop"), chunk(finish_reason="length"))
    assert ["content.delta", "content.done", "finish", "finish"] == [
        e.type for e in events if e.type != "chunk"
    ]
    last = events[-1]
    assert last.type == "finish"
    assert "length" == last.finish_reason


def told_calls(*wire: dict[str, Any]) -> tuple[dict[int, str], list[tuple[Any, ...]]]:
    """Return the deltas of each call joined, and the calls that were told as whole."""
    deltas: dict[int, str] = {}
    done: list[tuple[Any, ...]] = []
    started: set[int] = set()
    for event in events_of(*wire):
        if event.type == "tool_calls.start":
            assert event.index not in started
            started.add(event.index)
        elif event.type == "tool_calls.function.arguments.delta":
            assert event.index in started
            deltas[event.index] = deltas.get(event.index, "") + event.arguments_delta
            assert deltas[event.index] == event.arguments
        elif event.type == "tool_calls.function.arguments.done":
            done.append((event.index, event.id, event.name, event.arguments))
    return deltas, done


FINISH = chunk(finish_reason="tool_calls")


def test_calls_of_one_index_are_told_apart() -> None:
    one, two = call(0, '{"x":1}', name="f"), call(0, '{"y":2}', name="g")
    for wire in ([chunk(tool_calls=[one]), chunk(tool_calls=[two])], [chunk(tool_calls=[one, two])]):
        deltas, done = told_calls(*wire, FINISH)
        assert {0: '{"x":1}', 1: '{"y":2}'} == deltas
        assert [(0, "", "f", '{"x":1}'), (1, "", "g", '{"y":2}')] == done


def test_what_adds_nothing_is_no_delta() -> None:
    whole = call(0, '{"x":1}', id="c", name="f")
    deltas, done = told_calls(
        chunk(tool_calls=[whole]),
        chunk(tool_calls=[whole, call(0, " ")]),
        chunk(tool_calls=[call(0, "")]),
        FINISH,
    )
    assert {0: '{"x":1}'} == deltas
    assert [(0, "c", "f", '{"x":1}')] == done


def test_a_placeholder_is_told_if_nothing_replaces_it() -> None:
    empty = call(0, "{}", name="f")
    assert ({0: "{}"}, [(0, "", "f", "{}")]) == told_calls(chunk(tool_calls=[empty]), FINISH)
    rest = [call(0, '{"x"'), call(0, ":1}")]
    expected = ({0: '{"x":1}'}, [(0, "", "f", '{"x":1}')])
    assert expected == told_calls(
        chunk(tool_calls=[empty]), *(chunk(tool_calls=[each]) for each in rest), FINISH
    )
    assert expected == told_calls(chunk(tool_calls=[empty, *rest]), FINISH)


def test_calls_that_are_alike_are_done_once() -> None:
    pieces = [call(0, "[]", name="f"), call(0, "{}", name="g"), call(0, "[", name="f"), call(0, "]", id="c")]
    _, done = told_calls(*(chunk(tool_calls=[piece]) for piece in pieces))
    assert [(0, "c", "f", "[]"), (1, "", "g", "{}")] == done


def test_usage_events_have_the_largest_counts() -> None:
    usages = [{"prompt_tokens": 2, "completion_tokens": 3}, {"prompt_tokens": 0, "completion_tokens": 4}]
    events = events_of(*(chunk(usage=usage) for usage in usages), chunk("a"))
    told = [event.usage for event in events if event.type == "usage"]
    assert [(2, 3, 5), (2, 4, 6)] == [(u.prompt_tokens, u.completion_tokens, u.total_tokens) for u in told]


def test_a_detached_builder_tells_the_moment_of_its_chunk() -> None:
    """Though the stream's own assembler is ahead; a chunk that is refused there is told no more."""
    pieces = ChunkDecoder().feed(
        sse(
            chunk("a"),
            chunk(tool_calls=[call(0, "{", name="f")]),
            chunk(tool_calls=[call(0, "}")]),
            chunk("b"),
        )
    )
    assembler = CompletionAssembler(limits=Limits(completion_bytes=4))
    builder = EventBuilder(assembler)
    assembler.add(pieces[0])
    events = [*builder.add(pieces[0])]
    builder.detach()
    builder.detach()
    with pytest.raises(StreamLimitError):
        assembler.extend([*pieces[1:], pieces[3]])
    for piece in pieces[1:]:
        events += builder.add(piece)
    told = [event for event in events if event.type == "tool_calls.function.arguments.delta"]
    assert [("{", "{"), ("}", "{}")] == [(event.arguments_delta, event.arguments) for event in told]
    last = events[-1]
    assert last.type == "content.delta"
    assert "ab" == last.snapshot


def test_log_probabilities_of_text_and_refusal_are_told_whole_at_the_end() -> None:
    logprobs = {"content": [entry("a")], "refusal": [entry("n")]}
    events = events_of(
        chunk("a", refusal="n", logprobs=logprobs), chunk("b", logprobs=logprobs, finish_reason="stop")
    )
    whole: list[Any] = [
        event for event in events if event.type.startswith("logprobs") and "done" in event.type
    ]
    assert ["logprobs.content.done", "logprobs.refusal.done"] == [event.type for event in whole]
    assert (["a", "a"], ["n", "n"]) == (
        [each.token for each in whole[0].content],
        [each.token for each in whole[1].refusal],
    )


def test_log_probabilities_of_one_kind_are_told_alone() -> None:
    """Though those of the other kind came before."""
    of_text, of_refusal = {"content": [entry("a")], "refusal": None}, {"content": [], "refusal": [entry("n")]}
    wire = [chunk("a", refusal="n", logprobs=of_text | {"refusal": [entry("n")]})]
    wire += [chunk("a", logprobs=of_text), chunk(refusal="n", logprobs=of_refusal)]
    assert ["content", "refusal"] * 2 == [
        event.type.split(".")[1]
        for event in events_of(*wire)
        if event.type.startswith("logprobs") and "delta" in event.type
    ]


def test_arguments_that_are_no_json_are_told_as_they_are() -> None:
    (done,) = (
        event
        for event in events_of(chunk(tool_calls=[call(0, "{x", id="a", name="f")]))
        if event.type == "tool_calls.function.arguments.done"
    )
    assert ("{x", None) == (done.arguments, done.parsed_arguments)


# Parsed arguments: one value that grows


def handled(*wire: dict[str, Any]) -> Iterator[Any]:
    """Give each delta of arguments while it is handled: later chunks have not been added yet."""
    assembler = CompletionAssembler()
    builder = EventBuilder(assembler)
    for piece in ChunkDecoder().feed(sse(*wire)):
        assembler.add(piece)
        yield from (event for event in builder.add(piece) if event.type == DELTA)
    yield from (event for event in builder.end() if event.type == DELTA)


DELTA = "tool_calls.function.arguments.delta"
PIECES = ['{"city": "Par', 'is", "days', '": 3', ', "units": ["C', '"]}']


def test_parsed_arguments_are_one_value_that_grows() -> None:
    """The same dict at each event; that of the event while the event is handled."""
    wire = [call(0, PIECES[0], id="a", name="f"), *(call(0, piece) for piece in PIECES[1:])]
    values: list[Any] = []
    shown: list[Any] = []
    for event in handled(*(chunk(tool_calls=[fragment]) for fragment in wire)):
        values.append(event.parsed_arguments)
        shown.append(copy.deepcopy(event.parsed_arguments))
        assert shown[-1] == event.parsed_arguments
    assert shown == [
        {"city": "Par"},
        {"city": "Paris"},
        {"city": "Paris"},
        {"city": "Paris", "days": 3, "units": ["C"]},
        {"city": "Paris", "days": 3, "units": ["C"]},
    ]
    assert [True] * 5 == [value is values[0] for value in values]


def test_parsed_arguments_are_none_before_anything_is_known() -> None:
    wire = [call(0, " ", name="f"), call(0, "\n"), call(0, "{")]
    deltas = handled(*(chunk(tool_calls=[fragment]) for fragment in wire))
    assert [None, None, {}] == [event.parsed_arguments for event in deltas]


def test_each_call_has_its_own_parsed_arguments() -> None:
    wire = [
        call(0, '{"x":', name="f"),
        call(1, '{"y":', name="g"),
        call(0, "[1]"),
        call(1, "[2]"),
        call(0, "}"),
    ]
    values = [event.parsed_arguments for event in handled(*(chunk(tool_calls=[each]) for each in wire))]
    assert [{"x": [1]}, {"y": [2]}, {"x": [1]}, {"y": [2]}, {"x": [1]}] == values
    assert values[0] is values[2] is values[4]


def test_parsed_arguments_are_made_only_when_somebody_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece is parsed once, together with those before it that nobody has read."""
    fed: list[str] = []
    feed = PartialJSON.feed

    def noted(self: PartialJSON, text: str) -> Any:
        fed.append(text)
        return feed(self, text)

    monkeypatch.setattr(PartialJSON, "feed", noted)
    wire = [call(0, PIECES[0], name="f"), *(call(0, piece) for piece in PIECES[1:])]
    events = [*handled(*(chunk(tool_calls=[fragment]) for fragment in wire))]
    assert [] == fed
    assert {"city": "Paris"} == events[1].parsed_arguments, "an event that is read late has its own moment"
    assert {"city": "Paris", "days": 3, "units": ["C"]} == events[4].parsed_arguments
    assert events[4].parsed_arguments is events[0].parsed_arguments, (
        "and later that of the event that was read last"
    )
    assert ["".join(PIECES[:2]), "".join(PIECES[2:])] == fed


def test_parsed_arguments_cost_what_the_delta_costs() -> None:
    """However much came before: an event whose value is read runs as many lines of code."""

    def lines(count: int) -> int:
        wire = [call(0, '{"a":["', name="f"), *[call(0, 'text","')] * count]
        *_, last = handled(*(chunk(tool_calls=[fragment]) for fragment in wire))
        growing = last._memory[2]
        growing.after(count)
        return lines_run(lambda: last.parsed_arguments)

    assert lines(10) == lines(1_000)


def test_parsed_arguments_that_become_invalid_stay() -> None:
    wire = [call(0, '{"a": 1, ', name="f"), call(0, "b: 2, "), call(0, '"c": 3}')]
    deltas = handled(*(chunk(tool_calls=[fragment]) for fragment in wire))
    assert [{"a": 1}] * 3 == [event.parsed_arguments for event in deltas]


def test_parsed_arguments_are_never_nested_deeper_than_other_values() -> None:
    (event,) = handled(chunk(tool_calls=[call(0, "[" * 100, name="f")]))
    assert not is_deeper(event.parsed_arguments)
    assert is_deeper([event.parsed_arguments])


def test_parsed_arguments_of_a_placeholder_and_of_what_replaces_it() -> None:
    """The finish_reason reports `{}`; a server that goes on after it may replace it."""
    wire = [
        chunk(tool_calls=[call(0, "{}", name="f")], finish_reason="tool_calls"),
        chunk(tool_calls=[call(0, '{"x":[')]),
        chunk(tool_calls=[call(0, "1]}")]),
    ]
    values = [(event.arguments, event.parsed_arguments) for event in handled(*wire)]
    assert [("{}", {}), ('{"x":[', {"x": [1]}), ('{"x":[1]}', {"x": [1]})] == values


def test_parsed_arguments_go_on_when_choices_are_read_as_well() -> None:
    """And what was reported as done is not reported again."""
    pieces = ChunkDecoder().feed(
        sse(
            chunk("a", reasoning_content="r"),
            chunk(tool_calls=[call(0, '{"x":"a', name="f"), call(1, "[1]", name="g")]),
            chunk(tool_calls=[call(0, 'b"')]),
            chunk(finish_reason="tool_calls"),
            chunk(tool_calls=[call(0, ', "y":null')]),
        )
    )
    assembler = CompletionAssembler()
    builder = EventBuilder(assembler)
    told: list[Any] = []
    for number, piece in enumerate(pieces):
        if number == 4:
            builder.detach()
        else:
            assembler.add(piece)
        for event in builder.add(piece):
            if event.type == "tool_calls.function.arguments.delta":
                told += [(event.index, copy.deepcopy(event.parsed_arguments))]
    assert [(0, {"x": "a"}), (1, [1]), (0, {"x": "ab"}), (0, {"x": "ab", "y": None})] == told
    (done,) = builder.end()
    assert done.type == "tool_calls.function.arguments.done"
    assert (0, '{"x":"ab", "y":null') == (done.index, done.arguments)


ALL_KINDS = [
    chunk("a", role="assistant", reasoning_content="r", refusal="n"),
    chunk(logprobs={"content": [entry("a")], "refusal": [entry("n")]}),
    chunk(tool_calls=[call(0, "{}", id="c", name="f")]),
    chunk(tool_calls=[call(0, " ")], finish_reason="stop", usage={"prompt_tokens": 1}),
]


def test_every_event_converts_to_plain_data_as_messages_do() -> None:
    """Each field and nothing else, so that a stored event is small."""
    events = events_of(*ALL_KINDS)
    kinds = {kind.__name__ for kind in get_args(ChatCompletionStreamEvent)}
    assert kinds == {type(event).__name__ for event in events}, "add a chunk to ALL_KINDS for each new event"
    for event in events:
        dump = event.model_dump()
        assert set(type(event).__struct_fields__) == dump.keys()
        assert dump == json.loads(event.model_dump_json())
        assert event.to_dict() == json.loads(event.to_json()) == event.model_dump(exclude_none=True)
        assert event.type == event.to_dict()["type"]
        assert msgspec.json.decode(msgspec.json.encode(event)).keys() == dump.keys()
    delta = next(event for event in events if event.type == "content.delta")
    assert {"turn": 0, "type": "content.delta", "choice": 0, "delta": "a"} == delta.to_dict()
    assert "ContentDeltaEvent(turn=0, type='content.delta', choice=0, delta='a')" == repr(delta)


def pickled(event: Any, protocol: int = pickle.DEFAULT_PROTOCOL) -> Any:
    return pickle.loads(pickle.dumps(event, protocol))  # noqa: S301  # our own


@pytest.mark.parametrize(
    "copied", [pickled, partial(pickled, protocol=0), partial(pickled, protocol=1), copy.deepcopy, copy.copy]
)
def test_a_copy_of_an_event_is_equal_and_has_no_snapshot(copied: Any) -> None:
    """A snapshot would make each stored event as large as everything before it."""
    for event in events_of(*ALL_KINDS):
        again = copied(event)
        assert event == again
        assert repr(event) == repr(again)
        shown = [name for name in ("snapshot", "arguments", "parsed_arguments") if hasattr(event, name)]
        if event.type.endswith(".delta") or event.type == "chunk":
            assert shown
            for name in shown:
                with pytest.raises(AttributeError, match="a copy of an event has no snapshot"):
                    getattr(again, name)
        else:
            assert [getattr(event, name) for name in shown] == [getattr(again, name) for name in shown]


def test_the_size_of_an_event_does_not_depend_on_what_came_before() -> None:
    logprobs = {"content": [entry("x")], "refusal": [entry("x")]}
    pieces = chunk("x", reasoning_content="x", refusal="x", logprobs=logprobs, tool_calls=[call(0, "[")])
    events = events_of(*[pieces] * 100)
    for kind in {event.type for event in events if event.type.endswith("delta")} | {"chunk"}:
        first, *_, last = (event for event in events if event.type == kind)
        assert len(repr(first)) == len(repr(last))
        assert len(pickle.dumps(first)) == len(pickle.dumps(last))
        assert len(msgspec.json.encode(first)) == len(msgspec.json.encode(last))
