"""`EventDecoder` follows the WHATWG rules for event streams, wherever the network cuts."""

from __future__ import annotations

import re
import sys
from itertools import pairwise
from types import FrameType
from typing import Any

import pytest
from feeding import feedings, one_by_one
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradient_async.errors import StreamLimitError
from gradient_async.sse import Event, EventDecoder, plain_lines


def run(decoder: EventDecoder, pieces: list[bytes]) -> tuple[list[Event], str | None]:
    """Feed and close; return the events, and the words of the error if one ended them."""
    events: list[Event] = []
    try:
        for piece in pieces:
            events += decoder.feed(piece)
        events += decoder.close()
    except StreamLimitError as error:
        return events, error.message
    return events, None


CASES: dict[str, tuple[bytes, list[Event]]] = {
    "nothing": (b"", []),
    "one event": (b"data: a\n\n", [Event(b"a")]),
    "several events": (b"data: a\n\ndata: b\n\n", [Event(b"a"), Event(b"b")]),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", [Event(b"a"), Event(b"b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [Event(b"a"), Event(b"b")]),
    "line ends mixed": (b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\r", [Event(b"a\nb\nc"), Event(b"d")]),
    "LF after CR belongs to it": (b"data: a\r\ndata: b\r\n\r\n", [Event(b"a\nb")]),
    "LF CR is two line ends": (b"data: a\n\rdata: b\n\n", [Event(b"a"), Event(b"b")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [Event(b"a")]),
    "only one byte order mark is dropped": (b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n", [Event(b"b")]),
    "byte order mark later": (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [Event(b"a")]),
    "half a byte order mark": (b"\xef\xbbdata: a\n\ndata: b\n\n", [Event(b"b")]),
    "byte order mark alone": (b"\xef\xbb\xbf", []),
    "half a byte order mark alone": (b"\xef\xbb", []),
    "comment": (b": keep-alive\n\ndata: a\n: between\n\n", [Event(b"a")]),
    "empty comment": (b":\n\n:\ndata: a\n\n", [Event(b"a")]),
    "several lines": (b"data: a\ndata: b\ndata\ndata:\ndata: c\n\n", [Event(b"a\nb\n\n\nc")]),
    "no space": (b"data:a\n\n", [Event(b"a")]),
    "only one space is dropped": (b"data:  a \n\n", [Event(b" a ")]),
    "a tab is no space": (b"data:\ta\n\n", [Event(b"\ta")]),
    "colons in the value": (b"data: a: b:c\n\n", [Event(b"a: b:c")]),
    "field without a colon": (b"data\n\n", [Event(b"")]),
    "empty data": (b"data:\n\ndata: \n\n", [Event(b""), Event(b"")]),
    "two empty data lines": (b"data\ndata\n\n", [Event(b"\n")]),
    "no data, no event": (b"event: ping\nid: 7\nretry: 3000\n\n\n\n", []),
    "event type": (b"event: error\ndata: a\n\n", [Event(b"a", "error")]),
    "last event type counts": (b"event: a\nevent: b\ndata: x\n\n", [Event(b"x", "b")]),
    "event type ends with its event": (b"event: a\ndata: x\n\ndata: y\n\n", [Event(b"x", "a"), Event(b"y")]),
    "event type ends with a block without data": (b"event: ping\n\ndata: y\n\n", [Event(b"y")]),
    "empty event type": (b"event: a\nevent:\ndata: x\n\n", [Event(b"x")]),
    "id persists": (
        b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\n",
        [Event(b"a", id="1"), Event(b"b", id="1"), Event(b"c", id="2")],
    ),
    "empty id resets": (b"id: 1\ndata: a\n\nid\ndata: b\n\n", [Event(b"a", id="1"), Event(b"b")]),
    "id with NUL is ignored": (b"id: 1\ndata: a\n\nid: 2\x00\ndata: b\n\n", [Event(b"a", id="1"), Event(b"b", id="1")]),
    "id after data": (b"data: a\nid: 9\n\n", [Event(b"a", id="9")]),
    "unknown fields": (b"foo: 1\nDATA: 2\ndata : 3\n data: 4\nda\ndata: a\n\n", [Event(b"a")]),
    "names are compared whole": (b"datax: 1\nevents: x\nids: 1\ndata: a\n\n", [Event(b"a")]),
    "text beyond ASCII": ("event: é\nid: ü\ndata: 💡\n\n".encode(), [Event("💡".encode(), "é", "ü")]),
    "bad UTF-8 stays in data": (b"data: \xff\xfe\n\n", [Event(b"\xff\xfe")]),
    "bad UTF-8 elsewhere is replaced": (b"event: \xff\nid: \xff\ndata: a\n\n", [Event(b"a", "\ufffd", "\ufffd")]),
    "NUL in data": (b"data: a\x00b\n\n", [Event(b"a\x00b")]),
    "other line separators are text": ("data: a\x0b\x0c\x85\u2028b\n\n".encode(), [Event("a\x0b\x0c\x85\u2028b".encode())]),
    "no blank line at the end": (b"data: a\n\ndata: b\n", [Event(b"a"), Event(b"b")]),
    "no line end at the end": (b"data: a\n\nevent: x\ndata: b", [Event(b"a"), Event(b"b", "x")]),
    "CR at the end": (b"data: a\r", [Event(b"a")]),
    "CRLF at the end": (b"data: a\r\n", [Event(b"a")]),
    "comment at the end": (b"data: a\n: b", [Event(b"a")]),
    "blank lines first": (b"\n\r\n\rdata: a\n\n", [Event(b"a")]),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "expected"), CASES.values(), ids=CASES)
def test_wherever_it_is_cut(wire: bytes, expected: list[Event]) -> None:
    """Whole, byte by byte and cut once at every position: the events are the same."""
    for pieces in feedings(wire):
        assert (expected, None) == run(EventDecoder(), pieces)


@pytest.mark.parametrize("blank", [b"\n\n", b"\r\n\r", b"\r\r", b"\n\r", b"\r\n\n"])
def test_event_comes_with_its_blank_line(blank: bytes) -> None:
    """An event is there as soon as the blank line is, never a byte later: not even for a LF after CR."""
    decoder = EventDecoder()
    before = [event for piece in one_by_one(b"data: a" + blank[:-1]) for event in decoder.feed(piece)]
    assert [] == before
    assert [Event(b"a")] == decoder.feed(blank[-1:])
    assert [] == decoder.feed(b"\n"), "an LF after it makes no second event"


class TestRetry:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b"retry: 3000", 3000),
            (b"retry:0", 0),
            (b"retry: 007", 7),
            (b"retry: 123456789012345678", 123456789012345678),
            (b"retry: 1234567890123456789", None),
            (b"retry: " + b"9" * 5000, None),
            (b"retry: 3.5", None),
            (b"retry: -1", None),
            (b"retry:  1", None),
            (b"retry: 1s", None),
            (b"retry: \xd9\xa1", None),
            (b"retry:", None),
            (b"retry", None),
        ],
    )
    def test_only_digits(self, line: bytes, expected: int | None) -> None:
        """Anything but ASCII digits is ignored, and so is a number that is no time."""
        for pieces in feedings(line + b"\n") if len(line) < 100 else [[line + b"\n"]]:
            decoder = EventDecoder()
            assert ([], None) == run(decoder, pieces)
            assert expected == decoder.retry

    def test_bad_one_leaves_the_last(self) -> None:
        decoder = EventDecoder()
        decoder.feed(b"retry: 10\nretry: x\n")
        assert 10 == decoder.retry


