"""The fast path: a read of one event, and a block of one-line events; each decodes to the same as by itself."""

from __future__ import annotations

from itertools import product

import pytest
from event_streams import decode_whole, tolerant_events
from wire import DONE, contents, delta, event, raw, text

from gradient_async.config import Limits
from gradient_async.decoding import ChunkDecoder, batches
from gradient_async.errors import StreamServerError
from gradient_async.types import ChatCompletionChunk


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
            event(delta(tool_calls=[{"index": 5000}])),
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
            assert decode_whole(tolerant_events(wire), n=n) == decode_whole(
                [text("a"), second, text("c")], n=n
            )

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
        assert decode_whole([b"".join(pieces)]) == decode_whole(pieces)

    def test_it_does_not_overtake_what_was_pushed(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a" * 10_000) + text("b" * 10_000))
        decoder.decode_slice()
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

    def test_the_network_may_cut_it(self) -> None:
        wire = text("b")
        for cut in range(1, len(wire)):
            decoder = ChunkDecoder()
            found = [chunk for piece in (text("a"), wire[:cut], wire[cut:]) for chunk in decoder.feed(piece)]
            assert (2, 0) == (len(found), decoder._tolerant)

    def test_a_limit_holds_for_it_as_well(self) -> None:
        limits = Limits(event_bytes=len(text("a")) - 8)
        pieces = [text("a"), text("b"), text("cc"), text("d")]
        assert decode_whole(tolerant_events(b"".join(pieces)), limits=limits) == decode_whole(
            pieces, limits=limits
        )
        assert ["a", "b"] == [
            chunk.choices[0].delta.content for chunk in decode_whole(pieces, limits=limits)[0]
        ]


ONE = '{"choices":[{}]}'
# Payloads that begin and end as objects do; some only with the next event would be one, and some are several.
PAYLOADS = [
    ONE,
    ONE + ONE,
    f"{ONE} {ONE}",
    f"{ONE}null",
    "{}",
    '{"choices":[{}],"x":"}',
    '{"}',
    '{"choices":[{}],"x":[{}',
    "{}]}",
    '{"choices":[{"delta":{}',
    '{"choices":[{}],"x":"}       {"}',
    '{"choices":[{}],"x":"}\\n\\ndata: {"}',
]


@pytest.mark.parametrize("first", PAYLOADS)
@pytest.mark.parametrize("mode", ["raise", "skip"])
def test_no_value_goes_on_from_one_event_into_the_next(first: str, mode: str) -> None:
    """Where one event has two values, and two events share one, there are as many values as events."""
    for others in product(PAYLOADS, repeat=2):
        wire = b"".join(map(raw, (first, *others)))
        assert decode_whole(tolerant_events(wire), on_bad_event=mode) == decode_whole(
            [wire], on_bad_event=mode
        )


@pytest.mark.parametrize(
    "odd",
    [
        event(delta(content="b", tool_calls=[])),
        event(delta(content="b", tool_calls=[{"index": 1}, {"index": 999}])),
        event(delta(content="b", tool_calls=[{"index": 999}])),
        event(delta(content="b", tool_calls=[{}])),
        event(delta(content="b", tool_calls=[{"index": 127}])),
        event(delta(reasoning="b")),
        event(delta(content="b") | {"finish_reason": ""}),
        event(delta(content="b") | {"finish_reason": "stop"}),
        event(delta(3, content="b")),
        event(delta(999, content="b")),
        event(delta(-1, content="b")),
        event(delta(content="b"), delta(1, content="c", tool_calls=[], reasoning="d")),
        event(delta(content="b"), delta(999, content="c")),
        event(delta(content="b"), error={"message": "e"}),
        event(delta(content="b"), delta(1, content="b"), error={"message": "e"}),
        event(),
    ],
)
@pytest.mark.parametrize("n", [None, 1])
def test_an_event_that_needs_a_closer_look_gets_it(odd: bytes, n: int | None) -> None:
    for wire in (odd + text("a"), text("a") + odd + text("c"), text("a") * 2 + odd + DONE):
        assert decode_whole(tolerant_events(wire), n=n) == decode_whole([wire], n=n)
    assert decode_whole(tolerant_events(text("a") + odd), n=n) == decode_whole([text("a"), odd], n=n)


def test_the_last_event_of_a_block_is_learned_from(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its field's name and its end, and unless it is alone or long."""
    learned: list[bytes] = []

    def learn(payload: bytes, _decoded: list[ChatCompletionChunk]) -> None:
        learned.append(payload)

    monkeypatch.setattr(batches, "learn_template", learn)
    for block in (
        text("a"),
        text("a") + text("bc"),
        text("a") + text("x" * 3000),
        text("x" * 3000) + text("d"),
    ):
        ChunkDecoder().feed(block)
    assert [text("bc")[6:-2], text("d")[6:-2]] == learned
