"""Decodes bytes to events, by the WHATWG rules for event streams.

Pure: no clock, no I/O.

Theory of operation
===================

`EventDecoder` follows the standard exactly, wherever the network cuts the stream. It copies each byte a bounded number of
times: fields are sliced out of the bytes fed, and only a line that was cut is joined. To that end it keeps pieces in lists,
keeps the sums of their lengths, and never searches the same bytes twice.

    feed ──> _normalize_newlines ──> _split_lines ──┬─> _hold        a line whose end has not been received
             BOM off, all ends LF                   ├─> _add_field   a line: data, event, id, retry, or a comment
                                                    └─> _dispatch    a blank line: the event is complete

Limits are checked before bytes are kept, on sums of lengths, so that a server cannot exhaust memory with an endless line
or an endless event. Comments are not kept.

`plain_objects` is a short cut for `decoding`: it recognizes a block that consists of one-line events, as servers nearly
always send them, and extracts their JSON with one call. `end_of_slice` finds the place to cut a large read.

Source: https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
"""

from __future__ import annotations

from typing import NoReturn

import msgspec

from .errors import StreamLimitError

__all__ = ["Event", "EventDecoder"]

_BOM = b"\xef\xbb\xbf"
_DEFAULT_LIMIT = 16 * 1024 * 1024
_DEFAULT_LINE = _DEFAULT_LIMIT + 1024  # the longest event fits on one line, with the name of its field
_DATA = b"data:"
_CR = 0x0D
_COLON = 0x3A
_SPACE = 0x20
_MANY_LINES = 1000  # data lines of one event that are kept as separate objects; further lines are joined
_MANY_ENDS = 64  # a slice with this many CR and LF consists of short lines
_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")
_MAX_NAME = 1024  # bytes that are kept of a name or an id of an event
_MAX_RETRY = 18  # maximum number of digits of a reconnection time
_MAX_IGNORED = 64 * 1024  # bytes that are kept of the ignored lines between two blank lines


class Event(msgspec.Struct, frozen=True, gc=False):
    """One event.

    Attributes:
        data: Payload; several data lines are joined by LF.
        type: Name of the event.
        id: The last id that was received, in this event or before.
    """

    data: bytes
    type: str = "message"
    id: str = ""


