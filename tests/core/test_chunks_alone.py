"""Events that come one a read, as most do."""

from __future__ import annotations

import pytest
from alike import by_itself, outcome
from wire import DONE, contents, delta, event, raw, text

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamServerError


class TestAlone:
    """An event that comes by itself is decoded at once, and to the same."""

    @pytest.mark.parametrize(
        "second",
        [
            text("b"),
            event(delta(content="b", tool_calls=[])),
            event(delta(reasoning="b")),
            event(delta(content="b") | {"finish_reason": ""}),
            event(delta(1, content="b")),
            event(delta(9, content="b")),
            event(delta(-1, content="b")),
            event(delta(0, content="b", tool_calls=[{"index": 999}])),
            event(delta(content="b"), delta(1, content="c", tool_calls=[])),
            event(delta(content="b"), error={"message": "e"}),
            event(error="e"),
            event(usage={"total_tokens": 1}),
            raw('{"choices":[{"delta":{"content":"b"}}],\r"id":"x"}'),
            text("b")[:-1],
            text("b") + b": c\n",
            b"x" + text("b"),
            b"date: {}\n\n",
            b"dat" + text("b")[3:].replace(b":", b"=", 1),
            text("b")[:5] + text("b")[6:],
            text("b").replace(b'"b"', b'"\xff"'),
            text("x" * 5000),
        ],
    )
    def test_whatever_it_is(self, second: bytes) -> None:
        for n in (None, 1, 4):
            wire = text("a") + second + text("c")
            assert outcome(by_itself(wire), n=n) == outcome([text("a"), second, text("c")], n=n)

    def test_it_is_the_block_that_was_decoded_last(self) -> None:
        decoder = ChunkDecoder()
        decoder.feed(b"data:\r")
        decoder.feed(b"\n\r\n" + text("a"))
        assert decoder.torn
        decoder.feed(b"")
        for events, alone in enumerate((text("b"), text("c"), event(delta(content="d", tool_calls=[]))), 2):
            decoder.feed(alone)
            assert (alone, False, events) == (decoder.block, decoder.torn, decoder.events)

    @pytest.mark.parametrize(
        "before",
        [
            raw('{"choices":[{"delta":{"content":"\\ud83d"}}]}'),
            DONE,
            text("a")[:-1],
            text("a")[:-5],
            b": c",
            b"event: x\r",
        ],
    )
    def test_what_came_before_counts(self, before: bytes) -> None:
        second = raw('{"choices":[{"delta":{"content":"\\ude00"}}]}') if b"\\ud83d" in before else text("b")
        pieces = [text("0"), before, second]
        assert outcome([b"".join(pieces)]) == outcome(pieces)

    def test_it_does_not_overtake_what_was_pushed(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a" * 10_000) + text("b" * 10_000))
        decoder.pull()
        assert ["b" * 10_000, "c"] == contents([chunk.to_dict() for chunk in decoder.feed(text("c"))])

    def test_nor_an_error(self) -> None:
        decoder = ChunkDecoder()
        assert 1 == len(decoder.feed(text("a") + raw('{"error":"x"}')))
        with pytest.raises(StreamServerError):
            decoder.feed(text("b"))

    @pytest.mark.parametrize("name", [b"event: error\n", b"event: error\r"])
    def test_nor_the_name_of_its_event(self, name: bytes) -> None:
        decoder = ChunkDecoder()
        decoder.feed(text("a"))
        decoder.feed(name)
        with pytest.raises(StreamServerError):
            decoder.feed(text("b"))

    def test_a_limit_holds_for_it_as_well(self) -> None:
        limits = Limits(event_bytes=len(text("a")) - 8)
        pieces = [text("a"), text("b"), text("cc"), text("d")]
        assert outcome(by_itself(b"".join(pieces)), limits=limits) == outcome(pieces, limits=limits)
        assert ["a", "b"] == [chunk.choices[0].delta.content for chunk in outcome(pieces, limits=limits)[0]]
