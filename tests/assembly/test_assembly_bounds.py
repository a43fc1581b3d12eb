"""`CompletionAssembler` keeps what few servers send, within limits, at a cost that stays flat."""

from __future__ import annotations

import copy
import pickle
import random
import sys
import tracemalloc
from types import FrameType
from typing import Any

import msgspec
import pytest
from chunking import assembled, chunk, head, message
from event_streams import make_batch

from gradient_async.assembly import CompletionAssembler, completion, kept_size
from gradient_async.assembly.json_text import MAX_PIECE
from gradient_async.config import Limits
from gradient_async.decoding import encode_request
from gradient_async.errors import StreamLimitError, StreamProtocolError
from gradient_async.types import ChatCompletion, ChatCompletionChunk, CompletionUsage, Function, TextBatch

CALL_SIZE = 4096  # of a tool call, beside its text


class TestRest:
    def test_function_call_of_the_older_form(self) -> None:
        pieces: list[dict[str, Any]] = [
            {"name": "f"},
            {"arguments": '{"a"'},
            {"name": "g", "arguments": ":1}"},
            {},
        ]
        found = message(*(chunk(function_call=piece) for piece in pieces)).function_call
        assert found is not None
        assert ("f", '{"a":1}') == (found.name, found.arguments)
        assert None is message(chunk()).function_call
        assert Function() == message(chunk(function_call={})).function_call

    def test_function_call_by_the_rule_for_tool_calls(self) -> None:
        pieces: list[dict[str, Any]] = [
            {"name": "get_"},
            {"name": "weather", "arguments": '{"a":1}'},
            {"name": "get_weather", "arguments": '{ "a": 1 }'},
        ]
        found = message(*(chunk(function_call=piece) for piece in pieces)).function_call
        assert Function(name="get_weather", arguments='{"a":1}') == found

    def test_fragments_of_reasoning_details_join(self) -> None:
        """By type and index, in the order of their beginnings; entries without an index stay apart."""
        pieces: list[list[Any]] = [
            [{"type": "t", "index": 0, "text": "a", "format": "f", "id": None, "signature": ""}],
            [{"type": "s", "index": 0, "summary": "x"}, {"type": "t", "text": "alone"}],
            [{"type": "t", "index": 0, "text": "b", "signature": "s", "format": "", "id": "i"}],
            [{"type": "t", "index": None, "text": "alone"}, "text", {"type": ["t"], "index": 0}],
            [{"type": "s", "index": 0, "summary": "y"}, {"type": "t", "index": 1, "data": "d", "text": None}],
            [{"index": 0, "text": "no "}, {"index": 0, "text": "type"}],
            [{"type": "t", "index": 0, "text": None, "signature": "last"}],
        ]
        found = message(*(chunk(reasoning_details=piece) for piece in pieces)).reasoning_details
        assert [
            {"type": "t", "index": 0, "text": "ab", "format": "f", "signature": "last", "id": "i"},
            {"type": "s", "index": 0, "summary": "xy"},
            {"type": "t", "text": "alone"},
            {"type": "t", "index": None, "text": "alone"},
            "text",
            {"type": ["t"], "index": 0},
            {"type": "t", "index": 1, "data": "d", "text": None},
            {"index": 0, "text": "no type"},
        ] == found

    def test_the_last_value_that_is_not_empty_text_counts(self) -> None:
        pieces: list[Any] = [{"x": 1, "y": "", "z": "a"}, {"x": 0, "y": None, "z": ""}]
        assert {"x": 0, "y": "", "z": "a"} == message(*(chunk(audio=piece) for piece in pieces)).audio

    def test_items_of_a_list_count_less_than_fields_that_are_merged(self) -> None:
        assert 2 * 64 + len("[1,2,3]") == kept_size([1, 2, 3])
        assert 320 + 512 + len('{"a":1,"b":2}') == kept_size({"a": 1, "b": 2})
        assert len("[1,2,{€") + 2 == kept_size("[1,2,{€")

    def test_lists_join(self) -> None:
        for name in ("annotations", "reasoning_details", "content_parts", "images"):
            found = message(chunk(**{name: [1]}), chunk(**{name: None}), chunk(**{name: [{"a": 2}, 3]}))
            assert [1, {"a": 2}, 3] == getattr(found, name)
            assert None is getattr(message(chunk()), name)

    def test_audio_joins_its_data_and_transcript(self) -> None:
        pieces: list[Any] = [
            {"id": "a1", "transcript": "Hel"},
            {"data": "QU", "transcript": "lo"},
            {"data": "I="},
            {"id": None, "expires_at": 9, "data": None},
        ]
        found = message(*(chunk(audio=piece) for piece in pieces)).audio
        assert {"id": "a1", "transcript": "Hello", "data": "QUI=", "expires_at": 9} == found
        assert ("x", None) == (message(chunk(audio="x")).audio, message(chunk()).audio)
        assert {"data": "x"} == message(chunk(audio={"data": 5}), chunk(audio={"data": "x"})).audio

    def test_extra_content_merges(self) -> None:
        found = message(chunk(extra_content={"g": {"a": 1}}), chunk(extra_content={"g": {"b": 2}}), chunk())
        assert {"g": {"a": 1, "b": 2}} == found.extra_content

    def test_merging_goes_16_levels_deep(self) -> None:
        """Below them the newer piece replaces the older, and no snapshot is changed by a later piece."""

        def tree(depth: int, leaf: dict[str, int]) -> Any:
            return leaf if depth == 0 else {"a": tree(depth - 1, leaf)}

        for depth, expected in ((15, {"x": 1, "y": 2}), (16, {"y": 2})):
            assembler = CompletionAssembler()
            assembler.add(head(retrieval=tree(depth, {"x": 1})))
            before = assembler.completion
            assembler.add(head(retrieval=tree(depth, {"y": 2})))
            assert tree(depth, expected) == assembler.completion.retrieval
            assert tree(depth, {"x": 1}) == before.retrieval

    def test_chunks_are_not_changed(self) -> None:
        pieces = [
            chunk(extra_content={"g": {"a": 1}}),
            chunk(extra_content={"g": {"b": 2}}),
            chunk(annotations=[1]),
            chunk(annotations=[2]),
        ]
        before = [piece.to_dict() for piece in pieces]
        assembled(*pieces)
        assert before == [piece.to_dict() for piece in pieces]


