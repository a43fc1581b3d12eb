"""Events of typed answers: what is known so far at each delta, and the value at the end."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from msgspec import Struct
from work import lines_run

from gradient_async import (
    Answer,
    ChatCompletion,
    ChatCompletionChunk,
    OutputDecodeError,
    ParsedChatCompletion,
)
from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.events import EventBuilder
from gradient_async.partial import PartialJSON
from gradient_async.testing import chunk


class Page(Struct):
    text: str
    numbers: list[int] = []


def events_of(answer: Answer[Any] | None, *pieces: str, end: bool = True, **options: Any) -> list[Any]:
    """Return the events of a text in these pieces."""
    assembler = CompletionAssembler(n=1, limits=Limits())
    builder = EventBuilder(assembler, answer, **options)
    wire = [*map(chunk, pieces), *([chunk(finish_reason="stop")] if end else [])]
    events: list[Any] = []
    for each in wire:
        decoded = ChatCompletionChunk.model_validate(each)
        assembler.add(decoded)
        events += builder.add(decoded)
    return [*events, *builder.end()]


def deltas(events: list[Any]) -> list[Any]:
    return [event for event in events if event.type == "content.delta"]


PAGE = json.dumps({"text": 'a "b" \\ é', "numbers": [1, 22, 3]})


@pytest.mark.parametrize(
    "text",
    [PAGE, json.dumps({"value": [1, [2, {"a": None}], True]}), f"```json\n{PAGE}\n```", f"\u00a0\n{PAGE}"],
)
@pytest.mark.parametrize("answer", [Answer(Page), Answer(list[Any])])
def test_what_is_known_at_every_cut(text: str, answer: Answer[Any]) -> None:
    """Whole, piece by piece and cut once at every position: what `PartialJSON` knows of the JSON, unwrapped."""
    start = text.index("{")
    for cut in range(len(text) + 1):
        before, after = (answer.unwrap(PartialJSON().feed(part[start:])) for part in (text[:cut], text))
        known = [copy.deepcopy(event.parsed) for event in deltas(events_of(answer, text[:cut], text[cut:]))]
        assert [before, after][-len(known) :] == known
    events = deltas(events_of(answer, *text))
    seen = [copy.deepcopy(event.parsed) for event in events]
    assert [answer.unwrap(PartialJSON().feed(text[start : end + 1])) for end in range(len(text))] == seen


def test_without_a_type_nothing_is_parsed() -> None:
    events = events_of(None, '{"a":', "1}")
    assert {None} == {event.parsed for event in events if event.type.startswith("content.")}


def test_it_is_made_only_when_somebody_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fed: list[str] = []
    feed = PartialJSON.feed

    def note(json_: PartialJSON, text: str) -> Any:
        fed.append(text)
        return feed(json_, text)

    monkeypatch.setattr(PartialJSON, "feed", note)
    events = deltas(events_of(Answer(Page), '{"text":', '"a', 'b"', "}"))
    assert not fed
    assert {"text": "a"} == events[1].parsed
    assert {"text": "ab"} == events[3].parsed
    assert ['{"text":"a', 'b"}'] == fed


@pytest.mark.parametrize("start", ['{"text":"', '```json\n{"text":"'])
def test_it_costs_what_the_delta_costs(start: str) -> None:
    def cost(count: int) -> int:
        *_, before, last = deltas(events_of(Answer(Page), start, *["xxxxx"] * count, end=False))
        assert before.parsed is not None
        return lines_run(lambda: last.parsed)

    assert cost(10) == cost(1000)


@pytest.mark.parametrize("text", ["no JSON at all", "``` x", "`" * 200, "```" + "x" * 200 + '{"text":""}'])
def test_a_text_that_is_no_answer_shows_nothing(text: str) -> None:
    events = deltas(events_of(Answer(Page), *text, *text))
    assert {None} == {event.parsed for event in events}


def test_arguments_end_as_they_grew() -> None:
    """The value of the whole arguments is that of their last piece, also with half of a surrogate pair in it."""
    assembler = CompletionAssembler(n=1, limits=Limits())
    builder = EventBuilder(assembler)
    events: list[Any] = []
    for piece in ('{"a":"b\\ud8', '3d", "n":', "1.0}"):
        call = {"index": 0, "id": "c", "function": {"name": "f", "arguments": piece}}
        decoded = ChatCompletionChunk.model_validate(chunk(tool_calls=[call]))
        assembler.add(decoded)
        events += builder.add(decoded)
    grown = [event.parsed_arguments for event in events if event.type.endswith("arguments.delta")][-1]
    (done,) = builder.end()
    assert {"a": "b\ufffd", "n": 1.0} == grown == done.parsed_arguments  # type: ignore[union-attr]
    calls = assembler.completion.choices[0].message.tool_calls
    assert calls is not None and grown == calls[0].function.parsed_arguments


def test_a_value_is_decoded_once() -> None:
    (done,) = [event for event in events_of(Answer(Page), PAGE) if event.type == "content.done"]
    assert Page('a "b" \\ é', [1, 22, 3]) == done.parsed
    assert done.parsed is done.parsed


@pytest.mark.parametrize("options", [{}, {"get_completion": lambda: ChatCompletion(id="other")}])
def test_the_error_has_the_completion(options: dict[str, Any]) -> None:
    """That of the assembler, or whatever the builder was given."""
    (done,) = [event for event in events_of(Answer(Page), "no", **options) if event.type == "content.done"]
    with pytest.raises(OutputDecodeError) as raised:
        _ = done.parsed
    completion = raised.value.completion
    assert (ParsedChatCompletion, "no", 0) == (type(completion), raised.value.text, raised.value.choice)
    assert ("other" if options else chunk()["id"]) == completion.id


def test_a_text_that_continues_after_its_end_is_judged_again() -> None:
    """Some servers send a finish_reason early: the last `content.done` has the whole text."""
    assembler = CompletionAssembler(n=1, limits=Limits())
    builder = EventBuilder(assembler, Answer(Page))
    events: list[Any] = []
    for each in (chunk('{"text"', finish_reason="stop"), chunk(':"a"}')):
        decoded = ChatCompletionChunk.model_validate(each)
        assembler.add(decoded)
        events += builder.add(decoded)
    events += builder.end()
    first, last = [event for event in events if event.type == "content.done"]
    assert Page("a") == last.parsed
    with pytest.raises(OutputDecodeError):
        _ = first.parsed
