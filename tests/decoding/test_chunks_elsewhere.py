"""Text, usage and the end of a choice are found where servers put them: beside the delta, in the choice, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from wire import DONE, contents, decoded, delta, event, raw, refused, text

from gradient_async.assembly import CompletionAssembler
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamProtocolError, StreamServerError

USAGE = {"prompt_tokens": 6, "completion_tokens": 2, "total_tokens": 8}


def part(message: Any = None, finish: Any = None, **more: Any) -> bytes:
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish, **more}
    if message is not None:
        choice["message"] = (
            message if isinstance(message, dict) else {"role": "assistant", "content": message}
        )
    return event(choice)


def assembled(wire: bytes) -> Any:
    """Assemble a stream, of which the fast path may decode blocks, and the same stream by the tolerant path."""
    completions: list[Any] = []
    for comment in (b"", b": a block with a comment takes the tolerant path\n\n"):
        decoder = ChunkDecoder()
        assembler = CompletionAssembler()
        assembler.extend(decoder.feed(comment + wire))
        assembler.extend(decoder.close())
        completions.append(assembler.completion)
    assert completions[0] == completions[1]
    return completions[0]


class TestText:
    @pytest.mark.parametrize(
        ("wire", "content"),
        [
            (part("So ") + part("it ") + part("goes", "stop"), "So it goes"),
            (part("So ") + part("") + part("goes") + part("", "stop"), "So goes"),
            (part("all at once", "stop"), "all at once"),
            (event(delta(role="assistant", content="")) + part("all at once", "stop"), "all at once"),
            (part("all at once") + event(delta() | {"finish_reason": "stop"}), "all at once"),
            (event(delta(role="assistant")) + part("all at once") + event(delta() | {"finish_reason": "stop"}), "all at once"),
            (part("a", delta={}) + part("b", delta=None) + part("c", delta={"content": ""}), "abc"),
            (part("a", delta={"role": "assistant", "content": None, "tool_calls": []}) + part("b"), "ab"),
            (part(text="So ") + part(text="it goes", finish="stop") + part(text="", finish="stop"), "So it goes"),
            (part(delta={"text": "So "}) + part(delta={"text": "on"}), "So on"),
            # The whole again at the end adds nothing, whatever the pieces were.
            (text("So ") + text("on") + part("So on", "stop"), "So on"),
            (text("So ") + text("on") + part("So on", "stop", delta={}), "So on"),
            (text("So ") * 40 + part("So " * 40, "stop", delta={}), "So " * 40),
            (text("So ") + part(text="So ", finish="stop"), "So "),
            (part("So ") + part("on ") + part("and on") + part("So on and on", "stop"), "So on and on"),
            (part("So ") + part("on ") + part("as one", "stop"), "So on as one"),
            # A message that grows beside the deltas is not in their place.
            (part("So ", delta={"content": "So "}) + part("So on", delta={"content": "on"}) + part("So on", "stop"), "So on"),
            (part("no", delta={"reasoning_content": "hm"}) + text("yes") + part("yes", "stop"), "yes"),
            # Two equal pieces are two pieces.
            (part("ha") + part("ha", "stop"), "haha"),
            (part("ha") + part("ha") + part("haha"), "hahahaha"),
        ],
    )  # fmt: skip
    def test_beside_the_delta(self, wire: bytes, content: str) -> None:
        decoded(wire)
        assert content == assembled(wire).choices[0].message.content

    def test_of_several_choices(self) -> None:
        wire = event({"index": 0, "message": {"content": "a"}}, {"index": 1, "text": "b"}) + event(
            {"index": 1, "text": "c", "finish_reason": "stop"}, {"index": 0, "message": {"content": "d"}}
        )
        chunks, decoder = decoded(wire)
        assert (["a", "b", "c", "d"], 2) == (contents(chunks), decoder.anomalies)
        assert ["ad", "bc"] == [choice.message.content for choice in assembled(wire).choices]

    def test_one_of_several_choices_may_be_beside(self) -> None:
        wire = event({"index": 0, "delta": {"content": "a"}}, {"index": 1, "delta": {}, "text": "b"})
        assert ["a", "b"] == contents(decoded(wire)[0])

    def test_everything_of_a_message_counts(self) -> None:
        call = {"id": "k", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
        wire = part({"role": "assistant", "reasoning": "hm", "tool_calls": [call]}, "tool_calls", usage=USAGE)
        whole = assembled(wire)
        (choice,) = whole.choices
        assert ("hm", None, "tool_calls") == (
            choice.message.reasoning_content,
            choice.message.content,
            choice.finish_reason,
        )
        assert [("k", "f", '{"x":1}')] == [
            (each.id, each.function.name, each.function.arguments) for each in choice.message.tool_calls
        ]
        assert USAGE == {name: count for name, count in whole.usage.to_dict().items() if count is not None}

    def test_a_list_of_parts_counts(self) -> None:
        wire = part({"content": [{"type": "text", "text": "a"}]}) + part("b")
        assert ["a", "b"] == contents(decoded(wire)[0])

    @pytest.mark.parametrize(
        "choice",
        [
            {"index": 0, "delta": {}, "message": {"role": "assistant", "content": None}},
            {"index": 0, "delta": {}, "message": "a"},
            {"index": 0, "delta": {}, "text": 5},
            {"index": 0, "delta": {}, "text": ""},
            {"index": 0, "delta": {}, "logprobs": {"text": "a"}},
        ],
    )
    def test_nothing_is_invented(self, choice: dict[str, Any]) -> None:
        chunks, decoder = decoded(event(choice))
        assert ([None], 0) == (contents(chunks), decoder.anomalies)

    def test_the_pieces_cost_the_same_however_many_there_were(self) -> None:
        """A finish_reason in every chunk makes every piece a candidate for the whole; only one of its length is joined."""
        wire = part("a", "stop") * 3000
        assert 3000 == len(ChunkDecoder().feed(wire))

    def test_bad_shapes_stay_bad(self) -> None:
        _, error = refused(part({"content": 5}))
        assert isinstance(error, StreamProtocolError)


class TestFinishReasons:
    @pytest.mark.parametrize(
        "reason",
        ["null", "None", " none\n", "NULL", "", " ", "false", "0", "undefined", False, 0, 0.0, None, [], {}],
    )
    def test_that_are_none(self, reason: Any) -> None:
        """On every path: alone, among usual chunks, in blocks of equal ones, and with content or without."""
        odd = event({"index": 0, "delta": {"content": "a"}, "finish_reason": reason})
        empty = event({"index": 0, "delta": {}, "finish_reason": reason})
        chunks, _ = decoded(text("x") + odd + odd + empty)
        assert ["x", "a", "a", None] == contents(chunks)
        assert {None} == {choice.get("finish_reason") for chunk in chunks for choice in chunk["choices"]}
        for wire in (odd * 30, empty * 30, text("x") * 9 + odd * 9):
            assert None is assembled(wire).choices[0].finish_reason

    @pytest.mark.parametrize("reason", ["stop", "length", "unknown", "nullable", "None of these", True, 7])
    def test_that_are_some(self, reason: Any) -> None:
        wire = event({"index": 0, "delta": {"content": "a"}, "finish_reason": reason})
        assert str(reason) == assembled(wire).choices[0].finish_reason


class TestUsage:
    @pytest.mark.parametrize(
        "wire",
        [
            event({"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}),
            event({"index": 0, "delta": {"content": "b"}, "finish_reason": "stop", "usage": USAGE}),
            event({"index": 0, "delta": {}, "finish_reason": "stop"}, x_groq={"id": "q", "usage": USAGE}),
            event({"index": 0, "delta": {}, "finish_reason": "stop"}, usage=None, x_groq={"usage": USAGE}),
            event({"index": 0, "delta": {}, "usage": USAGE}),
            event({"index": 0, "delta": {}, "finish_reason": "stop", "usage": None}, x_groq={"usage": USAGE}),
            event(x_groq={"usage": USAGE}),
            raw(json.dumps({"x_groq": {"usage": USAGE}})),
            event({"index": 0, "delta": {}, "finish_reason": "stop", "usage": USAGE}, x_groq={"usage": {"total_tokens": 1}}),
            event({"index": 0, "delta": {}, "usage": {"total_tokens": 1}}, usage=USAGE),
            event({"index": "0", "delta": {}, "usage": USAGE}),
        ],
    )  # fmt: skip
    def test_of_the_chunk_else_of_its_choice_else_of_groq(self, wire: bytes) -> None:
        wire = text("a") + wire
        chunks, _ = decoded(wire)
        assert [8] == [chunk["usage"]["total_tokens"] for chunk in chunks if chunk.get("usage")]
        for many in (wire, text("a") * 30 + wire):
            assert assembled(many).usage.prompt_tokens == USAGE["prompt_tokens"]

    @pytest.mark.parametrize("usage", [None, [], 5, "many"])
    def test_none_is_none(self, usage: Any) -> None:
        wire = event(
            {"index": 0, "delta": {}, "finish_reason": "stop", "usage": usage}, x_groq={"usage": usage}
        )
        assert None is decoded(wire)[0][0].get("usage")


def test_groqs_error_ends_the_stream() -> None:
    """Groq says in a field of its own why it stopped early."""
    wire = text("a") + event(
        {"index": 0, "delta": {}, "finish_reason": "stop"}, x_groq={"error": "over_capacity"}
    )
    chunks, error = refused(wire)
    assert (["a"], StreamServerError) == (contents(chunks), type(error))
    assert "over_capacity" in error.message


def test_silent_chunks_are_not_read_twice() -> None:
    """Chunks without text stay on the fast path where their bytes hide nothing."""
    decoder = ChunkDecoder()
    quiet = event(delta(content="")) + event(delta(role="assistant"))
    chunks = decoder.feed(quiet * 20 + text("a") + DONE)
    assert (41, 41) == (len(chunks), decoder.events)
    assert 0 == decoder._tolerant
