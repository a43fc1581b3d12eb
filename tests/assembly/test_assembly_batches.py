"""Batches of text add up to what their chunks add up to."""

from __future__ import annotations

import random
from typing import Any

import pytest
from event_streams import make_batch
from wire import delta, event, text

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamLimitError, StreamProtocolError
from gradient_async.types import ChatCompletionChunk, TextBatch


def decoded(wire: bytes) -> list[ChatCompletionChunk]:
    return ChunkDecoder().feed(wire)


class TestAssembled:
    """To add a batch is to add each of its chunks, wherever it is cut."""

    @pytest.mark.parametrize(
        ("name", "more"),
        [
            ("content", {}),
            ("content", {"role": "assistant", "reasoning_content": ""}),
            ("reasoning_content", {}),
            ("reasoning_content", {"role": "x", "content": ""}),
        ],
    )
    @pytest.mark.parametrize("index", [0, 2])
    @pytest.mark.parametrize("most", [None, 1, 2, 5, 6])
    def test_wherever_it_is_cut(self, name: str, more: dict[str, Any], index: int, most: int | None) -> None:
        batch = make_batch("b", "", "cd", "efg", name=name, index=index, **more)
        limits = Limits(completion_bytes=most)
        one_by_one = CompletionAssembler(limits=limits)
        refusals = 0
        for chunk in batch:
            try:
                one_by_one.add(chunk)
            except StreamLimitError:
                refusals += 1
        assert (most is not None and most < 6) == bool(refusals)
        for first in range(len(batch) + 1):
            for second in range(first, len(batch) + 1):
                assembler = CompletionAssembler(limits=limits)
                refused: list[str] = []
                for part in (batch[:first], batch[first:second], batch[second:]):
                    try:
                        assembler.extend(part)
                    except StreamLimitError as error:
                        refused.append(error.message)
                assert bool(refusals) == bool(refused)
                assert one_by_one.completion == assembler.completion, "what was received is in .partial"

    def test_among_other_chunks(self) -> None:
        """Text of several choices, with everything else a chunk may have in between."""
        others = ChunkDecoder().feed(
            event(delta(role="assistant", content=""))
            + text("x", usage={"total_tokens": 1})
            + event(delta(1, content="y"))
            + event(delta(content="r") | {"logprobs": {"content": [{"token": "r", "logprob": -1}]}})
            + event(delta(tool_calls=[{"index": 0, "id": "c"}]))
            + event(delta(content="f") | {"finish_reason": "stop"})
        )
        batches = [
            make_batch("b", "c"),
            make_batch("d", "e", index=1),
            make_batch("g", "h", name="reasoning_content"),
            make_batch(""),
        ]
        dice = random.Random(3)
        for _ in range(60):
            parts: list[Any] = [dice.choice([*batches, [dice.choice(others)]]) for _ in range(8)]
            by_batch, one_by_one = CompletionAssembler(n=2), CompletionAssembler(n=2)
            for part in parts:
                by_batch.extend(part)
                for chunk in part:
                    one_by_one.add(chunk)
            assert one_by_one.completion == by_batch.completion
            assert one_by_one.complete == by_batch.complete

    @pytest.mark.parametrize("finish", [None, 0, 1])
    @pytest.mark.parametrize("most", [None, 6])
    def test_of_several_choices(self, finish: int | None, most: int | None) -> None:
        """Also where one of them has had a finish_reason: content takes it back."""
        wire = [event(delta(index, content="a")).replace(b'": ', b'":') for _ in range(5) for index in (0, 1)]
        decoder = ChunkDecoder()
        begun = decoder.feed(b"".join(wire[:4]))
        decoder.push(b"".join(wire))
        batch = decoder.decode_slice()
        assert isinstance(batch, TextBatch)
        assert batch.choices is not None
        by_batch, one_by_one = (
            CompletionAssembler(n=2, limits=Limits(completion_bytes=most)) for _ in range(2)
        )
        for assembler in (by_batch, one_by_one):
            assembler.extend(begun)
            if finish is not None:
                assembler.extend(decoded(event(delta(finish) | {"finish_reason": "stop"})))
        refused = 0
        try:
            by_batch.extend(batch)
        except StreamLimitError:
            refused += 1
        for piece in batch:
            try:
                one_by_one.add(piece)
            except StreamLimitError:
                refused += 1
        assert (refused > 0) == (most is not None)
        assert one_by_one.completion == by_batch.completion
        assert [state.finished for state in one_by_one.choices.values()] == [
            state.finished for state in by_batch.choices.values()
        ]

    def test_arguments_after_a_finish_reason_take_it_back(self) -> None:
        begin = event(delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}]))
        more = event(delta(tool_calls=[{"index": 0, "function": {"arguments": "1"}}])).replace(b'": ', b'":')
        decoder = ChunkDecoder()
        begun = decoder.feed(begin + 2 * more)
        decoder.push(5 * more)
        batch = decoder.decode_slice()
        assert isinstance(batch, TextBatch)
        assert batch.field == "arguments"
        assembler = CompletionAssembler()
        assembler.extend(begun)
        assembler.extend(decoded(event(delta() | {"finish_reason": "tool_calls"})))
        before = assembler.finished
        assembler.extend(batch)
        assert (True, False) == (before, assembler.finished)
        (call,) = assembler.completion.choices[0].message.tool_calls or []
        assert call.function.arguments == "1111111"

    @pytest.mark.parametrize(("index", "kind"), [(-1, StreamProtocolError), (999, StreamLimitError)])
    def test_a_choice_that_is_refused_is_refused_as_such(self, index: int, kind: type[Exception]) -> None:
        assembler = CompletionAssembler()
        with pytest.raises(kind):
            assembler.extend(make_batch("b", "c", index=index))
        assert (True, "c-1", []) == (assembler.seen, assembler.id, assembler.completion.choices)

    @pytest.mark.parametrize("reason", ["not begun", "", "stop"])
    def test_the_first_chunk_counts_whatever_it_ends_with(self, reason: str) -> None:
        assembler = CompletionAssembler()
        assembler.extend(ChunkDecoder().feed(event(delta(content="a") | {"finish_reason": reason})))
        choice = assembler.completion.choices[0]
        assert ("a", reason or None) == (choice.message.content, choice.finish_reason)