def test_last_event_id_is_known_before_its_event() -> None:
    decoder = EventDecoder()
    assert [] == decoder.feed(b"id: 5\n")
    assert "5" == decoder.last_event_id


class TestClose:
    def test_gives_the_pending_event_once(self) -> None:
        decoder = EventDecoder()
        assert [] == decoder.feed(b"data: a")
        assert [Event(b"a")] == decoder.close()
        assert [] == decoder.close()

    def test_of_an_empty_stream(self) -> None:
        assert [] == EventDecoder().close()

    def test_nothing_was_fed_but_nothing(self) -> None:
        """Empty reads are no bytes: a byte order mark may still come."""
        decoder = EventDecoder()
        assert [] == decoder.feed(b"")
        assert [] == decoder.feed(b"\xef")
        assert [] == decoder.feed(b"")
        assert [Event(b"a")] == decoder.feed(b"\xbb\xbfdata: a\n\n")

    def test_raises_for_the_last_line(self) -> None:
        """A limit that only the end of the stream shows to be exceeded is told by `close`."""
        decoder = EventDecoder(max_event_bytes=3)
        assert [] == decoder.feed(b"data: ab\ndata")
        with pytest.raises(StreamLimitError) as first:
            decoder.feed(b"\ndata")
            decoder.close()
        with pytest.raises(StreamLimitError) as second:
            decoder.close()
        assert first.value is second.value


