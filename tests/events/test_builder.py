"""Chunks become typed events, with snapshots of their moment."""

from __future__ import annotations

from typing import Any

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.events import ChatCompletionStreamEvent, EventBuilder
from gradient_async.testing import chunk, sse


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
    assert [{}, {"x": 1}, {"x": 1}] == [event.parsed_arguments for event in deltas]
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


def test_log_probabilities_of_text_and_refusal_are_told_whole_at_the_end() -> None:
    logprobs = {"content": [entry("a")], "refusal": [entry("n")]}
    events = events_of(chunk("a", refusal="n", logprobs=logprobs), chunk("b", logprobs=logprobs))
    whole: list[Any] = [
        event for event in events if event.type.startswith("logprobs") and "done" in event.type
    ]
    assert ["logprobs.content.done", "logprobs.refusal.done"] == [event.type for event in whole]
    assert (["a", "a"], ["n", "n"]) == (
        [each.token for each in whole[0].content],
        [each.token for each in whole[1].refusal],
    )


def test_arguments_that_are_no_json_are_told_as_they_are() -> None:
    (done,) = (
        event
        for event in events_of(chunk(tool_calls=[call(0, "{x", id="a", name="f")]))
        if event.type == "tool_calls.function.arguments.done"
    )
    assert ("{x", None) == (done.arguments, done.parsed_arguments)