class TestAtAnyMoment:
    def test_a_snapshot_is_what_has_come_and_stays(self) -> None:
        """A new object each time, which later chunks do not change."""
        pieces = [
            chunk(role="assistant", content="a", extra_content={"g": {"a": 1}}, audio={"data": "x"}),
            chunk(
                content="b", tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "{"}}]
            ),
            chunk(
                extra_content={"g": {"b": 2}},
                audio={"data": "y"},
                annotations=[1],
                logprobs={"content": [{"token": "t"}]},
            ),
            chunk(
                tool_calls=[{"index": 0, "function": {"arguments": "}"}, "extra_content": {"k": {"v": 1}}}]
            ),
            chunk(
                annotations=[2],
                tool_calls=[{"index": 0, "extra_content": {"k": {"w": 1}}}],
                logprobs={"content": [{"token": "u"}]},
            ),
            head(retrieval={"a": {"b": 1}}),
            head(retrieval={"a": {"c": 1}}),
        ]
        assembler = CompletionAssembler()
        snapshots: list[tuple[ChatCompletion, str]] = []
        for piece in pieces:
            assembler.add(piece)
            found = assembler.completion
            snapshots.append((found, found.to_json()))
        for count, (found, then) in enumerate(snapshots, 1):
            assert then == found.to_json()
            assert assembled(*pieces[:count]) == found
        calls = snapshots[-1][0].choices[0].message.tool_calls
        assert calls is not None
        assert {"k": {"v": 1, "w": 1}} == calls[0].extra_content

    def test_the_message_goes_into_the_next_request(self) -> None:
        reply = message(
            chunk(role="assistant", reasoning_content="r"),
            chunk(
                tool_calls=[
                    {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ]
            ),
        )
        body = encode_request({"model": "m", "messages": [reply]}, stream=None)
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
        assert {
            "model": "m",
            "messages": [
                {"role": "assistant", "reasoning_content": "r", "tool_calls": [call], "content": None}
            ],
        } == msgspec.json.decode(body)


class TestLimits:
    @pytest.mark.parametrize(
        "delta",
        [
            {"content": "12345"},
            {"reasoning_content": "12345"},
            {"refusal": "12345"},
            {"tool_calls": [{"index": 0, "function": {"arguments": "12345"}}]},
            {"function_call": {"arguments": "12345"}},
            {"content": "é345"},
            {"reasoning_content": "é345"},
            {"refusal": "é345"},
            {"tool_calls": [{"index": 0, "function": {"arguments": "é345"}}]},
            {"function_call": {"arguments": "é345"}},
            {"content": "😀", "reasoning_content": "5"},
            {"tool_calls": [{"index": 0, "function": {"arguments": "😀5"}}]},
        ],
    )
    def test_of_a_completion(self, delta: dict[str, Any]) -> None:
        """Text of every kind counts, to the byte of its UTF-8, and a tool call beside its text."""
        limit = 10 + CALL_SIZE * ("tool_calls" in delta)
        assembler = CompletionAssembler(limits=Limits(completion_bytes=limit))
        assembler.extend([chunk(**delta), chunk(**delta)])
        message = rf"completion_bytes={limit} .*Limits\(completion_bytes="
        with pytest.raises(StreamLimitError, match=message):
            assembler.add(chunk(content="1"))

    @pytest.mark.parametrize(
        "piece",
        [
            chunk(annotations=["x"]),
            chunk(reasoning_details=[{}]),
            chunk(content_parts=[""]),
            chunk(audio={"data": ""}),
            chunk(audio=5),
            chunk(extra_content={"a": 1}),
            chunk(tool_calls=[{"index": 0, "extra_content": 1}]),
            chunk(tool_calls=[{"index": 0, "custom": {"input": ""}}]),
            chunk(logprobs={"content": [{}]}),
            chunk(logprobs={"refusal": [{"top_logprobs": [{}, {}]}]}),
            head(retrieval=1),
            head(functions={}),
            head(guardrails=[0]),
        ],
    )
    def test_whatever_is_kept_counts(self, piece: ChatCompletionChunk) -> None:
        """No field that is kept can grow for ever."""
        assembler = CompletionAssembler(limits=Limits(completion_bytes=1000))
        with pytest.raises(StreamLimitError):
            for _ in range(1001):
                assembler.add(piece)

    def test_counts_bytes_wherever_it_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Text is counted in characters for a while, and its bytes later; the limit holds to the byte."""
        monkeypatch.setattr(completion, "_COUNT_AFTER", 100)
        dice = random.Random(5)
        for limit in (1, 3, 100, 1000, 4000, 50_000):
            opened: set[tuple[int, int]] = set()
            assembler, size = CompletionAssembler(n=3, limits=Limits(completion_bytes=limit)), 0
            refused = False
            while not refused:
                text = dice.choice(["a", "é", "\u20ac", "😀"]) * dice.randint(1, 40)
                name = dice.choice(["content", "reasoning_content", "refusal", "tool_calls"])
                choice, call = dice.randrange(3), dice.randrange(3)
                calls = [{"index": call, "function": {"arguments": text}}]
                piece = chunk(choice, **{name: calls if name == "tool_calls" else text})
                size += len(text.encode())
                if name == "tool_calls" and (choice, call) not in opened:
                    opened.add((choice, call))
                    size += CALL_SIZE
                try:
                    assembler.extend([piece])
                except StreamLimitError:
                    refused = True
                assert (size > limit) == refused
            with pytest.raises(StreamLimitError):
                assembler.add(chunk(content="a"))

    @pytest.mark.parametrize(
        "piece",
        [
            chunk(tool_calls=[{"index": 0, "id": "x" * 100}, {"index": 1, "id": "y" * 100}]),
            chunk(
                tool_calls=[{"index": 0, "type": "x" * 100}, {"index": 1, "function": {"name": "y" * 100}}]
            ),
            chunk(0, role="x" * 200),
            chunk(0, finish="x" * 200),
        ],
    )
    def test_long_labels_count(self, piece: ChatCompletionChunk) -> None:
        calls = piece.choices[0].delta.tool_calls or []
        limit = 200 + CALL_SIZE * len(calls)
        with pytest.raises(StreamLimitError):
            CompletionAssembler(limits=Limits(completion_bytes=limit - 1)).add(piece)
        CompletionAssembler(limits=Limits(completion_bytes=limit)).add(piece)

    @pytest.mark.parametrize(
        "piece",
        [
            chunk(content="", reasoning_content="", refusal=""),
            chunk(content="", reasoning_content=""),
            chunk(tool_calls=[{"index": 0, "function": {"arguments": ""}}]),
            chunk(tool_calls=[{"index": 0}, {"index": 0, "id": "", "type": "", "function": {"name": ""}}]),
            chunk(
                tool_calls=[{"index": 0, "id": "c", "type": "t", "function": {"name": "f", "arguments": " "}}]
            ),
            chunk(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a": 1}'}}]),
            chunk(function_call={}),
            chunk(logprobs={"content": []}),
            chunk(finish="stop"),
        ],
    )
    @pytest.mark.parametrize("known", [{}, {"id": "c", "model": "m", "created": 1}], ids=["", "short path"])
    def test_what_adds_nothing_takes_no_memory(
        self, piece: ChatCompletionChunk, known: dict[str, Any]
    ) -> None:
        """A stream of it may be endless: no list may grow by it."""
        first = chunk(
            content="",
            reasoning_content="",
            refusal="",
            tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}],
        )
        assembler = CompletionAssembler()
        assembler.extend([head(**known), first, piece, piece])
        before = len(pickle.dumps(copy.deepcopy(assembler.choices[0].to_choice())))

        def growth() -> int:
            tracemalloc.start()
            try:
                for _ in range(1000):
                    assembler.add(piece)
                return tracemalloc.get_traced_memory()[0]
            finally:
                tracemalloc.stop()

        # Other threads may allocate at the same time. What the pieces take is in each of three measurements.
        assert min(growth() for _ in range(3)) < 2000
        assert before == len(pickle.dumps(copy.deepcopy(assembler.choices[0].to_choice())))

    def test_a_batch_of_nothing_takes_no_memory(self) -> None:
        assembler = CompletionAssembler()
        batch = make_batch("a", *[""] * 20)
        for _ in range(3):
            assembler.extend(batch)
        assert ["a"] * 3 == assembler.choices[0].content
        both = TextBatch(["", "b", ""], field="content", choice=[0, 1, 1], make=batch._make)
        assembler.extend(both)
        assembler.extend(both)
        assert (["a"] * 3, ["b", "b"]) == (assembler.choices[0].content, assembler.choices[1].content)

    def test_off(self) -> None:
        assembler = CompletionAssembler(limits=Limits(completion_bytes=None))
        assembler.add(chunk(content="x" * (65 << 20)))
        assert 65 << 20 == len(assembler.completion.choices[0].message.content or "")

    def test_default_is_64_mib(self) -> None:
        assembler = CompletionAssembler()
        assembler.add(chunk(content="x" * (64 << 20)))
        with pytest.raises(StreamLimitError):
            assembler.add(chunk(content="x"))

    def test_nesting(self) -> None:
        """What is nested too deep to be written as JSON again is refused, not a RecursionError."""
        deep: Any = []
        for _ in range(200_000):
            deep = [deep]
        nested: dict[str, Any] = {}
        for _ in range(200_000):
            nested = {"a": nested}
        for value in (deep, nested):
            with pytest.raises(StreamProtocolError, match="nested too deep"):
                CompletionAssembler().add(ChatCompletionChunk(retrieval=value))
        tree: dict[str, Any] = {}
        for _ in range(900):
            tree = {"a": tree}
        assembler = CompletionAssembler()
        assembler.extend([head(retrieval=tree), head(retrieval=tree)])
        assert tree == assembler.completion.retrieval


def calls_made(assembler: CompletionAssembler, pieces: list[ChatCompletionChunk]) -> int:
    """Return how many calls of Python and C functions adding chunks one by one takes."""
    made = 0

    def count(_frame: FrameType, event: str, _arg: object) -> None:
        nonlocal made
        made += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        for piece in pieces:
            assembler.add(piece)
    finally:
        sys.setprofile(None)
    return made


@pytest.mark.parametrize(
    "piece",
    [
        chunk(content="x"),
        chunk(3, reasoning_content="x"),
        chunk(tool_calls=[{"index": 0, "id": "c0", "function": {"name": "f", "arguments": "x"}}]),
        chunk(tool_calls=[{"index": 0, "function": {"arguments": "x"}}]),
        chunk(tool_calls=[{"id": "c0", "function": {"arguments": "x"}}]),
        chunk(tool_calls=[{"id": "c1", "function": {"arguments": "x"}}]),
        chunk(
            tool_calls=[
                {"function": {"arguments": "x"}, "custom": {"input": "x"}, "extra_content": {"a": {"b": 1}}}
            ]
        ),
        chunk(logprobs={"content": [{"token": "x"}]}),
        chunk(content_parts=[1], annotations=[2], audio={"data": "x"}),
        head(usage=CompletionUsage(), retrieval={"a": {"b": 1}}),
    ],
)
def test_work_does_not_depend_on_what_came_before(piece: ChatCompletionChunk) -> None:
    """Flat cost: a thousand more chunks take as many calls as the thousand before, with 500 calls open."""
    assembler = CompletionAssembler(n=4)
    for number in range(500):
        assembler.add(
            chunk(
                tool_calls=[
                    {"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "x"}}
                ]
            )
        )
        assembler.add(head(retrieval={str(number): number}))
    assembler.add(piece)
    first = calls_made(assembler, [piece] * 200)
    calls_made(assembler, [piece] * 2000)
    assert first == calls_made(assembler, [piece] * 200)
    fresh = CompletionAssembler(n=4)
    fresh.extend(
        [
            chunk(
                tool_calls=[
                    {"index": number, "id": f"c{number}", "function": {"name": "f", "arguments": "x"}}
                ]
            )
            for number in range(3)
        ]
        + [piece]
    )
    assert first == calls_made(fresh, [piece] * 200)


def test_many_long_arguments_in_one_chunk_count_as_whole() -> None:
    """Their brackets are not read, because that would take as long for all of them as for one piece of their size."""
    long = '{"a":"' + "b" * (MAX_PIECE // 2) + '"}'
    assembler = CompletionAssembler()
    assembler.add(
        chunk(
            tool_calls=[
                {"index": n, "id": f"c{n}", "function": {"name": "f", "arguments": long}} for n in range(4)
            ]
        )
    )
    assembler.add(chunk(tool_calls=[{"index": 3, "function": {"arguments": " "}}]))
    calls = assembler.completion.choices[0].message.tool_calls or []
    assert [call.function.arguments for call in calls] == [long] * 4
    assert all(call.arguments.whole_object for call in assembler.choices[0].calls.opened)