@pytest.mark.parametrize(
    "name", ["system_fingerprint", "service_tier", "retrieval", "functions", "guardrails"]
)
def test_what_stands_beside_text_counts_by_itself(name: str) -> None:
    assembler = CompletionAssembler()
    value: Any = "x" if name in ("system_fingerprint", "service_tier") else {"a": 1}
    assembler.extend(ChunkDecoder().feed(text("a") + text("b", **{name: value})))
    assert value == getattr(assembler.completion, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("refusal", "x"),
        ("annotations", [1]),
        ("audio", {"data": "x"}),
        ("reasoning_details", [{"a": 1}]),
        ("extra_content", {"a": 1}),
        ("content_parts", ["b"]),
        ("reasoning_content", "x"),
    ],
)
def test_what_a_choice_that_has_begun_adds_beside_text_counts(name: str, value: Any) -> None:
    assembler = CompletionAssembler()
    assembler.extend(ChunkDecoder().feed(text("a") + event(delta(content="b", **{name: value})) + text("c")))
    message = assembler.completion.choices[0].message
    assert ("abc", value) == (message.content, getattr(message, name))


def test_so_does_what_ends_it_and_what_it_took() -> None:
    assembler = CompletionAssembler()
    last = event(
        delta(content="b", function_call={"name": "f"}) | {"finish_reason": "x"}, usage={"total_tokens": 3}
    )
    assembler.extend(ChunkDecoder().feed(text("a") + last))
    completion = assembler.completion
    assert ("ab", "x") == (completion.choices[0].message.content, completion.choices[0].finish_reason)
    assert completion.usage is not None
    assert 3 == completion.usage.total_tokens
    assert completion.choices[0].message.function_call is not None
    assert "f" == completion.choices[0].message.function_call.name


def test_an_answer_whose_name_comes_late_gets_it() -> None:
    assembler = CompletionAssembler()
    assembler.extend(ChunkDecoder().feed(text("a", id="", model="") + text("b", id="i", model="m")))
    assert ("i", "m") == (assembler.id, assembler.model)


@pytest.mark.parametrize(("role", "head"), [("tool", {"id": "", "model": ""}), (None, {})])
def test_choices_that_take_turns_bring_what_had_not_come(role: str | None, head: dict[str, Any]) -> None:
    wire = [
        event(delta(index, role="tool", content="a")).replace(b'": ', b'":')
        for _ in range(5)
        for index in (0, 1)
    ]
    decoder = ChunkDecoder()
    decoder.feed(b"".join(wire[:4]))
    decoder.push(b"".join(wire))
    batch = decoder.decode_slice()
    assert isinstance(batch, TextBatch)
    assert batch.choices is not None
    assembler = CompletionAssembler(n=2)
    for index in (0, 1):
        assembler.extend(decoded(event(delta(index, role=role, content="b"), **head)))
    assembler.extend(batch)
    completion = assembler.completion
    assert ("c-1", "m") == (completion.id, completion.model)
    assert [("tool", "baaaaa")] * 2 == [
        (each.message.role, each.message.content) for each in completion.choices
    ]
