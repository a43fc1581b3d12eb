"""`EventDecoder` holds its limits to the byte, works in linear time, and lets plain blocks go round it."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from event_decoding import FRAGMENTS, decode_events, held_bytes
from feeding import feedings, one_by_one
from hypothesis import given, settings
from hypothesis import strategies as st
from work import lines_run

from gradient_async.errors import StreamLimitError
from gradient_async.sse import Event, EventDecoder, plain_objects

EVENT = "an event of the stream has more than max_event_bytes=8 bytes; "
LINE = "a line of the stream has more than max_line_bytes=12 bytes; "


class TestManyLines:
    """An event of very many data lines."""

    @pytest.mark.parametrize("line", [b"data: ab\n", b"data\n", b"data:\n"])
    @pytest.mark.parametrize("count", [999, 1000, 1001, 1002, 2000, 5003])
    def test_is_the_same_as_one_of_few(self, line: bytes, count: int) -> None:
        """However many, and wherever it is cut; the one behind it begins anew."""
        value = line[6:-1]
        expected = [Event(b"\n".join([value] * count)), Event(b"c"), Event(b"d\ne")]
        wire = line * count + b"\ndata: c\n\ndata: d\ndata: e\n\n"
        assert (expected, None) == decode_events(EventDecoder(), [wire])
        for cut in (5, len(line) * 1000 + 3, len(line) * count, len(line) * count + 1):
            decoder = EventDecoder()
            events = decoder.feed(wire[:cut])
            assert expected == events + decoder.feed(wire[cut:])

    def test_takes_about_as_much_as_its_data(self) -> None:
        decoder = EventDecoder(max_event_bytes=150_000)
        lines = b"data: ab\n" * 1000
        tracemalloc.start()
        try:
            with pytest.raises(StreamLimitError, match="max_event_bytes=150000"):
                for _ in range(51):
                    decoder.feed(lines)
            held, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert 150_000 < held < 300_000  # an object a line would be 2 MB


class TestLimits:
    @pytest.mark.parametrize(
        ("wire", "expected", "refused"),
        [
            (b"data: 12345678\n\n", 1, None),
            (b"data:12345678\n\n", 1, None),
            (b"data: 123456789\n\n", 0, EVENT),
            (b"data:123456789\n\n", 0, EVENT),
            (b"data: 123456789", 0, EVENT),
            (b"data: 1234\ndata: 678\n\n", 1, None),
            (b"data: 12345678\n\n" * 3, 3, None),
            (b"data: 1234\ndata: 678\n\n" * 3, 3, None),
            (b"data: 1234\ndata: 6789\n\n", 0, EVENT),
            (b"data: 1234567\ndata\n\n", 1, None),
            (b"data: 12345678\ndata\n\n", 0, EVENT),
            (b"data: 12345678\ndata", 0, EVENT),
            (b"data: 12345678\ndata:", 0, EVENT),
            (b"data\n" * 9 + b"\n", 1, None),
            (b"data\n" * 10 + b"\n", 0, EVENT),
            (b"data: a\n\ndata: 123456789\n\ndata: b\n\n", 1, EVENT),
            (b"data: 1234567\nevent: long-name\nid: 1234567890123\n\n", 1, None),
        ],
    )
    def test_of_an_event(self, wire: bytes, expected: int, refused: str | None) -> None:
        """The joined data counts, to the byte; other fields do not."""
        for pieces in feedings(wire):
            events, error = decode_events(EventDecoder(max_event_bytes=8, max_line_bytes=None), pieces)
            assert expected == len(events)
            assert (None if refused is None else refused + ADVICE["event_bytes"]) == error

    @pytest.mark.parametrize(
        ("wire", "expected", "refused"),
        [
            (b"data: 123456\n\n", 1, None),
            (b"data: 123456\r\n\r\n", 1, None),
            (b"data: 1234567\n\n", 0, LINE),
            (b": 45678901234\n", 0, LINE),
            (b": 456789012\n" * 9 + b"data: a\n\n", 1, None),
            (b"data: a\n\nid: 567890123", 1, LINE),
            (b"\xef\xbb\xbfdata: 123456\n\n", 1, None),
        ],
    )
    def test_of_a_line(self, wire: bytes, expected: int, refused: str | None) -> None:
        """The line counts without its end and without the byte order mark, comments too."""
        for pieces in feedings(wire):
            events, error = decode_events(EventDecoder(max_event_bytes=None, max_line_bytes=12), pieces)
            assert expected == len(events)
            assert (None if refused is None else refused + ADVICE["line_bytes"]) == error

    @pytest.mark.parametrize("lengths", [(8, 12), (6, 12), (7, 12), (30, 12), (12, 30)])
    def test_the_first_to_be_exceeded_is_told(self, lengths: tuple[int, int]) -> None:
        """Of two limits the one that the bytes exceed first is named, wherever they are cut."""
        event, line = lengths
        wire = b"data: 1\ndata:23456789012345678901234567890"
        expected = "event" if event - 1 - 1 < line - 5 else "line"
        for end in (b"\n\n", b""):
            for pieces in feedings(wire + end):
                events, error = decode_events(
                    EventDecoder(max_event_bytes=event, max_line_bytes=line), pieces
                )
                assert [] == events
                assert error is not None
                assert f"max_{expected}_bytes={lengths[expected == 'line']}" in error

    def test_off(self) -> None:
        decoder = EventDecoder(max_event_bytes=None, max_line_bytes=None)
        data = b"x" * (17 * 1024 * 1024)
        assert [Event(data)] == decoder.feed(b"data: " + data + b"\n\n")
        assert [] == decoder.feed(b"data: " + data)
        assert [Event(data)] == decoder.feed(b"\n\n")

    def test_default_is_16_mib(self) -> None:
        """Of data; a line has room for the longest event and the field's name."""
        data = b"x" * (16 * 1024 * 1024)
        assert [Event(data)] == EventDecoder().feed(b"data: " + data + b"\n\n")
        with pytest.raises(StreamLimitError, match="max_event_bytes=16777216"):
            EventDecoder().feed(b"data: " + data + b"x\n\n")
        with pytest.raises(StreamLimitError, match="max_line_bytes=16778240"):
            EventDecoder().feed(b":" + data + b"x" * 1024 + b"\n\n")

    def test_events_before_it_come_first_and_the_error_stays(self) -> None:
        decoder = EventDecoder(max_event_bytes=8)
        assert [Event(b"a")] == decoder.feed(b"data: a\n\ndata: 123456789\n\ndata: b\n\n")
        for _ in range(2):
            with pytest.raises(
                StreamLimitError, match=r"max_event_bytes=8.*raise Limits\(event_bytes=\.\.\.\)"
            ):
                decoder.feed(b"data: c\n\n")
        with pytest.raises(StreamLimitError) as raised:
            decoder.feed(b"")
        assert decoder.error is raised.value
        with pytest.raises(StreamLimitError):
            decoder.close()
        assert decoder.error is not None
        assert decoder.error.partial is None

    def test_endless_comments_hold_nothing(self) -> None:
        """Comments are dropped as they arrive, even one line of them that never ends."""
        decoder = EventDecoder(max_line_bytes=None)
        for _ in range(1000):
            decoder.feed(b": keep-alive\n")
        assert 0 == held_bytes(decoder)
        for _ in range(1000):
            decoder.feed(b": " + b"x" * 998)
        assert 1000 == held_bytes(decoder)
        assert [Event(b"a")] == decoder.feed(b"\ndata: a\n\n")

    @pytest.mark.parametrize(
        ("before", "line"),
        [
            (b"", b"data: 12345678"),
            (b"", b"data:12345678"),
            (b"data: 12\n", b"data: 45678"),
            (b"data\n" * 4, b"data:5678"),
        ],
    )
    def test_an_endless_line_is_refused_at_the_first_byte_too_many(self, before: bytes, line: bytes) -> None:
        """Reading stops at once: nobody waits for the end of the line."""
        for pieces in ([before + line], one_by_one(before + line)):
            decoder = EventDecoder(max_event_bytes=8, max_line_bytes=None)
            for piece in pieces:
                assert [] == decoder.feed(piece)
            with pytest.raises(StreamLimitError, match="max_event_bytes=8"):
                decoder.feed(b"9")

    def test_only_data_counts_for_the_event(self) -> None:
        """A line of another kind is too long for its own limit, never for the event's."""
        for pieces in feedings(b"id: 345678901234567890\n"):
            events, error = decode_events(EventDecoder(max_event_bytes=2, max_line_bytes=12), pieces)
            assert ([], LINE + ADVICE["line_bytes"]) == (events, error)


