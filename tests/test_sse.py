"""`EventDecoder` follows the WHATWG rules for event streams, wherever the network cuts."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from event_decoding import FRAGMENTS, decode_events
from feeding import feedings, one_by_one
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gradient_async.errors import StreamLimitError
from gradient_async.sse import Event, EventDecoder

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
        assert (expected, None) == decode_events(EventDecoder(), pieces)


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
            assert ([], None) == decode_events(decoder, pieces)
            assert expected == decoder.retry

    def test_bad_one_leaves_the_last(self) -> None:
        decoder = EventDecoder()
        decoder.feed(b"retry: 10\nretry: x\n")
        assert 10 == decoder.retry


def test_last_event_id_is_known_before_its_event() -> None:
    decoder = EventDecoder()
    assert [] == decoder.feed(b"id: 5\n")
    assert "5" == decoder.last_event_id


def test_ignored_lines_wait_for_their_blank_line() -> None:
    decoder = EventDecoder(keep_ignored=True)
    decoder.feed(b"x\n")
    assert not decoder.idle
    decoder.feed(b"\n")
    assert decoder.idle


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
        found, error = decode_events(decoder, pieces)
        assert (events, None) == ([(e.data.decode("utf-8", "replace"), e.type, e.id) for e in found], error)
        assert retry == decoder.retry


IGNORED: dict[str, tuple[bytes, list[Event]]] = {
    "one line": (b"foo: 1\n\n", [Event(b"foo: 1", "")]),
    "behind its event": (b"data: a\nfoo: 1\n\ndata: b\n\n", [Event(b"a"), Event(b"foo: 1", ""), Event(b"b")]),
    "behind its event, though before its data": (b"foo\ndata: a\n\n", [Event(b"a"), Event(b"foo", "")]),
    "lines up to a blank one": (b'{\r\n "a": 1\r}\n\r\n<p>\n\n', [Event(b'{\n "a": 1\n}', ""), Event(b"<p>", "")]),
    "with the last id": (b"id: 7\n{}\n\n", [Event(b"{}", "", "7")]),
    "nothing else": (b"\n\n: c\nevent: x\nid: 1\nid: a\0\nretry: x\nretry: 5\ndata\n\n", [Event(b"", "x", "1")]),
}  # fmt: skip


@pytest.mark.parametrize(("wire", "events"), IGNORED.values(), ids=IGNORED)
def test_lines_that_the_standard_ignores_are_kept_if_wanted(wire: bytes, events: list[Event]) -> None:
    """As events of a type that no other has, wherever the network cuts; by default they are ignored."""
    for pieces in feedings(wire):
        decoder, usual = EventDecoder(keep_ignored=True), EventDecoder()
        assert events == [event for piece in pieces for event in decoder.feed(piece)]
        assert [event for event in events if event.type] == [
            event for piece in pieces for event in usual.feed(piece)
        ]
        assert decoder.idle
        assert [] == decoder.close()


def test_ignored_lines_are_kept_at_the_end_of_the_stream() -> None:
    decoder = EventDecoder(keep_ignored=True)
    assert [] == decoder.feed(b"data: a\nfoo: 1\nba")
    assert not decoder.idle
    assert [Event(b"a"), Event(b"foo: 1\nba", "")] == decoder.close()
    assert decoder.idle


def test_ignored_lines_are_bounded() -> None:
    """Of each block 64 KiB are kept, however long or short its lines are."""
    decoder = EventDecoder(keep_ignored=True)
    (event,) = decoder.feed(b"x" * 100_000 + b"\n" + b"y\n\n")
    assert b"x" * 65_536 == event.data
    (event,) = decoder.feed(b"z\n" * 100_000 + b"\n")
    assert b"\n".join([b"z"] * 32_768) == event.data
    (event,) = decoder.feed(b"z\n\n")
    assert b"z" == event.data