EVENT = "an event of the stream has more than max_event_bytes=8 bytes; "
LINE = "a line of the stream has more than max_line_bytes=12 bytes; "


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
            events, error = run(EventDecoder(max_event_bytes=8, max_line_bytes=None), pieces)
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
            events, error = run(EventDecoder(max_event_bytes=None, max_line_bytes=12), pieces)
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
                events, error = run(EventDecoder(max_event_bytes=event, max_line_bytes=line), pieces)
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
        data = b"x" * (16 * 1024 * 1024 - 6)
        assert [Event(data)] == EventDecoder().feed(b"data: " + data + b"\n\n")
        with pytest.raises(StreamLimitError, match="max_line_bytes=16777216"):
            EventDecoder().feed(b"data: " + data + b"x\n\n")

    def test_events_before_it_come_first_and_the_error_stays(self) -> None:
        decoder = EventDecoder(max_event_bytes=8)
        assert [Event(b"a")] == decoder.feed(b"data: a\n\ndata: 123456789\n\ndata: b\n\n")
        for _ in range(2):
            with pytest.raises(
                StreamLimitError, match=r"max_event_bytes=8.*raise Limits\(event_bytes=\.\.\.\)"
            ):
                decoder.feed(b"data: c\n\n")
        with pytest.raises(StreamLimitError):
            decoder.close()
        assert decoder.error is not None
        assert decoder.error.partial is None

    def test_endless_comments_hold_nothing(self) -> None:
        """Comments are dropped as they arrive, even one line of them that never ends."""
        decoder = EventDecoder(max_line_bytes=None)
        for _ in range(1000):
            decoder.feed(b": " + b"x" * 1000)
        for _ in range(1000):
            decoder.feed(b": keep-alive\n")
        assert len(decoder.held()) <= 1002
        assert decoder.feed(b"\ndata: a\n\n") == [Event(b"a")]


ADVICE = {
    name: f"raise Limits({name}=...) if the server is to be trusted" for name in ("event_bytes", "line_bytes")
}


def steps(wire: bytes, size: int) -> int:
    """Return how many lines of code it takes to decode one event in pieces of a size."""
    decoder = EventDecoder()
    ran = 0

    def count(_frame: FrameType, event: str, _arg: object) -> Any:
        nonlocal ran
        ran += event == "line"
        return count

    sys.settrace(count)
    try:
        for at in range(0, len(wire), size):
            decoder.feed(wire[at : at + size])
        decoder.feed(b"\n\n")
    finally:
        sys.settrace(None)
    return ran


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
    assert len(decoder._line) > 10
    assert [Event(b"a", id="12345678901234567890")] == decoder.feed(b"\ndata: a\n\n")


def reference(wire: bytes) -> tuple[list[tuple[str, str, str]], int | None]:
    """Interpret a whole stream as the standard words it, on text; the end completes the last event."""
    text = wire.decode("utf-8", "replace").removeprefix("\ufeff")
    data = kind = last_id = ""
    retry: int | None = None
    events: list[tuple[str, str, str]] = []
    for line in re.split("\r\n|\n|\r", text + "\n\n"):
        if not line:
            if data:
                events.append((data[:-1], kind or "message", last_id))
            data = kind = ""
        elif not line.startswith(":"):
            field, colon, value = line.partition(":")
            if colon and value.startswith(" "):
                value = value[1:]
            if field == "event":
                kind = value
            elif field == "data":
                data += value + "\n"
            elif field == "id" and "\0" not in value:
                last_id = value
            elif field == "retry" and re.fullmatch("[0-9]+", value):
                retry = int(value)
    return events, retry