ADVICE = {name: f"raise Limits({name}=...) if you trust the server" for name in ("event_bytes", "line_bytes")}


def steps(wire: bytes, size: int) -> int:
    """Return how many lines of code it takes to decode one event in pieces of a size."""
    decoder = EventDecoder()

    def decode() -> None:
        for at in range(0, len(wire), size):
            decoder.feed(wire[at : at + size])
        decoder.feed(b"\n\n")

    return lines_run(decode)


def test_work_is_linear_in_small_pieces() -> None:
    """An event of 4 MiB in reads of 1 KiB takes 4 times the steps of one of 1 MiB, and pieces wait unjoined."""
    small, large = (steps(b"data: " + b"x" * size, 1024) for size in (1 << 20, 4 << 20))
    assert large < 4.1 * small
    decoder = EventDecoder()
    decoder.feed(b"data: ")
    for _ in range(4096):
        decoder.feed(b"x" * 1024)
    assert 4097 == len(decoder._line)
    assert [Event(b"x" * (4 << 20))] == decoder.feed(b"\n\n")


def test_long_line_beyond_the_event_limit_is_not_joined_again_and_again() -> None:
    """A long line that is no data may exceed the event's limit; it is held in pieces all the same."""
    decoder = EventDecoder(max_event_bytes=10, max_line_bytes=None)
    for piece in one_by_one(b"id: 12345678901234567890"):
        decoder.feed(piece)
    assert (11, 14) == (len(decoder._line[0]), len(decoder._line)), "joined once, to know its name"
    assert [Event(b"a", id="12345678901234567890")] == decoder.feed(b"\ndata: a\n\n")


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map(b"".join),
    st.integers(1, 12),
    st.integers(4, 14),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_limits_do_not_depend_on_cuts(wire: bytes, event: int, line: int, cuts: list[int]) -> None:
    """Which events come, and which limit ends them, is the same however the bytes arrive."""

    def end(pieces: list[bytes]) -> tuple[list[Event], str | None]:
        return decode_events(EventDecoder(max_event_bytes=event, max_line_bytes=line), pieces)

    at = [0, *sorted(cuts), len(wire)]
    whole = end([wire])
    assert whole == end(one_by_one(wire))
    assert whole == end([wire[a:b] for a, b in pairwise(at)])


