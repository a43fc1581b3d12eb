"""`ChunkDecoder.push` and `pull`, and any stream cut anywhere."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from feeding import one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import DONE, contents, delta, event, raw, run, text

from gradient_async.decoding import ChunkDecoder
from gradient_async.errors import StreamServerError


class TestSlices:
    """`push` and `pull`: a large read is decoded piecemeal, just ahead of its consumer."""

    def test_a_pull_takes_about_16_kb(self) -> None:
        decoder = ChunkDecoder()
        wire = text("x" * 100) * 1000
        decoder.push(wire)
        assert len(wire) == decoder.pending
        sizes: list[int] = []
        blocks: list[bytes] = []
        while decoder.pending:
            sizes.append(len(decoder.pull()))
            blocks.append(decoder.block)
            assert wire == b"".join(blocks) + decoder.unread()
        assert 1000 == sum(sizes)
        assert wire == b"".join(blocks)
        assert max(map(len, blocks)) <= 16384
        assert min(map(len, blocks[:-1])) > 15_000
        assert not decoder.torn
        assert [] == decoder.pull()

    def test_an_event_larger_than_a_slice_is_taken_whole(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("x" * 20_000) + text("y") + text("z" * 20_000))
        assert [1, 1, 1] == [len(decoder.pull()) for _ in range(3)]
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
        blocks: list[bytes] = []
        found: list[Any] = []
        while decoder.pending:
            found += decoder.pull()
            blocks.append(decoder.block)
        assert wire == b"".join(blocks) + decoder.unread(held=False)
        assert most >= max(map(len, blocks))
        expected, error = run(
            ChunkDecoder(on_bad_event="skip"), [wire[at : at + 7] for at in range(0, len(wire), 7)]
        )
        assert (None, expected) == (error, [chunk.to_dict() for chunk in [*found, *decoder.close()]])

    def test_pushes_add_up(self) -> None:
        decoder = ChunkDecoder()
        wire = text("a" * 10_000) * 3
        decoder.push(wire[:24_000])
        assert 1 == len(decoder.pull())
        decoder.push(wire[24_000:])
        chunks = [chunk for _ in range(3) for chunk in decoder.pull()]
        assert 2 == len(chunks)
        assert 0 == decoder.pending

    def test_errors_wait_for_the_next_pull(self) -> None:
        decoder = ChunkDecoder()
        decoder.push(text("a") + raw('{"error":"x"}') + text("b"))
        assert 1 == len(decoder.pull())
        with pytest.raises(StreamServerError):
            decoder.pull()
        assert 0 == decoder.pending

    @pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
    @pytest.mark.parametrize("padding", [1, 9000])
    def test_unread_decodes_to_what_is_left(self, ending: bytes, padding: int) -> None:
        """Wherever the bytes are cut: the chunks so far, and those of `unread` and the rest, are all of them."""
        wire = (
            b": hi\n\n"
            + text("a")
            + b"event: x\n"
            + text("b" * padding).replace(b", ", b",\ndata: ", 1)
            + text("c")
        )
        wire = wire.replace(b"\n", ending)
        expected = contents(run(ChunkDecoder(), [wire])[0])
        step = 1 if padding == 1 else 97
        for cut in range(0, len(wire), step):
            first = ChunkDecoder()
            before = first.feed(wire[:cut])
            after, error = run(ChunkDecoder(), [first.unread() + wire[cut:]])
            assert error is None
            assert expected == contents([chunk.to_dict() for chunk in before]) + contents(after)

    def test_torn_says_that_a_block_begins_inside_an_event(self) -> None:
        decoder = ChunkDecoder()
        wire = text("x" * 20_000)
        decoder.push(wire[:10_000])
        assert [] == decoder.pull()
        assert (wire[:10_000], False) == (decoder.block, decoder.torn)
        decoder.push(wire[10_000:])
        assert 1 == len(decoder.pull())
        assert (wire[10_000:], True) == (decoder.block, decoder.torn)
        assert b"" == decoder.unread(held=False)

    def test_the_last_event_has_a_block_too(self) -> None:
        decoder = ChunkDecoder()
        decoder.feed(text("a") + text("b")[:-1])
        assert 1 == len(decoder.close())
        assert text("b")[:-1] == decoder.block


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
    # A comment in each event sends the same events down the careful path.
    careful = end([wire.replace(b"data: {", b": careful\ndata: {")])
    assert whole == careful
