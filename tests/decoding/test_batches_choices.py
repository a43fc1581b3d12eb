"""Batches of a tool call's arguments, and of the text of several choices that take turns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from event_streams import decode_in_slices, decode_whole, tolerant_events
from wire import DONE, delta, event, text

from gradient_async.assembly import CompletionAssembler
from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamError
from gradient_async.types import ChatCompletionChunk, TextBatch


def piece(arguments: str, **more: Any) -> bytes:
    return event(delta(tool_calls=[{"index": 1, "function": {"arguments": arguments}}], **more))


def of(index: int, content: str, name: str = "content", **more: Any) -> bytes:
    return compact(event(delta(index, **{name: content}, **more)))


def compact(wire: bytes) -> bytes:
    """Write an event as servers that decode quickly do: an index stands without white space before it."""
    return (
        b"data: "
        + json.dumps(json.loads(wire[6:]), separators=(",", ":"), ensure_ascii=False).encode()
        + b"\n\n"
    )


def batch_of(*events: bytes, first: bytes = b"", **options: Any) -> TextBatch | None:
    """Decode a block twice; return the batch it is the second time, if it is one."""
    decoder = ChunkDecoder(**options)
    decoder.feed(first or b"".join(events))
    decoder.push(b"".join(events))
    batch = decoder.decode_slice()
    expected = ChunkDecoder(**options).feed(b"".join(tolerant_events(b"".join(events))))
    assert expected == list(batch)
    return batch if isinstance(batch, TextBatch) else None


class TestArguments:
    def test_pieces_of_arguments_are_a_batch(self) -> None:
        batch = batch_of(piece("a"), piece('{"b": "'), piece(""), piece("c"))
        assert batch is not None
        assert ("arguments", 0, ["a", '{"b": "', "", "c"]) == (batch.field, batch.choice, batch.texts)

    @pytest.mark.parametrize(
        "more",
        [
            {"index": 0, "id": "c"},
            {"index": 0, "type": "function"},
            {"index": 0, "custom": {}},
            {"index": 0, "extra_content": {}},
        ],
    )
    def test_a_call_that_says_more_is_none(self, more: dict[str, Any]) -> None:
        call = more | {"function": {"arguments": "a"}}
        assert None is batch_of(event(delta(tool_calls=[call])), event(delta(tool_calls=[call])))

    def test_nor_one_that_has_a_name_or_company(self) -> None:
        named = event(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": "a"}}]))
        two = event(
            delta(
                tool_calls=[
                    {"index": 0, "function": {"arguments": "a"}},
                    {"index": 1, "function": {"arguments": ""}},
                ]
            )
        )
        both = event(delta(tool_calls=[{"index": 0, "function": {"arguments": "a"}}, {"index": 0}]))
        for odd in (named, two, both, piece("a", content="b"), piece("a", reasoning_content="b")):
            assert None is batch_of(odd, odd)

    @pytest.mark.parametrize("most", [None, 1, 3])
    @pytest.mark.parametrize("opened", [True, False])
    def test_they_add_up_to_what_each_does(self, most: int | None, opened: bool) -> None:
        batch = batch_of(piece("a"), piece("bc"), piece("d"))
        assert batch is not None
        first = event(
            delta(tool_calls=[{"index": 1, "id": "c", "function": {"name": "f", "arguments": "x"}}])
        )
        same_sums(ChunkDecoder().feed(first) if opened else [], batch, limits=Limits(completion_bytes=most))

    def test_those_of_a_call_too_many_are_refused(self) -> None:
        batch = batch_of(piece("a"), piece("b"))
        assert batch is not None
        same_sums([], batch, limits=Limits(tool_calls=1))


class TestSeveral:
    @pytest.mark.parametrize("name", ["content", "reasoning_content"])
    def test_choices_that_take_turns_are_a_batch(self, name: str) -> None:
        events = [
            of(index, content, name)
            for index, content in zip([3, 0, 9, 9, 1], ["a", "\n", "", "b", "c"], strict=True)
        ]
        batch = batch_of(*events)
        assert batch is not None
        assert ([3, 0, 9, 9, 1], ["a", "\n", "", "b", "c"], -1, name) == (
            batch.choices,
            batch.texts,
            batch.choice,
            batch.field,
        )
        assert list(batch)[1:3] == list(batch[1:3])
        assert list(batch)[1] == batch[1]
        alone = batch_of(events[0], first=b"".join(events))
        assert alone is not None
        assert [3] == alone.choices

    @pytest.mark.parametrize(
        "odd",
        [
            of(10, "a"),
            of(-1, "a"),
            of(1, "a").replace(b'"index":1', b'"index":"1"'),
            of(1, "a").replace(b'"index":1', b'"index":01'),
            of(1, "a").replace(b'"index":1', b'"index":1.0'),
            of(1, "a").replace(b'"index":1', b'"index": 1'),
            of(1, "a").replace(b'"index":1', b'"index":'),
            of(1, "a").replace(b'"index":1', b'"index":a'),
            of(1, "a").replace(b'"index":1,', b""),
            of(1, "a").replace(b'"index":1,', b'"index":11,'),
            of(1, "a").replace(b'"index":1,"delta":{"content":"a"', b'"index":1"'),
            of(1, "a", refusal="b"),
            of(1, "a")[:-3] + b',"usage":{"total_tokens":1}}\n\n',
            of(1, "a").replace(b'"a"', b'"a" "b"'),
            of(1, "a").replace(b'"a"', b'"a'),
            of(1, "a").replace(b'"a"', b'a"'),
            text("a"),
            b": c\n\n",
        ],
    )
    def test_an_event_that_is_not_like_the_others_has_all_decoded(self, odd: bytes) -> None:
        usual = [of(index, "a") for index in (0, 1, 2)]
        for at in range(4):
            wire = b"".join([*usual[:at], odd, *usual[at:]])
            pieces = [b"".join(usual), wire, odd, wire + DONE]
            expected = decode_whole(tolerant_events(b"".join(pieces)), on_bad_event="skip")
            assert expected == decode_whole(pieces, on_bad_event="skip")
            assert expected == decode_in_slices(pieces, on_bad_event="skip")[0]
            decoder = ChunkDecoder(on_bad_event="skip")
            decoder.feed(b"".join(usual))
            decoder.push(wire)
            assert not isinstance(decoder.decode_slice(), TextBatch)

    @pytest.mark.parametrize(
        "events",
        [
            [event(delta(0, content="a")), event(delta(1, content="a"))],  # a space before the index
            [of(11, "a"), of(12, "a")],
            [of(0, "index"), of(1, "index")],
            [of(0, "a").replace(b'"index":0,', b""), of(1, "a").replace(b'"index":1,', b'"index":1 ,')],
            [of(0, "a", x={"index": 0}), of(1, "a", x={"index": 0})],
            [of(0, "a").replace(b"0,", b"0.0,"), of(1, "a").replace(b"1,", b"1.0,")],
            [compact(event(delta(0, tool_calls=[{"function": {"arguments": "a"}}]))),
             compact(event(delta(1, tool_calls=[{"function": {"arguments": "a"}}])))],
            [compact(event(delta(0, tool_calls=[{"index": 0, "function": {"arguments": "a"}}]))),
             compact(event(delta(1, tool_calls=[{"index": 0, "function": {"arguments": "a"}}])))],
            [compact(event(delta(0, content="a"), x=[{"index": 0}])), compact(event(delta(1, content="a"), x=[{"index": 0}]))],
        ],
    )  # fmt: skip
    def test_only_the_index_itself_is_taken_for_it(self, events: list[bytes]) -> None:
        batch = batch_of(*events)
        assert batch is None or batch.choices == [0, 1]
        if batch is not None:
            same_sums([], batch)
            same_sums(list(batch), batch)

    def test_an_index_inside_another_field_is_not_that_of_the_choice(self) -> None:
        """Though it is the last one before the text, and choices take turns."""
        events = [
            compact(event({"index": index, "x": {"index": 5}, "delta": {"content": "a"}})) for index in (1, 0)
        ]
        batch = batch_of(events[1], first=b"".join(events))
        assert batch is not None
        assert (0, None) == (batch.choice, batch.choices)

    @pytest.mark.parametrize(
        ("n", "limit", "good"), [(None, 1, True), (1, 4, True), (3, 1, True), (1, 3, False)]
    )
    def test_a_choice_too_many_is_refused_before_anybody_sees_it(
        self, n: int | None, limit: int, good: bool
    ) -> None:
        pieces = [
            of(0, "a") + of(1, "b") + of(0, "c"),
            of(2, "a") + of(1, "b"),
            of(3 - good, "c") + of(0, "d"),
        ]
        options: dict[str, Any] = {"n": n, "limits": Limits(choices=limit)}
        assert decode_whole(tolerant_events(b"".join(pieces)), **options) == decode_whole(pieces, **options)
        assert good == (not decode_whole(pieces, **options)[1])

    @pytest.mark.parametrize("name", ["content", "reasoning_content"])
    @pytest.mark.parametrize("more", [{}, {"role": "assistant"}])
    @pytest.mark.parametrize("most", [None, 1, 5])
    @pytest.mark.parametrize("choices", [128, 2])
    @pytest.mark.parametrize("begun", [[], [0, 1], [0, 1, 2]])
    def test_they_add_up_to_what_each_does(
        self, name: str, more: dict[str, Any], most: int | None, choices: int, begun: list[int]
    ) -> None:
        events = [
            of(index, content, name, **more) for index, content in ((0, "a"), (1, "bc"), (2, "d"), (0, "ef"))
        ]
        batch = batch_of(*events)
        assert batch is not None
        assert batch.choices is not None
        role = {"role": "r"} if most is None else {}
        before = [chunk for index in begun for chunk in ChunkDecoder().feed(of(index, "x", **role))]
        same_sums(before, batch, limits=Limits(completion_bytes=most, choices=choices))

    @pytest.mark.parametrize("name", ["system_fingerprint", "service_tier"])
    def test_what_stands_beside_text_counts_as_well(self, name: str) -> None:
        events = [compact(event(delta(index, content="a"), **{name: "f"})) for index in (0, 1, 0)]
        batch = batch_of(*events)
        assert batch is not None
        same_sums(ChunkDecoder().feed(of(0, "x") + of(1, "x")), batch)


def same_sums(before: list[ChatCompletionChunk], batch: TextBatch, **options: Any) -> None:
    """Check that a batch adds up to what its chunks do, and is refused where one of them is."""
    by_batch, one_by_one = CompletionAssembler(**options), CompletionAssembler(**options)
    errors: list[list[str]] = []
    for assembler, parts in ((by_batch, [batch]), (one_by_one, [[chunk] for chunk in batch])):
        errors.append([])
        for part in [before, *parts]:
            try:
                assembler.extend(part)
            except StreamError as error:
                errors[-1].append(error.message)
    assert errors[1][:1] == errors[0][:1]
    assert one_by_one.completion == by_batch.completion