class TestIdle:
    """`idle` says that a block of whole events may go round the decoder."""

    def test_begins_with_the_first_byte_looked_at(self) -> None:
        decoder = EventDecoder()
        assert not decoder.idle
        decoder.check_bom(b"")
        assert not decoder.idle
        decoder.check_bom(b"\xef\xbb\xbfdata")
        assert not decoder.idle
        decoder.check_bom(b"data")
        assert decoder.idle

    def test_looking_ahead_does_not_end_a_byte_order_mark(self) -> None:
        decoder = EventDecoder()
        decoder.feed(b"\xef")
        decoder.check_bom(b"\xbb\xbfdata: a\n\n")
        assert not decoder.idle
        assert [Event(b"a")] == decoder.feed(b"\xbb\xbfdata: a\n\n")

    @pytest.mark.parametrize("held", [b"d", b"data: a\n", b"event: a\n", b"data: a\r\r", b": x"])
    def test_not_in_the_middle_of_an_event(self, held: bytes) -> None:
        decoder = EventDecoder()
        decoder.feed(held)
        assert not decoder.idle

    def test_not_after_an_error(self) -> None:
        decoder = EventDecoder(max_event_bytes=1)
        decoder.feed(b"data: a\n\ndata: aa\n\n")
        assert not decoder.idle

    @pytest.mark.parametrize("done", [b"data: a\n\n", b": x\n", b"id: 4\n", b"\n"])
    def test_between_events(self, done: bytes) -> None:
        decoder = EventDecoder()
        decoder.feed(done)
        assert decoder.idle


class TestPlainObjects:
    """The objects of a block of nothing but one-line events are taken out of it; others are left alone."""

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            (b"data: {}\n\n", [b"{}"]),
            (b'data: {"a":1}\n\ndata: {"b":{}}\n\ndata: {}\n\n', [b'{"a":1}', b'{"b":{}}', b"{}"]),
            (b'data: {"a":"data: {"}\n\n', [b'{"a":"data: {"}']),
            (b'data: {"a":"}       {"}\n\ndata: { }\n\n', [b'{"a":"}       {"}', b"{ }"]),
        ],
    )
    def test_plain(self, block: bytes, expected: list[bytes]) -> None:
        found = plain_objects(block)
        assert found is not None
        payloads, count = found
        assert (expected, len(expected)) == (bytes(payloads).split(b"\r       "), count)
        assert expected == [event.data for event in EventDecoder().feed(block)]

    def test_one_event_is_not_copied(self) -> None:
        block = b'data: {"a":"' + b"x" * 100 + b'"}\n\n'
        found = plain_objects(block)
        assert found is not None
        assert (block, block[6:-2], 1) == (found[0].obj, bytes(found[0]), found[1])

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"data: {}",
            b"data: {}\n",
            b"data: [DONE]\n\n",
            b"data: {}\n\ndata: [DONE]\n\n",
            b"data: [1]\n\ndata: {}\n\n",
            b"data: 1{}\n\n",
            b"data: 1{}\n\ndata: {}\n\n",
            b"data: {}\n\ndata: [{}]\n\ndata: {}\n\n",
            b"data:  {} \n\ndata: {}\n\n",
            b"data: {}\n\ndata: {} \n\n",
            b"data: \n\ndata: {}\n\n",
            b"data:{}\n\n",
            b": x\n\ndata: {}\n\n",
            b"data: {}\n\n: x\n\ndata: {}\n\n",
            b"data: {}\n\n\ndata: {}\n\n",
            b"data: {}\ndata: {}\n\n",
            b"data: {}\nid: 1\n\ndata: {}\n\n",
            b"data: {\ndata: }\n\n",
            b"data: {}\r\n\ndata: {}\n\n",
            b"data: {}\rdata: {}\n\n",
            b"data: {}\n\nevent: error\ndata: {}\n\n",
            b"id: {}\n\n",
            b"data: {}\n{}\n\n",
            b"data: {}\n\ndata: {}\n{}\n\n",
        ],
    )
    def test_anything_else(self, block: bytes) -> None:
        assert plain_objects(block) is None