class EventDecoder:
    """Incremental decoder of one event stream.

    An event is dispatched as soon as its blank line is received.

    Args:
        max_event_bytes: Maximum number of bytes of data in one event; a security limit. None is no limit.
        max_line_bytes: Maximum number of bytes in one line; a security limit. None is no limit.
        keep_ignored: Whether to return lines that the standard ignores, because they do not begin with a known field: a
            server may write an error into such a line. The ignored lines before a blank line become one event of type "",
            which no other event has. It follows the event that the standard dispatches at this blank line.

    Attributes:
        retry: The reconnection time that the server last asked for, in milliseconds, or None.
        last_event_id: The last id that was received.
        error: The error of a limit that was exceeded, or None.
    """

    def __init__(
        self,
        *,
        max_event_bytes: int | None = _DEFAULT_LIMIT,
        max_line_bytes: int | None = _DEFAULT_LINE,
        keep_ignored: bool = False,
    ) -> None:
        self.max_event_bytes = max_event_bytes
        self.max_line_bytes = max_line_bytes
        self.retry: int | None = None
        self.last_event_id = ""
        self.error: StreamLimitError | None = None
        # The first bytes of the stream, until it is known whether they are a byte order mark; then None. The network may
        # cut the mark as it may cut any other bytes.
        self._start: bytes | None = b""
        # Whether the last byte was a CR. The CR has ended its line; a LF that comes next belongs to it and is skipped. To
        # wait for the next byte before ending the line would hold back the event until the server sends more.
        self._skip_lf = False
        # The line whose end has not been received, and its length.
        self._line: list[bytes] = []
        self._line_size = 0
        # The event whose blank line has not been received. `_blocks` holds its first data lines, joined by the thousand;
        # `_data` holds the lines after them, at least the last one. Lines are joined because a server may send millions of
        # short lines, and an object takes more memory than a short line.
        self._blocks: list[bytes] = []
        self._data: list[bytes] = []
        # Length of all data lines joined by LF; -1 because the first line has no LF before it.
        self._data_size = -1
        self._type = ""
        # The ignored lines since the last blank line, and how many more bytes of such lines are kept.
        self._max_ignored = _MAX_IGNORED if keep_ignored else 0
        self._ignored: list[bytes] = []
        self._ignored_left = self._max_ignored

    @property
    def idle(self) -> bool:
        """Whether the next byte begins an event: nothing of an unfinished event is held."""
        return self._start is None and not (
            self._line or self._data or self._type or self._skip_lf or self._ignored or self.error
        )

    def check_bom(self, data: bytes) -> None:
        """Note that there is no byte order mark, if these first bytes of the stream show it; the caller feeds them next."""
        if self._start == b"" and data[:1] not in (b"", b"\xef"):
            self._start = None

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes off the wire; return the events they complete.

        Args:
            data: Any number of bytes, cut anywhere.

        Raises:
            StreamLimitError: If an event or a line exceeds its limit. Events before it in the same bytes are
                returned first, and the next call raises.
        """
        if self.error is not None:
            raise self.error
        events: list[Event] = []
        try:
            self._split_lines(self._normalize_newlines(data), events)
        except StreamLimitError as error:
            self.error = error
            if not events:
                raise
        return events

    def close(self) -> list[Event]:
        """End the stream; return the last event if it lacks its blank line. The standard would drop it.

        Raises:
            StreamLimitError: If a limit is exceeded, or was exceeded when `feed` still had events to return.
        """
        if self.error is not None:
            raise self.error
        events: list[Event] = []
        self._start = None  # an unfinished byte order mark would be a line without meaning
        try:
            self._split_lines(b"\n", events)  # ends an unfinished line
            self._dispatch(events)
        except StreamLimitError as error:
            self.error = error
            raise
        return events

    def _normalize_newlines(self, data: bytes) -> bytes:
        """Drop the byte order mark, and make every line end with LF."""
        if self._start is not None:
            data = self._start + data
            if _BOM.startswith(data):
                self._start = data
                return b""
            self._start = None
            data = data.removeprefix(_BOM)
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if _CR in data:
            self._skip_lf = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _split_lines(self, data: bytes, events: list[Event]) -> None:
        start = 0
        if self._line:
            end = data.find(b"\n")
            if end < 0:
                self._hold(data)
                return
            self._hold(data[:end])
            line = b"".join(self._line)
            self._line.clear()
            self._line_size = 0
            self._add_field(line, 0, len(line))
            start = end + 1
        while (end := data.find(b"\n", start)) >= 0:
            if end == start:
                self._dispatch(events)
            else:
                self._add_field(data, start, end)
            start = end + 1
        if start < len(data):
            self._hold(data[start:])

    def _hold(self, piece: bytes) -> None:
        """Keep a piece of an unfinished line, unless the line or its event is already too long."""
        self._line_size += len(piece)
        if self.max_line_bytes is not None and self._line_size > self.max_line_bytes:
            self._line.append(piece)
            self._refuse_line(self._head_of_line(), self.max_line_bytes)
        if self._line and self._line[0].startswith(b":"):
            return  # the line is a comment, of which only the length matters
        self._line.append(piece)
        if self.max_event_bytes is None or self._data_size + 1 + self._line_size <= self.max_event_bytes:
            return
        # The line may be data that exceeds the limit of its event; its field name shows whether it is data. A name in
        # several pieces is joined once, so that the next call finds the whole name in the first piece.
        head = self._line[0]
        if len(head) <= len(_DATA):
            head = b"".join(self._line)
            self._line[:] = [head]
        if head.startswith(_DATA):
            self._check_event(self._line_size - len(_DATA) - (head[len(_DATA) : len(_DATA) + 1] == b" "))

    def _add_field(self, line: bytes, start: int, end: int) -> None:
        """Interpret one line, given as a range of the fed bytes, so that data is sliced out without copying the line."""
        if self.max_line_bytes is not None and end - start > self.max_line_bytes:
            self._refuse_line(line[start : start + len(_DATA) + 1], self.max_line_bytes)
        if line.startswith(_DATA, start, end):
            start += len(_DATA)
            if start < end and line[start] == _SPACE:
                start += 1
            self._add_data(line[start:end])
            return
        if line[start] == _COLON:
            return  # the line is a comment
        name, _, value = line[start:end].partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._add_data(b"")  # a line `data` without a colon is empty data
        elif name == b"event":
            self._type = value[:_MAX_NAME].decode("utf-8", "replace")
        elif name == b"id":
            if b"\0" not in value:
                self.last_event_id = value[:_MAX_NAME].decode("utf-8", "replace")
        elif name == b"retry":
            if value.isdigit() and len(value) <= _MAX_RETRY:
                self.retry = int(value)
        elif self._ignored_left > 0:
            self._ignored.append(line[start : min(end, start + self._ignored_left)])
            self._ignored_left -= end - start + 1

    def _add_data(self, value: bytes) -> None:
        self._data_size += len(value) + 1
        if self.max_event_bytes is not None and self._data_size > self.max_event_bytes:
            self._refuse_event(self.max_event_bytes)
        self._data.append(value)
        if len(self._data) > _MANY_LINES:
            self._blocks.append(b"\n".join(self._data[:-1]))
            del self._data[:-1]

    def _dispatch(self, events: list[Event]) -> None:
        if self._data:
            data = b"\n".join(self._blocks + self._data)
            self._blocks.clear()
            events.append(Event(data, self._type or "message", self.last_event_id))
            self._data.clear()
            self._data_size = -1
        if self._ignored:
            events.append(Event(b"\n".join(self._ignored), "", self.last_event_id))
            self._ignored.clear()
            self._ignored_left = self._max_ignored
        self._type = ""

    def _head_of_line(self) -> bytes:
        """Return as many first bytes of the unfinished line as show its field name; the whole line may be large."""
        head = b""
        for piece in self._line:
            head += piece[: len(_DATA) + 1]
            if len(head) > len(_DATA):
                break
        return head[: len(_DATA) + 1]

    def _refuse_line(self, head: bytes, limit: int) -> NoReturn:
        """Raise the error of a line that is too long.

        If the data of the line exceeds the event limit before the line exceeds the line limit, the error is that of the
        event limit, so that the error does not depend on where the network cuts.
        """
        if head[:limit].startswith(_DATA):
            self._check_event(limit - len(_DATA) - (head[len(_DATA) : limit] == b" "))
        raise StreamLimitError(
            f"a line of the stream has more than max_line_bytes={limit} bytes; "
            "raise Limits(line_bytes=...) if you trust the server"
        )

    def _check_event(self, size: int) -> None:
        """Refuse an unfinished line if its ``size`` bytes of data make the event exceed its limit."""
        if self.max_event_bytes is not None and self._data_size + 1 + size > self.max_event_bytes:
            self._refuse_event(self.max_event_bytes)

    @staticmethod
    def _refuse_event(limit: int) -> NoReturn:
        raise StreamLimitError(
            f"an event of the stream has more than max_event_bytes={limit} bytes; "
            "raise Limits(event_bytes=...) if you trust the server"
        )


def plain_objects(block: bytes) -> tuple[memoryview, int] | None:
    r"""Extract the JSON objects of a block that consists of one-line events.

    The block is plain if it begins with ``data: {``, ends with ``}\n\n``, and has no line end but the two LF between
    ``}`` and ``data: {``. Then each event is one line, and no line holds anything but its payload.

    The caller decodes all payloads with one call and compares the number of values with the number of events. Equal
    numbers prove that each payload is one value. No value can reach from one event into the next: the bytes put between
    payloads are white space with a CR in it, which a JSON string cannot contain, and inside an object or array ``{`` never
    follows ``}`` without a comma. So each event has at least one value, and if the numbers are equal, exactly one.

    Args:
        block: Bytes that begin and end at an event's boundary.

    Returns:
        The payloads with white space between them, and their number; None if the block is not plain. A single payload is
        not copied.
    """
    if not (block.startswith(b"data: {") and block.endswith(b"}\n\n")) or _CR in block:
        return None
    end = len(block) - 2
    if block.find(b"\n") == end:
        return memoryview(block)[6:end], 1
    # Both strings have the same length: `replace` then copies the block once and overwrites in place, which is faster
    # than a replacement that moves bytes.
    payloads = block.replace(b"}\n\ndata: {", b"}\r       {")
    if payloads.find(b"\n") != end:
        return None
    # Counting a single byte with `count` was slower than removing the byte and comparing lengths.
    return memoryview(payloads)[6:end], (len(block) - len(block.replace(b"\n", b""))) // 2


def end_of_slice(data: bytes, start: int, stop: int) -> int:
    """Return where to end a slice of a stream, so that it holds whole events if possible.

    Args:
        data: Bytes of a stream.
        start: Where the slice begins.
        stop: Where it should end at the latest; less than the length of the data.
    """
    end = data.rfind(b"\n\n", start, stop)
    if end >= 0:
        return end + 2
    # Many line ends mean short events with CR, or short lines without an event. Any line end will do, since such bytes take
    # the tolerant path anyway, and a larger slice would keep the event loop waiting.
    if data.count(b"\n", start, stop) + data.count(b"\r", start, stop) >= _MANY_ENDS:
        end = data.rfind(b"\r\n\r\n", start, stop)
        if end >= 0:
            return end + 4
        return max(data.rfind(b"\n", start, stop), data.rfind(b"\r", start, stop)) + 1
    # Few line ends mean one large event, which is best decoded in one piece.
    ends = [data.find(blank, stop - len(blank) + 1) + len(blank) for blank in _BLANK_LINES]
    return min((end for end in ends if end > stop), default=len(data))
