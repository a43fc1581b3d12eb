"""`ChunkDecoder.push` and `decode_slice`, and any stream cut anywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from feeding import one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import DONE, delta, event, raw, run, text

from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamServerError
from gradient_async.types import ChatCompletionChunk


def pull_all(decoder: ChunkDecoder) -> tuple[list[ChatCompletionChunk], list[int]]:
    """Pull until nothing is pending; return the chunks, and the bytes of each slice."""
    chunks: list[ChatCompletionChunk] = []
    slices: list[int] = []
    while decoder.pending:
        before = decoder.pending
        chunks += decoder.decode_slice()
        slices.append(before - decoder.pending)
    return chunks, slices


class TestSlices:
    """`push` and `decode_slice`: a large read is decoded slice by slice, just ahead of its consumer."""

    def test_a_pull_takes_about_16_kb(self) -> None:
        decoder = ChunkDecoder()
        wire = text("x" * 100) * 1000
        decoder.push(wire)
        assert len(wire) == decoder.pending
        chunks, slices = pull_all(decoder)
        assert 1000 == len(chunks)
        assert len(wire) == sum(slices)
        assert max(slices) <= 16384
        assert min(slices[:-1]) > 15_000
        assert decoder.idle
        assert () == decoder.decode_slice()

    def test_an_event_larger_than_a_slice_is_taken_whole(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("x" * 20_000) + text("y") + text("z" * 20_000))
        assert [1, 1, 1] == [len(decoder.decode_slice()) for _ in range(3)]
        assert 0 == decoder.pending

    @pytest.mark.parametrize(
        ("wire", "most"),
        [
            (text("x" * 20).replace(b"\n", b"\r\n") * 2000, 16_384),
            (text("x" * 20).replace(b"\n", b"\r") * 2000, 16_384),
            (b": comment\n" * 20_000 + text("a"), 16_384),
            (b"data: 1\n" * 20_000 + text("a"), 16_384),
            (text("x" * 100_000).replace(b"\n", b"\r\n"), 200_000),
        ],
        ids=["CRLF", "CR", "comments", "an event of many lines", "one large event"],
    )
    def test_many_short_lines_are_taken_piecemeal_though_no_event_ends(self, wire: bytes, most: int) -> None:
        """As nobody else has a turn meanwhile; what comes of them is the same as of the whole."""
        decoder = ChunkDecoder(on_bad_event="skip")
        decoder.push(wire)
        found, slices = pull_all(decoder)
        assert len(wire) == sum(slices)
        assert most >= max(slices)
        expected, error = run(
            ChunkDecoder(on_bad_event="skip"), [wire[at : at + 7] for at in range(0, len(wire), 7)]
        )
        assert (None, expected) == (error, [chunk.to_dict() for chunk in [*found, *decoder.close()]])

    def test_pushes_add_up(self) -> None:
        decoder = ChunkDecoder()
        wire = text("a" * 10_000) * 3
        decoder.push(wire[:24_000])
        assert 1 == len(decoder.decode_slice())
        decoder.push(wire[24_000:])
        chunks = [chunk for _ in range(3) for chunk in decoder.decode_slice()]
        assert 2 == len(chunks)
        assert 0 == decoder.pending

    def test_nothing_that_is_pushed_ends_nothing(self) -> None:
        """Lines without blank lines between them are decoded in several slices, the last of them without further bytes."""
        decoder = ChunkDecoder()
        decoder.push(text("x" * 500)[:-1] * 60 + b"\n")
        count = 0
        while decoder.pending:
            count += len(decoder.decode_slice())
            decoder.push(b"")
        assert 60 == count

    def test_the_end_of_the_stream_is_pending(self) -> None:
        wire = text("a")[:-1]
        decoder = ChunkDecoder()
        decoder.push(wire)
        assert ([], 0) == (pull_all(decoder)[0], decoder.pending)
        decoder.finish()
        assert 1 == decoder.pending
        assert 1 == len(pull_all(decoder)[0])
        decoder = ChunkDecoder()
        decoder.push(wire)
        decoder.finish()
        assert len(wire) == decoder.pending
        assert 1 == len(pull_all(decoder)[0])

    def test_a_byte_order_mark_that_was_pushed_in_pieces(self) -> None:
        decoder = ChunkDecoder()
        for data in (b"", b"\xef", b"\xbb", b"\xbf", text("a") + text("b")):
            decoder.push(data)
        assert 2 == len(pull_all(decoder)[0])

    def test_errors_wait_for_the_next_pull(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a") + raw('{"error":"x"}') + text("b"))
        assert 1 == len(decoder.decode_slice())
        with pytest.raises(StreamServerError):
            decoder.decode_slice()
        assert 0 == decoder.pending

    def test_idle_says_that_nothing_waits(self) -> None:
        """Neither bytes that were pushed, nor part of an event or of a surrogate pair; and the stream goes on."""
        decoder = ChunkDecoder()
        assert not decoder.idle, "a byte order mark may come"
        states: list[bool] = []
        half = raw('{"choices":[{"delta":{"content":"\\ud83d"}}]}')
        rest = raw('{"choices":[{"delta":{"content":"\\ude00"}}]}')
        for data in (text("a"), text("b")[:9], text("b")[9:], text("x" * 9000)[:-1], b"\n", half, rest, DONE):
            decoder.push(data)
            assert not decoder.idle
            decoder.decode_slice()
            states.append(decoder.idle)
        assert [True, False, True, False, True, False, True, False] == states


PIECES = [
    text("a"), text("é😀"), event(delta(1, reasoning="r")), event(delta(tool_calls=[{"index": 0, "id": "x"}])), DONE,
    event(usage={"total_tokens": 1}), event({"index": 0, "delta": {}, "finish_reason": "stop"}), b": c\n\n", b"\n",
    raw('{"choices":[{"delta":{"content":"\\ud83d"}}]}'), raw('{"choices":[{"delta":{"content":"\\ude00"}}]}'),
    raw('{"error":"x"}'), raw("null"), raw("[1]"), b"event: error\n", b"data: {\n", b"data: }\n\n", b"id: 1\n",
    text("a").replace(b"\n", b"\r\n"), text("b").replace(b'"b"', b'"\xff"'), b"data:\n\n",
]  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=10).map(b"".join),
    st.lists(st.integers(0, 1200), max_size=5),
    st.sampled_from(["raise", "skip"]),
)
def test_cuts_do_not_matter(wire: bytes, cuts: list[int], policy: Any) -> None:
    """Any stream, cut anywhere: the same chunks, the same error, the same counts."""

    def end(pieces: list[bytes]) -> tuple[Any, ...]:
        decoder = ChunkDecoder(on_bad_event=policy)
        chunks, error = run(decoder, pieces)
        return chunks, str(error), decoder.done, decoder.events, decoder.anomalies

    at = [0, *sorted(cuts), len(wire)]
    whole = end([wire])
    assert whole == end(one_by_one(wire))
    assert whole == end([wire[a:b] for a, b in pairwise(at)])
    # A comment in each event sends the same events down the tolerant path.
    tolerant = end([wire.replace(b"data: {", b": tolerant\ndata: {")])
    assert whole == tolerant