FRAGMENTS = [
    b"data", b"data:", b"data: ", b"event", b"event: ", b"id", b"id:", b"retry: 5", b"re", b":", b" ", b"\n", b"\n\n",
    b"\r", b"\r\n", b"\r\r", b"\0", b"x", b"42", b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b"\xff", "é💡".encode(),
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=3), max_size=25).map(b"".join),
    st.lists(st.integers(0, 80), max_size=6),
)
@example(b"data: a\r\ndata: b\r\n\r\n", [8])
@example(b"\xef\xbb\xbfdata: a\n\n", [1, 2])
@example(b"id: a\0\nid: b\ndata\n\n", [5])
def test_equals_the_standard(wire: bytes, cuts: list[int]) -> None:
    """Any bytes, cut anywhere, mean what the standard's own steps make of the whole text."""
    events, retry = reference(wire)
    at = [0, *sorted(cuts), len(wire)]
    for pieces in ([wire[a:b] for a, b in pairwise(at)], one_by_one(wire)):
        decoder = EventDecoder()
        found, error = run(decoder, pieces)
        assert (events, None) == ([(e.data.decode("utf-8", "replace"), e.type, e.id) for e in found], error)
        assert retry == decoder.retry


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
        return run(EventDecoder(max_event_bytes=event, max_line_bytes=line), pieces)

    at = [0, *sorted(cuts), len(wire)]
    whole = end([wire])
    assert whole == end(one_by_one(wire))
    assert whole == end([wire[a:b] for a, b in pairwise(at)])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS[:-1]), max_size=20).map(b"".join), st.integers(0, 60))
@example(b"data: a\r\ndata: b\r\n\r\n", 8)
@example(b"event: e\r\ndata: a\r\n\r\n", 9)
def test_held_is_the_unfinished_event(wire: bytes, cut: int) -> None:
    """What is held, and the bytes to come, make a new decoder see the same data and types."""
    first = EventDecoder()
    before = first.feed(wire[:cut])
    second = EventDecoder()
    if cut >= 3:
        second.expect(b"x")
    held = first.held()
    after, _ = run(second, [held, wire[cut:]])
    expected, _ = run(EventDecoder(), [wire])
    assert [(event.data, event.type) for event in expected] == [
        (event.data, event.type) for event in before + after
    ]


class TestIdle:
    """`idle` says that a block of whole events may go round the decoder."""

    def test_begins_with_the_first_byte_looked_at(self) -> None:
        decoder = EventDecoder()
        assert not decoder.idle
        decoder.expect(b"")
        assert not decoder.idle
        decoder.expect(b"\xef\xbb\xbfdata")
        assert not decoder.idle
        decoder.expect(b"data")
        assert decoder.idle

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


class TestPlainLines:
    """A block of nothing but one-line JSON objects becomes newline-delimited JSON; others are left alone."""

    @pytest.mark.parametrize(
        ("block", "expected"),
        [
            (b"data: {}\n\n", (b"{}", 1)),
            (b'data: {"a":1}\n\ndata: {"b":{}}\n\ndata: {}\n\n', (b'{"a":1}\n{"b":{}}\n{}', 3)),
            (b'data: {"a":"data: {"}\n\n', (b'{"a":"data: {"}', 1)),
        ],
    )
    def test_plain(self, block: bytes, expected: tuple[bytes, int]) -> None:
        found = plain_lines(block)
        assert found is not None
        assert expected == (bytes(found[0]), found[1])

    @pytest.mark.parametrize("size", [100, 8 * 1024, 1 << 20])
    def test_one_event_of_any_size(self, size: int) -> None:
        payload = b'{"a":"' + b"x" * size + b'"}'
        found = plain_lines(b"data: " + payload + b"\n\n")
        assert found is not None
        assert (payload, 1) == (bytes(found[0]), found[1])
        assert (size >= 8 * 1024) == isinstance(found[0], memoryview), "large ones are not copied"

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"data: {}",
            b"data: {}\n",
            b"data:{}\n\n",
            b"data: [DONE]\n\n",
            b"data: {}\n\ndata: [DONE]\n\n",
            b": x\n\ndata: {}\n\n",
            b"data: {}\n\n: x\n\ndata: {}\n\n",
            b"data: {}\n\n\ndata: {}\n\n",
            b"data: {}\ndata: {}\n\n",
            b"data: {}\nid: 1\n\ndata: {}\n\n",
            b"data: {\ndata: }\n\n",
            b"data: {}\r\n\ndata: {}\n\n",
            b"data: {}\rdata: {}\n\n",
            b"data: {}\n\nevent: error\ndata: {}\n\n",
            b"data: {} \n\ndata: {}\n\n",
            b"id: {}\n\n",
            b"data: {}\n\ndata: {x\n\n",
        ],
    )
    def test_anything_else(self, block: bytes) -> None:
        assert plain_lines(block) is None
